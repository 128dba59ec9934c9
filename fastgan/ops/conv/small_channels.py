"""Direct convolutions from and to an image of at most four channels.

The wide tensor is the map where the image has the few channels: from RGB by an ordinary
convolution, to RGB by a transposed one. With stride 1 the few channels may be the map's as well (to
RGB by an ordinary convolution): the same thing with the kernel flipped.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.ops.conv.problem import DATA_GRADIENT, FORWARD, WEIGHT_GRADIENT, Problem
from fastgan.ops.conv.run import Epilogue
from fastgan.ops.core import native, processor
from fastgan.ops.core.memory_format import channels_last, dense

_MAX_CHANNELS = 4
_MAX_STRIDE = 4
_MAX_TAPS = 7
_MIN_WIDE = 16  # channels; fewer leave vectors empty
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_OPERATIONS_CONTIGUOUS = 1 << 26


class Layer(NamedTuple):
    """The convolution as the kernels take it: weight (wide channels, few channels, kh, kw)."""

    wide: int
    few: int
    padding: tuple[int, ...]
    few_is_x: bool
    flipped: bool  # their weight is the transpose of the layer's, its taps in reverse


@lru_cache(maxsize=1024)
def layer_of(p: Problem) -> Layer | None:
    """The layer of a problem, None where it has too many channels, taps or steps."""
    stride, padding, _, transposed = p.geometry
    if (
        p.dims != 2
        or p.dtype not in _DTYPES
        or p.weight_dtype is not p.dtype
        or 0 in p.x
        or max(p.kernel) > _MAX_TAPS
        or max(stride) > _MAX_STRIDE
    ):
        return None
    of_map, of_image = p.weight[:2]
    if of_image <= _MAX_CHANNELS:
        return Layer(of_map, of_image, padding, not transposed, False)
    flipped = tuple(k - 1 - pad for k, pad in zip(p.kernel, padding, strict=True))
    if of_map > _MAX_CHANNELS or max(stride) > 1 or min(flipped) < 0:
        return None
    if not transposed:
        # The kernels visit every position of x, also where the output has none for it.
        height, width = (n - t + pad for n, t, pad in zip(p.x[2:], flipped, padding, strict=True))
        if 4 * height * width < 3 * p.x[2] * p.x[3]:
            return None
    return Layer(of_image, of_map, flipped, transposed, True)


TIME = 0.5


def name(p: Problem) -> str:
    return "small-channel direct"


def supports(p: Problem) -> bool:
    layer = layer_of(p)
    if layer is None or (native.load() if p.device == "cpu" else native.why_no_cuda()):
        return False
    reads_wide = (p.of == FORWARD and not layer.few_is_x) or (
        p.of == DATA_GRADIENT and layer.few_is_x
    )
    return reads_wide or p.channels_last  # a wide tensor that is written is channels-last


def prefers(p: Problem) -> bool:
    """By measurement on CPUs with AVX-512, channels-last; CUDA tensors are left to cuDNN, for which
    is faster there has not been measured.

    To an image the kernels take a quarter of oneDNN's time. From one, and for the weight gradient,
    oneDNN's float32 kernels are as fast by themselves; within a step they take 1.2 to 3 times as
    long, for their outputs lie in memory fresh from the system, and an activation costs them a pass
    more. In half precision they take up to twice as long where they have to be computed in float32;
    with instructions for it, 1.1 to 2 times as long where ours sum pairs by dot products, else only
    activated, flipped or with one channel. With a matrix unit for bfloat16 they take 0.5 to 0.8 of
    the time, the activation included, but for one channel and flipped.
    """
    layer = layer_of(p)
    assert layer is not None
    if p.device != "cpu" or layer.wide < _MIN_WIDE:
        return False
    if _by_matrix_unit(p) and layer.few > 1 and not layer.flipped:
        return False
    of_weight = p.of == WEIGHT_GRADIENT
    reads_few = of_weight or (p.of == FORWARD) == layer.few_is_x
    fast = p.dtype is not torch.float32 and processor.fast_in(p.dtype)
    if not reads_few or layer.few == 1 or not fast:
        return True
    if p.dtype is torch.bfloat16 and processor.dot_products() and _in_pairs(p, layer):
        return True
    return p.activated or (layer.flipped and of_weight)


def _by_matrix_unit(p: Problem) -> bool:
    """Whether oneDNN's convolution runs on one."""
    return p.dtype is torch.bfloat16 and processor.matrix_unit()


def prefers_packed(p: Problem) -> bool:
    """To an image alone: from one, oneDNN with packed weights takes 0.75 to 1.0 of the time."""
    layer = layer_of(p)
    assert layer is not None
    return layer.wide >= _MIN_WIDE and not layer.few_is_x


def _in_pairs(p: Problem, layer: Layer) -> bool:
    """Whether a pass that reads the image sums over pairs (small_channels/operands.h)."""
    if p.of == WEIGHT_GRADIENT:
        return layer.wide % _MIN_WIDE == 0
    return p.kernel[1] * layer.few % 2 == 0 and p.geometry.stride[1] * layer.few % 2 == 0


def beats_eager(p: Problem, grad_x: bool) -> bool:
    """Layers to an image take 0.3 to 0.7 of eager's time, but large contiguous ones, which are
    copied, up to 1.6; layers from an image 0.3 to 0.8 where its gradient is asked for, else 0.7 to
    1.2."""
    if p.x[1] <= _MAX_CHANNELS:
        return grad_x
    return p.channels_last or p.operations < _MAX_OPERATIONS_CONTIGUOUS


def run(p: Problem, a: Tensor, b: Tensor, epilogue: Epilogue) -> Tensor:
    layer = layer_of(p)
    assert layer is not None
    if p.of == WEIGHT_GRADIENT:
        return _to_weight(p, layer, *((a, b) if layer.few_is_x else (b, a)))
    weight = b.transpose(0, 1).flip(2, 3) if layer.flipped else b
    bias, *after = epilogue
    arguments = weight, bias, p.geometry.stride, layer.padding, p.result[2:], *after
    if (p.of == FORWARD) == layer.few_is_x:
        wide: Tensor = torch.ops.fastgan.small_channel_conv(dense(a), *arguments)
        return wide
    # A contiguous tensor is worth a copy: ATen's kernels are slower still in that layout.
    few: Tensor = torch.ops.fastgan.small_channel_conv_transpose(
        channels_last(a), *arguments, p.channels_last
    )
    return few


def _to_weight(p: Problem, layer: Layer, few: Tensor, wide: Tensor) -> Tensor:
    """In float32, contiguous or a view of that."""
    gradient: Tensor = torch.ops.fastgan.small_channel_conv_weight(
        dense(few), channels_last(wide), list(p.kernel), p.geometry.stride, layer.padding
    )
    return gradient.transpose(0, 1).flip(2, 3) if layer.flipped else gradient
