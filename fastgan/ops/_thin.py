"""Convolutions with an image of at most four channels on one side: `None` where ATen runs them.

Seen from the wide tensor, its position q meets position q * stride - padding + i of the image for
each tap i. An ordinary convolution of an image reads it so, a transposed one to an image writes it,
and each is the other's data gradient. With stride 1 the image may stand on the other side as well
(to RGB by an ordinary convolution): the same thing with the kernel turned round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastgan.ops import _native, _processor
from fastgan.ops._tensors import dense, is_channels_last
from fastgan.ops.reference.activation import IDENTITY, is_identity

if TYPE_CHECKING:
    from fastgan.ops._convolution import Geometry

MOST_CHANNELS = 4
_MOST_STRIDE = 4
_MOST_TAPS = 7
_LEAST_WIDE = 16  # channels; fewer leave vectors empty
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# "auto", or "always" and "never" to compare. "auto" leaves CUDA tensors to cuDNN: which is faster
# there has not been measured yet.
setting = "auto"


class _Thin(NamedTuple):
    weight: Tensor  # a view (wide channels, image channels, kh, kw)
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    image_is_x: bool
    turned: bool  # weight is the transpose of the layer's, its taps in reverse


def _find(x: Tensor, weight: Tensor, geometry: Geometry) -> _Thin | None:
    """What the kernels take, where this is a thin convolution they can run."""
    stride, padding, _, transposed = geometry
    kernel = tuple(weight.shape[2:])
    if (
        setting == "never"
        or (setting == "auto" and x.device.type != "cpu")
        or x.dim() != 4
        or x.dtype not in _DTYPES
        or weight.dtype is not x.dtype
        or x.numel() == 0
        or max(kernel) > _MOST_TAPS
        or max(stride) > _MOST_STRIDE
        or (_native.load() if x.device.type == "cpu" else _native.why_no_cuda()) is not None
    ):
        return None
    if weight.shape[1] <= MOST_CHANNELS:
        return _Thin(weight, stride, padding, not transposed, False)
    turned = tuple(k - 1 - p for k, p in zip(kernel, padding, strict=True))
    if weight.shape[0] > MOST_CHANNELS or max(stride) > 1 or min(turned) < 0:
        return None
    if not transposed:
        # The kernels visit every position of x, also where the output has none for it.
        height, width = (n - t + p for n, t, p in zip(x.shape[2:], turned, padding, strict=True))
        if 4 * height * width < 3 * x.shape[2] * x.shape[3]:
            return None
    return _Thin(weight.transpose(0, 1).flip(2, 3), stride, turned, transposed, True)


def _wins(thin: _Thin, reads_image: bool, activated: bool, of_weight: bool = False) -> bool:
    """Whether to run a pass, "auto" by measurement on CPUs with AVX-512, channels-last.

    To an image the kernels take a quarter of oneDNN's time. From one, and for the weight gradient,
    oneDNN's float32 kernels are as fast by themselves; within a step they take 1.2 to 3 times as
    long, for their outputs lie in memory fresh from the system, and an activation costs them a pass
    more. In half precision they take up to twice as long where they have to be computed in float32;
    with instructions for it, 1.1 to 2 times as long where ours sum pairs by dot products, else only
    activated, turned or with one channel.
    """
    if setting == "always":
        return True
    wide, channels = thin.weight.shape[:2]
    if wide < _LEAST_WIDE:
        return False
    dtype = thin.weight.dtype
    fast = thin.weight.device.type == "cpu" and dtype is not torch.float32
    if not reads_image or channels == 1 or not (fast and _processor.fast_in(dtype)):
        return True
    if dtype is torch.bfloat16 and _processor.dot_products() and _in_pairs(thin, of_weight):
        return True
    return activated or (thin.turned and of_weight)


def _in_pairs(thin: _Thin, of_weight: bool) -> bool:
    """Whether a pass that reads the image sums over pairs (csrc/cpu/thin_conv_operands.h)."""
    wide, channels = thin.weight.shape[:2]
    if of_weight:
        return wide % _LEAST_WIDE == 0
    return thin.weight.shape[3] * channels % 2 == 0 and thin.stride[1] * channels % 2 == 0


def runs_forward(x: Tensor, weight: Tensor, geometry: Geometry, activated: bool) -> bool:
    """Whether the forward pass runs here; of x and weight only shape, dtype and layout are read."""
    thin = _find(x, weight, geometry)
    return thin is not None and _runs_forward(thin, x, activated)


def runs_backward(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[bool, bool]:
    """Whether the gradient of x, and that of weight, of a dy that lies as x run here."""
    thin = _find(x, weight, geometry)
    if thin is None:
        return False, False
    return _runs_backward_input(thin, x), _runs_backward_weight(thin, x)


def _runs_forward(thin: _Thin, x: Tensor, activated: bool) -> bool:
    wins = _wins(thin, thin.image_is_x, activated)
    return wins and (not thin.image_is_x or is_channels_last(x))


def _runs_backward_input(thin: _Thin, x: Tensor) -> bool:
    wins = _wins(thin, not thin.image_is_x, False)
    return wins and (thin.image_is_x or is_channels_last(x))


def _runs_backward_weight(thin: _Thin, wide: Tensor) -> bool:
    return _wins(thin, True, False, of_weight=True) and is_channels_last(wide)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: int,
    slope: float,
    size: tuple[int, ...],
) -> Tensor | None:
    """As `_convolution.forward`; size is that of y."""
    thin = _find(x, weight, geometry)
    activated = not is_identity(activation, slope)
    if thin is None or not _runs_forward(thin, x, activated):
        return None
    if not thin.image_is_x:
        return _to_image(x, thin, bias, size, activation, slope, is_channels_last(x))
    return _from_image(x, thin, bias, size, activation, slope)


def backward_input(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """As `_convolution.backward_input`, but in x's memory format."""
    thin = _find(x, weight, geometry)
    if thin is None or not _runs_backward_input(thin, x):
        return None
    size = tuple(x.shape[2:])
    if thin.image_is_x:
        return _to_image(dy, thin, None, size, *IDENTITY, is_channels_last(x))
    return _from_image(dense(dy), thin, None, size, *IDENTITY)


def backward_weight(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """As `_convolution.backward_weight`, but in float32, contiguous or a view of that."""
    thin = _find(x, weight, geometry)
    if thin is None:
        return None
    image, wide = (x, dy) if thin.image_is_x else (dy, x)
    if not _runs_backward_weight(thin, wide):
        return None
    kernel = list(weight.shape[2:])
    gradient: Tensor = torch.ops.fastgan_native.thin_conv_weight(
        dense(image), wide, kernel, thin.stride, thin.padding
    )
    return gradient.transpose(0, 1).flip(2, 3) if thin.turned else gradient


def _from_image(
    image: Tensor,
    thin: _Thin,
    bias: Tensor | None,
    size: tuple[int, ...],
    activation: int,
    slope: float,
) -> Tensor:
    wide: Tensor = torch.ops.fastgan_native.thin_conv(
        image, thin.weight, bias, thin.stride, thin.padding, size, activation, slope
    )
    return wide


def _to_image(
    wide: Tensor,
    thin: _Thin,
    bias: Tensor | None,
    size: tuple[int, ...],
    activation: int,
    slope: float,
    channels_last: bool,
) -> Tensor:
    # A contiguous tensor is worth a copy: ATen's kernels are slower still in that layout.
    wide = wide.contiguous(memory_format=torch.channels_last)
    image: Tensor = torch.ops.fastgan_native.thin_conv_transpose(
        wide, thin.weight, bias, thin.stride, thin.padding, size, activation, slope, channels_last
    )
    return image
