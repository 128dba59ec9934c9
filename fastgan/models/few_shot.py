"""Networks for a hundred images: skip-layer excitation, and a discriminator that rebuilds.

Source: Liu, Zhu, Song, Elgammal 2021, "Towards Faster and Stabilized GAN Training for High-fidelity
Few-shot Image Synthesis" (arXiv:2101.04775), section 3. Where the paper doubles a map's sides by
repeating pixels and a 3×3 convolution, here stands a transposed 4×4 convolution of stride 2, of
which that is a special case and which takes 4/9 of its products; its GLU is an option beside
LeakyReLU, which runs fused. The reconstruction is compared by the mean absolute error.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_choice, check_int
from fastgan.nn import BatchNormAct2d, FusedSequential, chain

from ._base import Discriminator, Generator, ImageSize, halved
from ._blocks import LatentProjection, conv_block
from ._registry import register_model
from .init import init_weights
from .spectral import spectral_norm

Activation = Literal["leaky_relu", "glu"]
_SLOPE = 0.2
_REACH = 4  # doublings from a map to the one that it excites
_REBUILT = 3  # doublings of a decoder, where the image has as many


class SkipLayerExcitation(nn.Module):
    """high · g(low): a weight for each channel of a large map, in [0, 1], from a small one.

    g is the mean of low over a grid of `base` cells, a convolution to one position, LeakyReLU, a
    1×1 convolution and a sigmoid.

    Args:
        low, high: channels of the two maps.
        base: (height, width) of the grid.
        halvings: how often low is halved to it.
    """

    def __init__(self, low: int, high: int, base: tuple[int, int], halvings: int) -> None:
        super().__init__()
        self.cell = 1 << halvings
        self.gate = FusedSequential(
            nn.Conv2d(low, high, base),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(high, high, 1),
            nn.Sigmoid(),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return high * self.gate(F.avg_pool2d(low, self.cell) if self.cell > 1 else low)


@register_model("few_shot_generator")
class FewShotGenerator(Generator):
    """z [N, latent_dim] → images [N, channels, H, W] in [-1, 1], channels-last.

    From the smallest map on the sides double by transposed convolutions, each followed by batch
    norm and an activation; a map is excited by the one of a sixteenth of its sides.

    Args:
        latent_dim: length of the latent vector.
        image_size: side of a square image or (H, W): multiples of 2^k, the shorter one 4 to 7 times
            2^k, k ≥ 1.
        channels: colour channels of the image.
        width: channels of the map of the image's size; doubled with each halving of the sides.
        max_width: no map has more channels.
        activation: "leaky_relu", which runs fused with the norm, or "glu", the paper's, of twice as
            many channels.

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape.
    """

    def __init__(
        self,
        latent_dim: int = 256,
        image_size: ImageSize = 256,
        channels: int = 3,
        width: int = 32,
        *,
        max_width: int = 512,
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        check_choice("activation", activation, ("leaky_relu", "glu"))
        base, doublings = halved(image_size)
        widths = _widths(width, max_width, doublings + 1)[::-1]
        twice = 2 if activation == "glu" else 1

        def block(conv: nn.ConvTranspose2d) -> nn.Sequential:
            if activation == "leaky_relu":
                return conv_block(conv, batch_norm=True, negative_slope=_SLOPE)
            norm = BatchNormAct2d(conv.out_channels, activation="identity")
            return nn.Sequential(conv, norm, nn.GLU(1))

        self.project = block(LatentProjection(latent_dim, twice * widths[0], base, bias=False))
        self.blocks = nn.ModuleList(
            block(nn.ConvTranspose2d(c_in, twice * c_out, 4, 2, 1, bias=False))
            for c_in, c_out in pairwise(widths)
        )
        self.reach = min(_REACH, doublings)
        self.excitations = nn.ModuleList(
            SkipLayerExcitation(low, high, base, i)
            for i, (low, high) in enumerate(zip(widths, widths[self.reach :], strict=False))
        )
        self.output = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.tanh = nn.Tanh()
        init_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        x = chain(self.latent_vectors(z), project=self.project)
        maps = [x]
        for i, block in enumerate(self.blocks, 1):
            x = chain(x, block=block)
            if i >= self.reach:
                x = self.excitations[i - self.reach](maps[i - self.reach], x)
            maps.append(x)
        return chain(x, output=self.output, tanh=self.tanh)


class DownBlock(nn.Module):
    """The mean of two ways to half the sides: convolutions 4×4 of stride 2 and 3×3, and a mean over
    2×2 before a convolution 1×1; each convolution is followed by batch norm and LeakyReLU.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.main = FusedSequential(
            _block(nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False)),
            _block(nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)),
        )
        self.direct = FusedSequential(
            nn.AvgPool2d(2), _block(nn.Conv2d(c_in, c_out, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.direct(x)) / 2


def _block(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return conv_block(conv, batch_norm=True, negative_slope=_SLOPE)


def _widths(width: int, max_width: int, count: int) -> list[int]:
    check_int("width", width, 1)
    check_int("max_width", max_width, 1)
    return [min(width << i, max_width) for i in range(count)]


def _decoder(c_in: int, channels: int, doublings: int) -> FusedSequential:
    """[N, c_in, h, w] to images of 2^doublings times the sides; of any values, as those that are
    augmented leave [-1, 1]."""
    widths = [max(c_in >> i, channels) for i in range(doublings + 1)]
    up = [_block(nn.ConvTranspose2d(*pair, 4, 2, 1, bias=False)) for pair in pairwise(widths)]
    return FusedSequential(*up, nn.Conv2d(widths[-1], channels, 3, padding=1))


@register_model("few_shot_discriminator")
class FewShotDiscriminator(Discriminator):
    """Images [N, channels, H, W] → logits [N, h, w], one a part of the image.

    Decoders rebuild real images of the two smallest maps, so that these have to hold what the
    images do: `forward_with_reconstruction`, which training with a `reconstruction_weight` calls.

    Args:
        image_size: side of a square image or (H, W): multiples of 2^k, the shorter one 8 to 15
            times 2^k, k ≥ 2.
        channels: colour channels of the image.
        width: channels of the map of half the image's sides; doubled with each halving.
        max_width: no map has more channels.
        spectral: spectral norm of all weights but the decoders'.

    Raises ValueError for arguments that cannot be built, and for images of another shape.
    """

    def __init__(
        self,
        image_size: ImageSize = 256,
        channels: int = 3,
        width: int = 32,
        *,
        max_width: int = 512,
        spectral: bool = True,
    ) -> None:
        super().__init__(image_size, channels)
        self.base, halvings = halved(image_size, 8)
        if halvings < 2:
            raise ValueError(
                f"image_size must have sides of at least 32, got {image_size!r}: the two smallest "
                "maps are a quarter of the sides and less"
            )
        widths = _widths(width, max_width, halvings)
        first = nn.Conv2d(channels, widths[0], 4, 2, 1)
        self.input = conv_block(first, batch_norm=False, negative_slope=_SLOPE)
        self.blocks = nn.ModuleList(DownBlock(*pair) for pair in pairwise(widths))
        self.output = FusedSequential(
            _block(nn.Conv2d(widths[-1], widths[-1], 1, bias=False)), nn.Conv2d(widths[-1], 1, 4)
        )
        # Of the image at 1 / cell of its sides, and of a part of half its sides at twice that.
        doublings = min(_REBUILT, halvings - 1)
        self.cell = 1 << (halvings - doublings)
        self.whole = _decoder(widths[-1], channels, doublings)
        self.part = _decoder(widths[-2], channels, doublings)
        init_weights(self)
        if spectral:
            for part in (self.input, self.blocks, self.output):
                spectral_norm(part)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self._maps(images)[-1]).squeeze(1)

    def forward_with_reconstruction(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of images, and how far they are from what the decoders make of their maps: the
        mean absolute error of the whole, and of a part of half the sides at a random place that is
        the same for all images, added up: a scalar."""
        *_, before, last = self._maps(images)
        logits = self.output(last).squeeze(1)
        (h, w), scale = self.base, images.shape[2] // before.shape[2]
        # Drawn on the device: nothing of a step waits for the host.
        y, x = (torch.randint(0, n + 1, (1,), device=images.device) for n in (h, w))
        some = _cut(before, y, x, h, w)
        seen = _cut(images, y * scale, x * scale, h * scale, w * scale)
        pairs = (self.whole(last), images, self.cell), (self.part(some), seen, self.cell // 2)
        losses = [(made - F.avg_pool2d(real, cell)).abs().mean() for made, real, cell in pairs]
        return logits, losses[0] + losses[1]

    def _maps(self, images: Tensor) -> list[Tensor]:
        x = self.check_images(images).to(memory_format=torch.channels_last)
        maps = [chain(x, input=self.input)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


def _cut(x: Tensor, y0: Tensor, x0: Tensor, height: int, width: int) -> Tensor:
    """[N, C, height, width] of x from row y0 and column x0 on, int64 [1] each."""
    rows = y0 + torch.arange(height, device=x.device)
    return x.index_select(2, rows).index_select(3, x0 + torch.arange(width, device=x.device))
