"""Which memory format layers that run one after another are to run in.

On a CPU the kernels that beat the library's convolutions take channels-last tensors. Where they
save more than it costs to convert the input, the weights and the output, an input with its channels
outermost is converted on the way in, and the output back. Parameters stay as they are: optimizers,
checkpoints and whoever else holds them see nothing of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgan.nn.blocks import Block
from fastgan.nn.planner import asks_gradient, problem_of
from fastgan.ops.conv import algorithms
from fastgan.ops.conv.geometry import output_shape
from fastgan.ops.conv.problem import Problem
from fastgan.ops.core.tensors import is_channels_last

# What a copied value costs, in operations of a convolution in the time of which it is copied; by
# measurement on a CPU with AVX2. Weights are copied an element at a time, tensors by rows.
_OF_WEIGHTS, _OF_TENSORS = 128, 64
_MAX_SHARE = 0.85  # of the contiguous layers' time, for a choice that pays under all conditions


def pays(blocks: list[Block], x: Tensor) -> bool:
    """Whether blocks run faster on a channels-last copy of x, a training pass or a forward one."""
    if x.device.type != "cpu" or x.dim() != 4 or not x.is_contiguous() or is_channels_last(x):
        return False
    shape: tuple[int, ...] = tuple(x.shape)
    contiguous, converted = 0.0, float(_OF_TENSORS * x.numel())
    for block in blocks:
        if not block.fits(x) or block.why_not:
            return False
        if block.conv is None:
            continue
        # Not its weight, of which a parametrization makes another at each reading.
        if not all(p.is_contiguous() for p in block.conv.parameters()):
            return False  # torch.nn's layers run channels-last, and so do these
        problem = problem_of(block, x, shape)._replace(channels_last=False)
        contiguous += problem.operations * _time(problem, x)
        converted += problem.operations * _time(problem._replace(channels_last=True), x)
        converted += _OF_WEIGHTS * math.prod(problem.weight)
        shape = output_shape(shape, block.weight_shape, block.geometry)
    return converted + _OF_TENSORS * math.prod(shape) < _MAX_SHARE * contiguous


def converted(x: Tensor) -> Tensor:
    """A channels-last copy of x, whose gradient is contiguous as x is."""
    found: Tensor = _Converted.apply(x)
    return found


class _Converted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return restored(g)


def restored(y: Tensor) -> Tensor:
    """y in contiguous memory, by its strides as well where a size of 1 leaves these open."""
    return y.contiguous() if not y.is_contiguous() else y.reshape(-1).view(y.shape)


def _time(problem: Problem, x: Tensor) -> float:
    """A convolution's time as a share of the library's for contiguous tensors."""
    if not algorithms.beats_eager(problem, asks_gradient(x)):
        return 1.0
    return algorithms.select(problem).TIME
