"""Normalisation + activation modules, in place of the `torch.nn` modules they derive from.

Constructor arguments, parameters, buffers and `state_dict` are those of the base class, so weights
interchange; `activation`, `negative_slope` and `order` come on top.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgan.ops import instance_norm_act, norm_act, sync_norm_act
from fastgan.ops.core import dispatch, native
from fastgan.ops.core.tensors import (
    activation_code,
    check_factory,
    check_flag,
    check_order,
    check_tensor,
    is_captured,
    momentum_of_average,
    real,
    whole,
)
from fastgan.ops.core.together import Queue, together
from fastgan.ops.norm_act.sync import check_group
from fastgan.ops.norm_act_conv import Norm

_Module = TypeVar("_Module", bound=nn.Module)


class ActivatedNorm(nn.Module):
    """What the activated modules hold beside their base class."""

    def _set_activation(self, activation: str, negative_slope: float, order: str) -> None:
        activation_code(activation, negative_slope)
        check_order(order)
        self.activation = activation
        self.negative_slope = negative_slope
        self.order = order

    def _activation_arguments(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "negative_slope": self.negative_slope,
            "order": self.order,
        }

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, activation={self.activation}"
        if self.activation == "leaky_relu":
            text += f", negative_slope={self.negative_slope}"
        return text if self.order == "norm_act" else f"{text}, order={self.order}"


def check_norm(
    num_features: int,
    eps: float,
    momentum: float | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> None:
    """What torch.nn's constructor takes as it comes, and a layer would fail by when it is called.

    Affine and track_running_stats are whatever Python holds for true, as in torch.nn.
    """
    whole("num_features", num_features, 0)
    if real("eps", eps) < 0:
        raise ValueError(f"eps: expected at least 0, got {eps}")
    if momentum is not None:
        momentum_of_average(momentum)
    check_factory(device, dtype)


class Segmented(nn.Module):
    """What `segments` finds beside BatchNormAct."""

    segments: int = 1


class BatchNormActBase(ActivatedNorm, nn.modules.batchnorm._BatchNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "leaky_relu",
        negative_slope: float = 0.01,
        order: str = "norm_act",
        segments: int = 1,
        sync: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        check_norm(num_features, eps, momentum, device, dtype)
        check_flag("sync", sync)
        check_group(process_group)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        self._set_activation(activation, negative_slope, order)
        self.segments = whole("segments", segments, 1)
        self.sync = sync
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor:
            check_tensor("input", input)
        self._check_input_dim(input)
        norm = batch_norm(self, self.segments)
        mean, var, weight, bias, training, momentum, eps, segments, average = norm
        if self.sync and self.training:
            return sync_norm_act(
                input, mean, var, weight, bias, momentum, eps, process_group=self.process_group,
                activation=self.activation, negative_slope=self.negative_slope,
                segments=segments, order=self.order, average_segments=average,
            )  # fmt: skip
        return norm_act(
            input, mean, var, weight, bias, training, momentum, eps, activation=self.activation,
            negative_slope=self.negative_slope, segments=segments, order=self.order,
            average_segments=average,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sync=True" if self.sync else super().extra_repr()

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchNormActBase:
        # A process group cannot be copied: the copy (a moving average's, say) is in the same one.
        memo[id(self.process_group)] = self.process_group
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


@contextmanager
def batches_counted_together() -> Iterator[None]:
    """Within, `num_batches_tracked` of batch norms moves when the outermost block ends, by one
    launch for all layers; that of a layer whose momentum is None, which reads it, at once. Running
    statistics on a GPU wait as well, unless an op reads them before.
    """
    with together():
        yield


def _count_all(counts: list[tuple[Tensor, int]]) -> None:
    sums: dict[int, tuple[Tensor, int]] = {}
    for batches, passes in counts:
        sums[id(batches)] = batches, sums.get(id(batches), (batches, 0))[1] + passes
    by_device: dict[torch.device, list[tuple[Tensor, int]]] = defaultdict(list)
    for batches, passes in sums.values():
        by_device[batches.device].append((batches, passes))
    for alike in by_device.values():
        torch._foreach_add_(*(list(side) for side in zip(*alike, strict=True)))


COUNTS = Queue(_count_all)


def _count(batches: Tensor, passes: int, at_once: bool) -> None:
    waiting, compiling = COUNTS.items, torch.compiler.is_compiling()
    if waiting is None or at_once or compiling or dispatch.is_transformed():
        if compiling or not native.WITH_AUTOGRAD.count(batches, passes):
            batches.add_(passes)
    else:
        waiting.append((batches, passes))


def batch_norm(
    layer: nn.modules.batchnorm._BatchNorm, segments: int, is_eager: bool = False
) -> Norm:
    """The arguments of a call of any batch norm layer; counts the batch as the layer would.

    Args:
        is_eager: `dispatch.is_eager` of the input, where the caller knows that it is.
    """
    buffers, parameters = layer._buffers, layer._parameters
    running: tuple[Tensor | None, Tensor | None]
    if "running_mean" in buffers and "running_var" in buffers:  # past a module's slow lookup
        running = buffers["running_mean"], buffers["running_var"]
    else:  # parametrized
        running = layer.running_mean, layer.running_var
    tracked = running[0] is not None
    by_batch = layer.training or not tracked
    moves = layer.training and layer.track_running_stats and tracked
    momentum, average = layer.momentum, False
    if layer.training and layer.track_running_stats:
        name = "num_batches_tracked"
        batches = buffers[name] if name in buffers else getattr(layer, name)
        if batches is not None:
            _count(batches, segments, at_once=momentum is None)
            if momentum is None:
                if is_captured(batches):
                    raise RuntimeError(
                        f"{type(layer).__name__}: momentum is None, an average over a count that "
                        "the host reads, which a CUDA graph cannot: give it a number"
                    )
                # The mean of all batches so far, in which this call's segments weigh one each.
                momentum, average = segments / float(batches), True
    if momentum is None:
        momentum = 0.0
    if by_batch and not moves:
        running = None, None
    if moves and not isinstance(layer, BatchNormActBase) and _are_plain(*running, is_eager):
        # Calls may alternate with the layer's own forward, whose backward asks that no version was
        # raised though in training it reads no running statistics: as of torch.nn, none is.
        running = _untracked(running[0]), _untracked(running[1])
    if "weight" in parameters and "bias" in parameters:
        affine = parameters["weight"], parameters["bias"]
    else:
        affine = layer.weight, layer.bias
    return Norm(*running, *affine, by_batch, momentum, layer.eps, segments, average)


def _are_plain(mean: Tensor | None, var: Tensor | None, is_eager: bool) -> bool:
    if is_eager and type(mean) is type(var) is Tensor:
        return True
    return dispatch.is_eager(mean, var)


def _untracked(t: Tensor | None) -> Tensor | None:
    """The same memory by a version of its own."""
    return None if t is None else t.data


class BatchNormAct1d(BatchNormActBase, nn.BatchNorm1d):
    """`nn.BatchNorm1d` and an activation in one op, for (N, C) and (N, C, L)."""


class BatchNormAct2d(BatchNormActBase, nn.BatchNorm2d):
    """`nn.BatchNorm2d` and an activation in one op, for (N, C, H, W).

    activation: "leaky_relu", "relu", "identity", "tanh" or "sigmoid"; `negative_slope` is
    LeakyReLU's. order: "norm_act", or "act_norm" to normalise the activated input. segments: the
    batch is this many equal slices, normalised as in as many calls in training (see `segments`).
    sync: in training take the statistics over the processes of `process_group` (all, if None), as
    `nn.SyncBatchNorm` does; without an initialised group it changes nothing.

    >>> block = nn.Sequential(nn.Conv2d(3, 64, 4, 2, 1, bias=False), BatchNormAct2d(64))
    """


class BatchNormAct3d(BatchNormActBase, nn.BatchNorm3d):
    """`nn.BatchNorm3d` and an activation in one op, for (N, C, D, H, W)."""


@contextmanager
def segments(module: nn.Module, count: int) -> Iterator[None]:
    """Within the block every BatchNormAct in `module` treats a batch as `count` equal slices.

    So does every batch norm that is a child of a FusedSequential.
    A discriminator pass over `torch.cat([real, fake])` with `segments(discriminator, 2)` is then
    two passes, running statistics included. ValueError for a count below 1.
    """
    count = whole("count", count, 1)
    layers = [m for m in module.modules() if isinstance(m, BatchNormActBase | Segmented)]
    previous = [m.segments for m in layers]
    for layer in layers:
        layer.segments = count
    try:
        yield
    finally:
        for layer, value in zip(layers, previous, strict=True):
            layer.segments = value


def convert_sync_batchnorm(
    module: _Module, process_group: dist.ProcessGroup | None = None
) -> _Module:
    """Makes every BatchNormAct in `module` synchronise its statistics, in place; returns `module`.

    Args:
        process_group: as of BatchNormAct2d.

    Parameters, buffers and `state_dict` stay as they are. Layers of plain `nn.BatchNorm` are left
    alone. Do not use `nn.SyncBatchNorm`'s converter on a model with BatchNormAct layers: it takes
    them for their base class and drops the activation.
    """
    check_group(process_group)
    for layer in module.modules():
        if isinstance(layer, BatchNormActBase):
            layer.sync, layer.process_group = True, process_group
    return module


class InstanceNormActBase(ActivatedNorm, nn.modules.instancenorm._InstanceNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "leaky_relu",
        negative_slope: float = 0.01,
        order: str = "norm_act",
    ) -> None:
        check_norm(num_features, eps, momentum, device, dtype)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        self._set_activation(activation, negative_slope, order)

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor:
            check_tensor("input", input)
        self._check_input_dim(input)
        unbatched = input.dim() == self._get_no_batch_dim()
        output = instance_norm_act(
            input.unsqueeze(0) if unbatched else input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            **self._activation_arguments(),
        )
        return output.squeeze(0) if unbatched else output


class InstanceNormAct1d(InstanceNormActBase, nn.InstanceNorm1d):
    """`nn.InstanceNorm1d` and an activation in one op, for (C, L) and (N, C, L)."""


class InstanceNormAct2d(InstanceNormActBase, nn.InstanceNorm2d):
    """`nn.InstanceNorm2d` and an activation in one op, for (C, H, W) and (N, C, H, W)."""


class InstanceNormAct3d(InstanceNormActBase, nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` and an activation in one op, for (C, D, H, W) and (N, C, D, H, W)."""
