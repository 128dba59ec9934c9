"""Residual networks with spectral norm, self-attention and classes.

Sources: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks"
(arXiv:1802.05957), appendix B.4, for the blocks; Miyato, Koyama 2018, "cGANs with Projection
Discriminator" (arXiv:1802.05637), for classes; Zhang et al. 2019, "Self-Attention Generative
Adversarial Networks" (arXiv:1805.08318), for attention.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fastgan.checks import check_int
from fastgan.nn import BatchNormAct2d, chain

from ._base import Discriminator, Generator, ImageSize, check_labels
from ._blocks import LatentProjection
from ._registry import register_model
from .dcgan import _plan
from .init import initialize
from .spectral import spectral_norm


class ClassBatchNormAct2d(nn.Module):
    """Batch norm → ReLU of [N, C, H, W] with a weight and a bias for each class.

    Source: Dumoulin et al. 2017, de Vries et al. 2017 (conditional batch norm).
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.norm = BatchNormAct2d(num_features, affine=False, activation="identity")
        self.weight = nn.Embedding(num_classes, num_features)
        self.bias = nn.Embedding(num_classes, num_features)
        nn.init.ones_(self.weight.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        weight, bias = (e(labels)[:, :, None, None] for e in (self.weight, self.bias))
        return F.relu(torch.addcmul(bias, self.norm(x), weight))


class SelfAttention(nn.Module):
    """x + γ · attention over all positions of x [N, C, H, W]; γ starts at 0.

    1×1 convolutions to C / 8 for queries and keys and C / 2 for values, as in the authors' code,
    whose keys and values are max-pooled to half the side. ValueError if C is not a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 8:
            raise ValueError(f"attention needs a multiple of 8 channels, got {channels}")
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)
        key, value = (F.max_pool2d(part(x), 2).flatten(2) for part in (self.key, self.value))
        # Not scaled_dot_product_attention: its fused forms cannot be differentiated twice.
        share = (query.transpose(1, 2) @ key).softmax(2)
        seen = (value @ share.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(seen.contiguous(memory_format=torch.channels_last))


class UpBlock(nn.Module):
    """norm → ReLU → ×2 → conv3 → norm → ReLU → conv3, and ×2 → conv1 beside it."""

    def __init__(self, c_in: int, c_out: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = _norm(c_in, num_classes)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = _norm(c_out, num_classes)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        up = F.interpolate(_normed(self.norm1, x, labels), scale_factor=2.0)
        h = self.conv1(up)
        if labels is None:
            h = chain(h, norm=self.norm2, conv=self.conv2)
        else:
            h = self.conv2(self.norm2(h, labels))
        # A 1×1 convolution and repeating pixels commute.
        return h + F.interpolate(self.skip(x), scale_factor=2.0)


class DownBlock(nn.Module):
    """ReLU → conv3 → ReLU → conv3 (→ mean of 2×2), and conv1 (→ mean) beside it.

    The first block of a network has no ReLU in front: its input is the image.
    """

    def __init__(self, c_in: int, c_out: int, *, first: bool = False, down: bool = True) -> None:
        super().__init__()
        self.first, self.down = first, down
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = chain(x if self.first else F.relu(x), conv1=self.conv1, act=self.act, conv2=self.conv2)
        # A 1×1 convolution and a mean commute; the mean first is the cheaper order.
        skipped = F.avg_pool2d(x, 2) if self.down else x
        return (F.avg_pool2d(h, 2) if self.down else h) + self.skip(skipped)


def _norm(channels: int, num_classes: int) -> nn.Module:
    if num_classes:
        return ClassBatchNormAct2d(channels, num_classes)
    return BatchNormAct2d(channels, activation="relu")


def _normed(norm: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    return norm(x) if labels is None else norm(x, labels)


def _attention_layers(attention: int, heights: list[int], channels: list[int]) -> nn.ModuleDict:
    """An attention layer after the block whose map has that height, by the block's number."""
    if not attention:
        return nn.ModuleDict()
    if attention not in heights:
        raise ValueError(
            "attention must be 0 or the height of a feature map, "
            f"{' or '.join(map(str, heights))}, got {attention!r}"
        )
    at = heights.index(attention)
    return nn.ModuleDict({str(at): SelfAttention(channels[at])})


def _classes(num_classes: int) -> int:
    return check_int("num_classes", num_classes, 1) if num_classes else 0


@register_model("resnet_generator")
class ResNetGenerator(Generator):
    """z [N, latent_dim] → images [N, channels, H, W] in [-1, 1], channels-last.

    Args:
        latent_dim: length of the latent vector.
        image_size: side of a square image or (H, W): multiples of 2^k, the shorter one 4 to 7 times
            2^k, k ≥ 1.
        channels: colour channels of the image.
        width: channels of the largest feature maps; doubled with each halving of the side.
        max_width: no feature map has more channels.
        num_classes: with more than 0 it takes labels, int64 [N], too: batch norm has a weight and
            a bias for each class.
        attention: height of the feature map that gets self-attention; 0: none.
        spectral: spectral norm of all convolutions and linear layers, as SAGAN has it.

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape
    or missing labels.
    """

    def __init__(
        self,
        latent_dim: int = 128,
        image_size: ImageSize = 32,
        channels: int = 3,
        width: int = 64,
        *,
        max_width: int = 1024,
        num_classes: int = 0,
        attention: int = 0,
        spectral: bool = False,
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        self.num_classes = _classes(num_classes)
        base, widths = _plan(image_size, width, max_width)
        widths.reverse()
        heights = [base[0] << (i + 1) for i in range(len(widths))]
        self.project = LatentProjection(latent_dim, widths[0], base, bias=True)
        pairs = list(pairwise([*widths, widths[-1]]))
        self.blocks = nn.ModuleList(UpBlock(*pair, self.num_classes) for pair in pairs)
        self.attention = _attention_layers(attention, heights, [c_out for _, c_out in pairs])
        # Labels have done their part where the last map is normalised.
        self.norm = BatchNormAct2d(widths[-1], activation="relu")
        self.output = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.tanh = nn.Tanh()
        initialize(self, "xavier_uniform")
        if spectral:
            spectral_norm(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.project(self.latent_vectors(z))
        labels = check_labels(labels, len(x)) if self.num_classes else None
        for i, block in enumerate(self.blocks):
            x = block(x, labels)
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        return chain(x, norm=self.norm, output=self.output, tanh=self.tanh)


@register_model("resnet_discriminator")
class ResNetDiscriminator(Discriminator):
    """Images [N, channels, H, W] → logits [N].

    Residual blocks, the sum over positions, one dense unit. With classes the logit has the inner
    product of that sum and a learned vector of the label added (projection).

    Args:
        image_size, channels, width, max_width, num_classes, attention: as the generator's; width
            is of half the image's side.
        spectral: spectral norm of all weights, the label's vectors included.

    Raises ValueError for arguments that cannot be built, and in `forward` for images of another
    shape or missing labels.
    """

    def __init__(
        self,
        image_size: ImageSize = 32,
        channels: int = 3,
        width: int = 64,
        *,
        max_width: int = 1024,
        num_classes: int = 0,
        attention: int = 0,
        spectral: bool = True,
    ) -> None:
        super().__init__(image_size, channels)
        self.num_classes = _classes(num_classes)
        base, widths = _plan(image_size, width, max_width)
        heights = [base[0] << i for i in reversed(range(len(widths)))]
        self.blocks = nn.ModuleList(
            [
                DownBlock(channels, widths[0], first=True),
                *(DownBlock(*pair) for pair in pairwise(widths)),
                DownBlock(widths[-1], widths[-1], down=False),
            ]
        )
        self.attention = _attention_layers(attention, heights, widths)
        self.output = nn.Linear(widths[-1], 1)
        self.label = nn.Embedding(num_classes, widths[-1]) if self.num_classes else None
        initialize(self, "xavier_uniform")
        if self.label is not None:
            nn.init.xavier_uniform_(self.label.weight)
        if spectral:
            spectral_norm(self)
            if self.label is not None:
                parametrizations.spectral_norm(self.label)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.check_images(images).to(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        x = F.relu(x).sum((2, 3))
        logits = self.output(x).flatten()
        if self.label is None:
            return logits
        return logits + (self.label(check_labels(labels, len(x))) * x).sum(1)
