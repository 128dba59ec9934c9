"""sync_norm_act: norm_act in training, with the statistics of all processes of a group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import act
from fastgan.ops.core.memory_format import dense
from fastgan.ops.core.tensors import (
    activation_code,
    check_apart,
    check_input,
    check_order,
    check_segments,
    is_captured,
    kind,
    norm_scalars,
    parameter,
    running_pair,
    spatial_size,
)
from fastgan.ops.norm_act import norm_act
from fastgan.ops.norm_act.reference import wide


def sync_norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    segments: int = 1,
    order: str = "norm_act",
    average_segments: bool = False,
    process_group: dist.ProcessGroup | None = None,
) -> Tensor:
    """`norm_act(..., training=True)`, where a batch is spread over the processes of a group.

    Shapes, dtypes and arguments are norm_act's; process_group is the default group if None. The
    processes may hold batches of different sizes, also empty ones; segment i of the batch is
    segment i of every process. Results are those of one process on the whole batch, and equal in
    all processes: the running statistics move by the merged mean and the unbiased variance over
    the global count. Without an initialised group, or in one of a single process, it is norm_act.

    Differentiable to any order in x, weight and bias, as if all losses were summed: the gradient of
    x is that of the sum over processes; those of weight and bias are this process's terms, and sum
    to the whole batch's. Forward, backward and double backward each communicate, so every process
    must make the same calls in the same order.

    It is a composition of PyTorch ops, not a fused kernel: it saves several tensors of x's size.

    Errors: as norm_act's; ValueError for a group without this process, and in all of them for one
    value per channel in all; RuntimeError where a backend other than "reference" was asked for.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; Chan, Golub and LeVeque 1979 for the merging.
    """
    check_group(process_group)
    world = _world_size(process_group)
    if world == 1:
        return norm_act(
            x, running_mean, running_var, weight, bias, True, momentum, eps,
            activation=activation, negative_slope=negative_slope, segments=segments, order=order,
            average_segments=average_segments,
        )  # fmt: skip
    check_input(x)
    check_order(order)
    code, slope = activation_code(activation, negative_slope)
    momentum, eps, segments = norm_scalars(True, momentum, eps, segments, average_segments)
    act_first = order == "act_norm"
    gamma, beta = parameter("weight", weight, x), parameter("bias", bias, x)
    if running_pair(x, running_mean, running_var) is not None and dispatch.is_eager(x):
        check_apart(x, running_mean, running_var, weight, bias)
    if dispatch.setting() not in ("auto", "reference"):
        raise RuntimeError(
            f"backend {dispatch.setting()!r} cannot run: sync_norm_act runs on reference only"
        )
    check_segments(segments, x.shape[0])

    # (segments, batch of a segment, C, *spatial): a view in either memory layout.
    u = wide(dense(x)).unflatten(0, (segments, x.shape[0] // segments))
    if act_first:
        u = act(u, code, slope)
    count = x.shape[0] // segments * spatial_size(x)
    mean, var, total = _merged_moments(u, count, process_group, world)
    # Where the total is 1, no process has more: one that has need not wait for the number. A graph
    # has been asked already, when its step was run before it was recorded.
    if count <= 1 and not is_captured(total) and int(total) == 1:
        raise ValueError("x: expected more than 1 value per channel over all processes, got 1")
    given = running_mean, running_var
    _update(given, mean.detach(), var.detach(), momentum, total, average_segments)

    over_batch = (segments, 1, x.shape[1], *(1,) * (x.dim() - 2))
    over_all = over_batch[1:]
    shift, scale = (t.to(u.dtype).reshape(over_batch) for t in (mean, torch.rsqrt(var + eps)))
    y = (u - shift) * scale
    if gamma is not None:
        y = y * gamma.reshape(over_all)
    if beta is not None:
        y = y + beta.reshape(over_all)
    z = y if act_first else act(y, code, slope)
    return z.flatten(0, 1).to(x.dtype)


def check_group(process_group: dist.ProcessGroup | None) -> None:
    if process_group is None:
        return
    if not dist.is_available() or not (
        isinstance(process_group, dist.ProcessGroup)
        or process_group == dist.GroupMember.NON_GROUP_MEMBER  # which a call says
    ):
        raise TypeError(
            f"process_group: expected a ProcessGroup or None, got {kind(process_group)}"
        )


def _world_size(group: dist.ProcessGroup | None) -> int:
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(group)
    if size < 1:
        raise ValueError("process_group: this process is not a member of it")
    return size


def _merged_moments(
    u: Tensor, count: int, group: dist.ProcessGroup | None, world: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per (segment, channel) over all processes, and the global count.

    Float64, as a mean rounded to float32 would cost the variance digits where |mean| >> std. An
    empty batch gives zeros that still depend on it, so that its process takes part in backward.
    """
    over = (1, *range(3, u.dim()))
    n = max(1, count)
    # Any constant near the mean will do; an infinite one would make the mean nan.
    pivot = (u.detach().sum(over, True) / n).nan_to_num(0.0, 0.0, 0.0)
    centred = u - pivot
    rest = centred.sum(over, True) / n
    var = (centred - rest).square().sum(over) / n
    mean = pivot.double() + rest.double()
    own = torch.cat([mean.flatten(), var.double().flatten(), mean.new_full((1,), count)])

    stats, counts = _AllGather.apply(own, group, world).split([2 * var.numel(), 1], 1)
    means, variances = stats.unflatten(1, (2, *var.shape)).unbind(1)
    counts = counts.detach()[:, :, None]
    total = counts.sum()
    share = counts / total.clamp_min(1.0)
    merged = (share * means).sum(0)
    return merged, (share * (variances + (means - merged).square())).sum(0), total


@torch.no_grad()
def _update(
    given: tuple[Tensor | None, Tensor | None],
    mean: Tensor,
    var: Tensor,
    momentum: float,
    total: Tensor,
    average: bool,
) -> None:
    """Moves the running statistics, rounding once; of no value at all they stay."""
    for running, batch in zip(given, (mean, var * (total / (total - 1))), strict=True):
        if running is None:
            continue
        moved = running.to(batch.dtype)
        for value in [batch.mean(0)] if average else batch.unbind(0):
            moved = moved * (1 - momentum) + value * momentum
        running.copy_(torch.where(total > 0, moved, running))


class _AllGather(Function):
    """The vectors of all processes as rows. Its transpose sums a row over the processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: dist.ProcessGroup | None, world: int) -> Tensor:
        ctx.group = group
        rows = [torch.empty_like(own) for _ in range(world)]
        dist.all_gather(rows, own.contiguous(), group)
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return _SumOfRow.apply(grads[0], ctx.group), None, None


class _SumOfRow(Function):
    """This process's row of the matrix, summed over the processes: the transpose of _AllGather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.world = group, rows.shape[0]
        summed = rows.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=group)
        return summed[dist.get_rank(group)].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return _AllGather.apply(grads[0], ctx.group, ctx.world), None
