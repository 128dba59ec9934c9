"""Convolutions by ATen: oneDNN's, cuDNN's or its own."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import Geometry, aten_arguments, output_shape
from fastgan.ops.conv.problem import DATA_GRADIENT, FORWARD, Problem
from fastgan.ops.conv.run import Epilogue, laid_out, memory_format


def reads_beyond(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    geometry: Geometry,
    dtype: torch.dtype,
    device: str,
) -> bool:
    """Whether the weight gradient of a convolution, given its shapes, may take in memory that
    nobody wrote.

    oneDNN's in 16 bits does where the image, which is y of a transposed convolution, is smaller
    than the kernel or the stride: it comes out as whatever lay there. In float32, and in the other
    passes, it does not.
    """
    if device != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return False
    image = output_shape(x, weight, geometry) if geometry.transposed else x
    spans = zip(image[2:], weight[2:], geometry.stride, strict=True)
    return any(size < max(k, stride) for size, k, stride in spans)


TIME = 1.0


def name(p: Problem) -> str:
    """Whose convolution it is: "oneDNN", "cuDNN", "MIOpen", or "ATen" for its own."""
    x, weight = _empty(p, p.x), _empty(p, p.weight)
    stride, padding, dilation, transposed, extra, groups = aten_arguments(*p.geometry)
    chosen = torch._C._select_conv_backend(
        x, weight, None, stride, padding, dilation, transposed, extra, groups, None
    ).name
    if p.device == "cpu":  # that of transposed convolutions by oneDNN has no name in Python
        return "ATen" if chosen.startswith("Slow") else "oneDNN"
    names = {"Cudnn": "cuDNN", "Miopen": "MIOpen"}
    return next((name for start, name in names.items() if chosen.startswith(start)), "ATen")


def supports(p: Problem) -> bool:
    return True


def prefers(p: Problem) -> bool:
    return True


def beats_eager(p: Problem, grad_x: bool) -> bool:
    return False


def run(p: Problem, a: Tensor, b: Tensor, epilogue: Epilogue) -> Tensor:
    a, b = a.to(p.arithmetic), b.to(p.arithmetic)
    if p.of == FORWARD:
        return _forward(p, a, b, epilogue)
    # Of the tensor whose gradient is formed only the layout is read.
    if p.of == DATA_GRADIENT:
        given = laid_out(p, a), _empty(p, p.x), laid_out(p, b)
        geometry, needs = p.geometry, [True, False, False]
    else:
        x, dy, geometry = _not_beyond(p, a, b)
        given, needs = (laid_out(p, dy), x, _empty(p, p.weight)), [False, True, False]
    found = torch.ops.aten.convolution_backward(*given, None, *aten_arguments(*geometry), needs)
    gradient: Tensor = found[0 if needs[0] else 1]
    return gradient.to(p.dtype)


def _not_beyond(p: Problem, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Geometry]:
    """What a weight gradient is formed of, that takes in no memory that nobody wrote: an image that
    has its padding in it, and zeros up to the kernel's and the stride's size."""
    geometry = p.geometry
    if not reads_beyond(p.x, p.weight, geometry, p.arithmetic, p.device):
        return x, dy, geometry
    image = dy if geometry.transposed else x
    sides = zip(image.shape[2:], p.kernel, geometry.stride, geometry.padding, strict=True)
    more = [max(0, max(k, step) - (n + 2 * pad)) for n, k, step, pad in sides]
    around = [(pad, pad + n) for pad, n in zip(geometry.padding, more, strict=True)]
    image = torch.constant_pad_nd(image, [n for pair in reversed(around) for n in pair])
    none = (0,) * len(more)
    if not geometry.transposed:
        return image, dy, geometry._replace(padding=none)
    extra = tuple(n + m for n, m in zip(geometry.output_padding, more, strict=True))
    return x, image, geometry._replace(padding=none, output_padding=extra)


def _forward(p: Problem, x: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    # ATen works in channels-last as soon as one of its operands does.
    weight, bias = laid_out(p, weight), None
    # On a CPU the sums are rounded with their bias. On a GPU they are rounded before it, which a
    # kernel of its own adds: that of the activation does so at no cost, and reads it in float32.
    if epilogue.bias is not None and p.device == "cpu":
        bias, epilogue = epilogue.bias.to(x.dtype), epilogue._replace(bias=None)
    y = torch.ops.aten.convolution(x, weight, bias, *aten_arguments(*p.geometry))
    return epilogue(p, y.to(p.dtype))


def _empty(p: Problem, shape: tuple[int, ...]) -> Tensor:
    format = memory_format(p, len(shape))
    return torch.empty(shape, dtype=p.arithmetic, device=p.device, memory_format=format)
