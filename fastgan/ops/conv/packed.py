"""Convolutions for inference on CPUs: the weight is packed once, in the form its kernel takes.

In every call oneDNN brings the weight into its own blocked order first, which for a batch of one
takes as long as the products. Who owns a weight that stays may keep it so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.conv import im2col, small_channels, winograd
from fastgan.ops.conv.algorithms import Algorithm, select_packed
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import FORWARD, Problem, describe
from fastgan.ops.conv.run import Epilogue
from fastgan.ops.core.activation import LEAKY_RELU, SIGMOID, TANH, is_identity
from fastgan.ops.core.memory_format import channels_last

Call = Callable[[Tensor, Tensor | None], Tensor]  # of x, which is channels-last, and the bias

# A forward pass' time as a share of oneDNN's for contiguous tensors, on CPUs with AVX2 and AVX-512:
# None is oneDNN with the weight packed. A value of a weight takes it as long to bring into order
# as so many operations, and so many are what a call takes beyond a layer's own.
_TIMES: dict[Any, float] = {small_channels: 0.35, winograd: 0.6, im2col: 0.5, None: 0.8}
_TIME_OF_LARGE_KERNELS, _LARGE = 0.95, 5  # of oneDNN, from such a size on in all directions
_OF_WEIGHTS, _OF_A_CALL = 64, 400_000
# The latter as a share of ATen's own kernels, which torch takes for a single small image.
_TIME_OF_TAPS, _TIME_TRANSPOSED = 1.0, 2.0


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """Why weights for inputs of a kind are not packed; None where they are."""
    if device != "cpu" or dtype is not torch.float32:
        return "weights are packed for float32 on CPUs"
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return "oneDNN is not there, or switched off"
    return None


class Convolution:
    """A convolution and the activation after it, for inputs of one shape.

    Attributes:
        pays: whether it is faster with its weight packed than torch.nn's layers.
        costs: of torch.nn's layers on contiguous tensors, and of `call`, in operations of the
            library's contiguous convolutions.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        weight: Tensor,
        geometry: Geometry,
        dilation: tuple[int, ...],
        groups: int,
        activation: tuple[int, float],
    ) -> None:
        self.weight = weight
        self.activation = activation
        self.groups = groups
        self.x = torch.empty(shape, dtype=weight.dtype)
        self.settings = tuple(
            map(list, (geometry.stride, geometry.padding, geometry.output_padding, dilation))
        )
        self.transposed = geometry.transposed
        self.algorithm: Algorithm | None = None
        self.problem: Problem | None = None
        if groups == 1 and all(d == 1 for d in dilation):
            problem = describe(FORWARD, self.x, weight, geometry, not is_identity(*activation))
            self.problem = problem._replace(channels_last=True)
            self.algorithm = select_packed(self.problem)
        self.costs = self._costs()
        self.pays = self.costs[1] < self.costs[0]

    def _costs(self) -> tuple[float, float]:
        stride, padding, extra, dilation = self.settings
        backend = torch._C._select_conv_backend(
            self.x, self.weight, None, stride, padding, dilation, self.transposed, extra,
            self.groups, None,
        ).name  # fmt: skip
        operations = 2.0 * self._positions() * self.weight.numel()
        if not backend.startswith("Slow"):
            weights = _OF_WEIGHTS * self.weight.numel()
            large = self.algorithm is None and min(self.weight.shape[2:]) >= _LARGE
            share = _TIME_OF_LARGE_KERNELS if large else _TIMES[self.algorithm]
            packed = operations * share + _OF_A_CALL
            return operations + weights, packed
        share = _TIME_TRANSPOSED if self.transposed else _TIME_OF_TAPS
        return operations, operations * share * _TIMES[self.algorithm] / _TIMES[None]

    def _positions(self) -> int:
        """Of the batch, at which the kernel stands."""
        batch, _, *sizes = self.x.shape
        if self.transposed:
            return batch * math.prod(sizes)
        stride, padding, _, dilation = self.settings
        kernel = self.weight.shape[2:]
        return batch * math.prod(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True)
        )

    def call(self) -> Call:
        """What runs the convolution, with its weight packed."""
        return self._by_onednn() if self.algorithm is None else self._by_own(self.algorithm)

    def _by_own(self, algorithm: Algorithm) -> Call:
        p, weight, activation = self.problem, channels_last(self.weight), self.activation
        assert p is not None
        return lambda x, bias: algorithm.run(p, x, weight, Epilogue(bias, *activation))

    def _by_onednn(self) -> Call:
        stride, padding, extra, dilation = self.settings
        ops, weight, shape = torch.ops.mkldnn, self.weight, list(self.x.shape)
        attribute, scalars, after = _epilogue(*self.activation)
        if self.transposed:
            packed = ops._reorder_convolution_transpose_weight(
                weight, padding, extra, stride, dilation, self.groups, shape
            )
            run, sizes = ops._convolution_transpose_pointwise.default, [padding, extra]
        else:
            packed = ops._reorder_convolution_weight(
                weight, padding, stride, dilation, self.groups, shape
            )
            run, sizes = ops._convolution_pointwise.default, [padding]
        rest = *sizes, stride, dilation, self.groups, attribute, scalars, None
        if after is None:
            return lambda x, bias: run(x, packed, bias, *rest)
        return lambda x, bias: after(run(x, packed, bias, *rest))


def _epilogue(
    activation: int, slope: float
) -> tuple[str, list[float], Callable[[Tensor], Tensor] | None]:
    """oneDNN's name of an activation, its numbers, and what is to run after it."""
    if is_identity(activation, slope):
        return "none", [], None
    if activation == LEAKY_RELU and slope == 0:
        return "none", [], torch.relu_  # oneDNN's makes zeros of NaN
    if activation == LEAKY_RELU:
        return "leaky_relu", [slope], None
    return {TANH: "tanh", SIGMOID: "sigmoid"}[activation], [], None
