"""DCGANs of volumes [N, C, D, H, W], with numbers as conditions where they are asked for.

Sources: Wu et al. 2016, "Learning a Probabilistic Latent Space of Object Shapes via 3D
Generative-Adversarial Modeling" (arXiv:1610.07584), for the networks; Paganini, de Oliveira,
Nachman 2018, "CaloGAN" (arXiv:1712.10321), for the energy as a condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.nn import chain

from ._base import Discriminator, Generator, slope
from ._blocks import conv_block
from ._registry import register_model
from .init import init_weights
from .spectral import spectral_norm

Norm = Literal["batch", "spectral", "none"]
Volume = Sequence[int]


def _plan(image_size: Volume, width: int) -> tuple[tuple[int, int, int], list[int]]:
    """The smallest map's sides, and the channels from the largest map to the smallest."""
    shortest = min(image_size) if len(image_size) == 3 else 0
    halvings = max(1, (shortest // 4).bit_length() - 1)
    if shortest < 8 or any(side % (1 << halvings) for side in image_size):
        raise ValueError(
            f"image_size must be (D, H, W), the shortest 8 at least, multiples of 2^k where that "
            f"is 4 to 7 times 2^k (such as 16x32x32), got {tuple(image_size)}"
        )
    depth, height, across = (side >> halvings for side in image_size)
    check_int("width", width, 1)
    return (depth, height, across), [width << i for i in range(halvings)]


@register_model("volume_generator")
class VolumeGenerator(Generator):
    """z [N, latent_dim], and conditions [N, conditions] where there are some → volumes
    [N, channels, D, H, W] in [-1, 1].

    Args:
        image_size: (D, H, W).
        width: channels of the map of half the sides; doubles with each halving.
        conditions: numbers that a volume is drawn for, each of about -1 to 1.
        negative_slope: of the LeakyReLU; 0 is ReLU.

    Raises ValueError for arguments that cannot be built, and in `forward` for other shapes.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        image_size: Volume = (16, 16, 16),
        channels: int = 1,
        width: int = 32,
        *,
        conditions: int = 0,
        negative_slope: float = 0.0,
    ) -> None:
        super().__init__(latent_dim, tuple(image_size), channels)
        self.conditions = check_int("conditions", conditions, 0)
        base, widths = _plan(image_size, width)
        widths.reverse()

        def block(c_in: int, c_out: int, *geometry: int | tuple[int, ...]) -> nn.Sequential:
            conv = nn.ConvTranspose3d(c_in, c_out, *geometry, bias=False)  # type: ignore[arg-type, misc]
            return conv_block(
                conv, batch_norm=True, negative_slope=slope("negative_slope", negative_slope)
            )

        self.project = block(latent_dim + conditions, widths[0], base)
        self.blocks = nn.Sequential(*(block(a, b, 4, 2, 1) for a, b in pairwise(widths)))
        self.output = nn.ConvTranspose3d(widths[-1], channels, 4, 2, 1)
        self.tanh = nn.Tanh()
        init_weights(self)

    def forward(self, z: Tensor, conditions: Tensor | None = None) -> Tensor:
        z = self.latent_vectors(z)
        if self.conditions:
            z = torch.cat([z, check_conditions(conditions, len(z), self.conditions)], 1)
        return chain(
            z[..., None, None, None],
            project=self.project,
            blocks=self.blocks,
            output=self.output,
            tanh=self.tanh,
        )

    def pictures(self, volumes: Tensor) -> Tensor:
        """Volumes seen from the side, [N, channels, D, W]: the brightest cell on each way."""
        return volumes.amax(3)

    def default_conditions(self, count: int) -> Tensor | None:
        """[count, conditions] to draw where none are asked for: evenly spaced over -1 to 1."""
        if not self.conditions:
            return None
        return torch.linspace(-1, 1, count)[:, None].expand(-1, self.conditions)


@register_model("video_generator")
class VideoGenerator(VolumeGenerator):
    """A VolumeGenerator of films [N, channels, T, H, W]."""

    def pictures(self, volumes: Tensor) -> Tensor:
        """Every other frame of films, side by side: [N, channels, H, T / 2 · W]."""
        return volumes[:, :, ::2].permute(0, 1, 3, 2, 4).flatten(3)


@register_model("volume_discriminator")
class VolumeDiscriminator(Discriminator):
    """Volumes [N, channels, D, H, W], and conditions [N, conditions] where there are some → logits
    [N].

    A condition is a channel more, of one value. With `sums`, the sums of the slices' (x + 1)²,
    which are the energies of a shower's layers, go through a small network of their own to the
    logit: what convolutions see of a whole is vague.

    Args:
        image_size, channels, width, conditions: as in the generator.
        norm: "batch", "spectral" (spectral norm of all weights) or "none".
        negative_slope: of the LeakyReLU.

    Raises ValueError for arguments that cannot be built, and in `forward` for other shapes.
    """

    def __init__(
        self,
        image_size: Volume = (16, 16, 16),
        channels: int = 1,
        width: int = 32,
        *,
        conditions: int = 0,
        norm: Norm = "batch",
        negative_slope: float = 0.2,
        sums: bool = False,
    ) -> None:
        super().__init__(tuple(image_size), channels)
        self.conditions = check_int("conditions", conditions, 0)
        if norm not in ("batch", "spectral", "none"):
            raise ValueError(f"norm must be 'batch', 'spectral' or 'none', got {norm!r}")
        base, widths = _plan(image_size, width)
        negative_slope = slope("negative_slope", negative_slope)

        def block(c_in: int, c_out: int, batch_norm: bool) -> nn.Sequential:
            conv = nn.Conv3d(c_in, c_out, 4, 2, 1, bias=not batch_norm)
            return conv_block(conv, batch_norm=batch_norm, negative_slope=negative_slope)

        first = block(channels + conditions, widths[0], False)
        others = (block(a, b, norm == "batch") for a, b in pairwise(widths))
        self.blocks = nn.Sequential(first, *others)
        self.output = nn.Conv3d(widths[-1], 1, base)
        self.sums: nn.Sequential | None = None
        if sums:
            depth = self.item_shape[1]
            self.sums = nn.Sequential(
                nn.Linear(depth * channels + conditions, 64),
                nn.LeakyReLU(negative_slope),
                nn.Linear(64, 1),
            )
        init_weights(self)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, volumes: Tensor, conditions: Tensor | None = None) -> Tensor:
        x = self.check_images(volumes)
        given = x.new_zeros(len(x), 0)
        if self.conditions:
            given = check_conditions(conditions, len(x), self.conditions)
        planes = given[..., None, None, None].expand(-1, -1, *x.shape[2:])
        joined = torch.cat([x, planes], 1).contiguous(memory_format=torch.channels_last_3d)
        logits = chain(joined, blocks=self.blocks, output=self.output).flatten()
        if self.sums is None:
            return logits
        layers = (x + 1).square().sum((3, 4)).flatten(1)
        return logits + cast(Tensor, self.sums(torch.cat([layers, given], 1))).flatten()


def check_conditions(conditions: Tensor | None, count: int, width: int) -> Tensor:
    """`conditions` if they are floating point [count, width], else ValueError."""
    right = conditions is not None and conditions.shape == (count, width)
    if conditions is None or not right or not conditions.is_floating_point():
        got = "None" if conditions is None else f"{conditions.dtype} of {list(conditions.shape)}"
        raise ValueError(f"conditions must be floating point [{count}, {width}], got {got}")
    return conditions
