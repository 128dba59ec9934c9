"""Which memory format layers that run one after another are to run in.

On a CPU the kernels that beat the library's convolutions take channels-last tensors. Where they
save more than it costs to convert the input, the weights and the output, an input with its channels
outermost is converted on the way in, and the output back. Parameters stay as they are: optimizers,
checkpoints and whoever else holds them see nothing of it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.nn.blocks import Block
from fastgan.nn.layers import layer_kind
from fastgan.nn.planner import asks_gradient, problem_of
from fastgan.ops.conv import algorithms
from fastgan.ops.conv.geometry import output_shape
from fastgan.ops.conv.problem import Problem
from fastgan.ops.core.memory_format import (
    MIN_TRANSPOSED,
    channels_last,
    channels_last_strides,
    contiguous,
    is_channels_last,
)
from fastgan.ops.core.tensors import own_output

# What copies cost, in operations of a convolution in the time of which they are made: a value of a
# tensor, a value of a weight in the three copies of a training pass (two of the weight, one of its
# gradient), and a call. By measurement on a CPU with AVX-512.
_OF_TENSORS, _OF_WEIGHTS, _OF_A_CALL = 24, 40, 400_000
_OF_SMALL_TENSORS = 150  # which PyTorch copies
MAX_SHARE = 0.85  # of the contiguous layers' time, for a choice that pays under all conditions


class Costs(NamedTuple):
    """What a pass of blocks takes in either memory format, in operations of the library's
    contiguous convolutions; without converting the input and the output, which has a shape.
    """

    contiguous: float
    channels_last: float
    shape: tuple[int, ...]


def pays(blocks: list[Block], x: Tensor) -> bool:
    """Whether blocks run faster on a channels-last copy of x, a training pass or a forward one."""
    if not convertible(x):
        return False
    costs = costs_of(blocks, x, tuple(x.shape), asks_gradient(x))
    if costs is None:
        return False
    copies = copy_cost(x.numel()) + copy_cost(math.prod(costs.shape))
    return costs.channels_last + copies < MAX_SHARE * costs.contiguous


def convertible(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dim() == 4 and x.is_contiguous() and not is_channels_last(x)


def is_contiguous(x: Tensor) -> bool:
    """Whether x is contiguous and, where it is channels-last as well, its strides do not say so."""
    return x.is_contiguous() and x.stride() != channels_last_strides(x.shape)


def costs_of(blocks: list[Block], x: Tensor, shape: tuple[int, ...], grad_x: bool) -> Costs | None:
    """The costs of blocks on an input of a shape, and of x's device and dtype.

    None where the blocks' layers are not all known, or their parameters are not contiguous:
    torch.nn's layers then run channels-last, and so do these.
    """
    contiguous = channels_last = 0.0
    for block in blocks:
        if not block.fits(x) or (block.why_not and layer_kind(block.children[0]) != "act"):
            return None
        if block.conv is None:
            continue
        # Not its weight, of which a parametrization makes another at each reading.
        if not all(p.is_contiguous() for p in block.conv.parameters()):
            return None
        problem = problem_of(block, x, shape)._replace(channels_last=False)
        contiguous += problem.operations * _time(problem, grad_x)
        channels_last += problem.operations * _time(problem._replace(channels_last=True), grad_x)
        channels_last += weight_cost(math.prod(problem.weight))
        shape = output_shape(shape, block.weight_shape, block.geometry)
        grad_x = torch.is_grad_enabled()
    return Costs(contiguous, channels_last, shape)


def copy_cost(count: int) -> float:
    """What it costs to convert a tensor of so many values, in the unit of `Costs`."""
    of_value = _OF_TENSORS if count >= MIN_TRANSPOSED else _OF_SMALL_TENSORS
    return float(of_value * count + _OF_A_CALL)


def weight_cost(count: int) -> float:
    """What it costs to bring a weight of so many values into another order."""
    return float(_OF_WEIGHTS * count + 3 * _OF_A_CALL)


def converted(x: Tensor) -> Tensor:
    """A channels-last copy of x, whose gradient is contiguous as x is."""
    if not asks_gradient(x):
        return marked(channels_last(x))
    found: Tensor = _Converted.apply(x)
    return found


def marked(x: Tensor) -> Tensor:
    """Channels-last x with strides that say so, also where one channel or one position makes it
    contiguous as well."""
    strides = channels_last_strides(x.shape)
    return x if x.stride() == strides else x.as_strided(x.shape, strides)


class _Converted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return own_output(channels_last(x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return restored(g)


def restored(y: Tensor) -> Tensor:
    """y in contiguous memory, by its strides as well where a size of 1 leaves these open."""
    return contiguous(y) if not y.is_contiguous() else y.reshape(-1).view(y.shape)


def _time(problem: Problem, grad_x: bool) -> float:
    """A convolution's time as a share of the library's for contiguous tensors."""
    if not algorithms.beats_eager(problem, grad_x):
        return 1.0
    return algorithms.select(problem).TIME
