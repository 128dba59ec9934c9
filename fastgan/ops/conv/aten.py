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
    """Whether the passes of a convolution, given its shapes, may take in memory that nobody wrote.

    oneDNN's in 16 bits do where the image, which is y of a transposed convolution, is smaller than
    the kernel or the stride: the weight gradient comes out as whatever lay there. In float32 they
    do not.
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
    dtype = _arithmetic(p)
    a, b = a.to(dtype), b.to(dtype)
    if p.of == FORWARD:
        return _forward(p, a, b, epilogue)
    of_x = p.of == DATA_GRADIENT
    dy = a if of_x else b
    # Of the tensor whose gradient is formed only the layout is read.
    x = _empty(p, p.x) if of_x else a
    weight = b if of_x else _empty(p, p.weight)
    found = torch.ops.aten.convolution_backward(
        laid_out(p, dy), x, laid_out(p, weight), None, *aten_arguments(*p.geometry),
        [of_x, not of_x, False],
    )  # fmt: skip
    gradient: Tensor = found[0 if of_x else 1]
    return gradient.to(p.dtype)


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
    return torch.empty(shape, dtype=_arithmetic(p), device=p.device, memory_format=format)


def _arithmetic(p: Problem) -> torch.dtype:
    beyond = reads_beyond(p.x, p.weight, p.geometry, p.dtype, p.device)
    return torch.float32 if beyond else p.arithmetic
