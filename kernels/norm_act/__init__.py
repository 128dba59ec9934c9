"""Triton launchers of norm_act: batch (or instance) norm fused with its activation.

No autograd and no broadcasting here. ``x`` is (N, C, *spatial) float32, bfloat16 or float16, dense
in channels-last or contiguous memory; z and dx have its layout, dz must. The batch is ``segments``
equal slices, each with statistics of its own. Arithmetic and everything per channel is float32.

Activation codes: 0 leaky_relu, 1 tanh, 2 sigmoid. ``act_first``: norm(act(x)), not act(norm(x)).

Bytes moved, T bytes in x:            launches  T read  T written
    train, large                          3         2        1
    train, one segment x channel block    1         1        1     (x kept in registers, or cached)
      fits in registers
    eval                                  1         1        1
    backward, training, large             3         4        1     (dz and x, twice)
    backward, training, fits              1         2        1     (+ 1 launch: parameter gradients
    backward, eval                        1         2        1      of several segments, or in eval)
    backward, parameters only             2         2        0
Partials and per-channel values add less than 1 %.
"""

import torch

from fastgan.kernels.core.by_shape import by_shape
from fastgan.kernels.core.device import merge_sums
from fastgan.kernels.core.geometry import (
    MERGE_BLOCK_C,
    MERGE_BLOCK_K,
    MERGE_GROUPS,
    MERGE_WARPS,
    TILED,
    Config,
    Geometry,
    Plan,
    cdiv,
    configs,
    configure,
    device_guard,
    geometry,
    plan,
    require_same_layout,
    shipped_configs,
)
from fastgan.kernels.core.launch import Launch
from fastgan.kernels.norm_act.backward import backward_kernel, backward_whole_kernel
from fastgan.kernels.norm_act.forward import (
    apply_kernel,
    merge_stats_kernel,
    stats_kernel,
    train_kernel,
)
from fastgan.kernels.norm_act.running import running_kernel

__all__ = [
    "configs",
    "norm_act_backward",
    "norm_act_eval",
    "norm_act_train",
    "shipped_configs",
    "update_running_stats_",
]

Tensor = torch.Tensor


def norm_act_train(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
    segments: int,
    act_first: bool,
    *,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(z, mean, var) with statistics of the batch; mean and biased var are (segments, C) float32.

    An empty x gives statistics of 0. Raises TypeError for another dtype, ValueError for memory that
    is neither layout and for segments that do not divide the batch.
    """
    act = {"ACT": activation, "ACT_FIRST": act_first}
    kind = x.shape, x.stride(), x.dtype, x.device, segments, activation, act_first, config
    geo, config, whole = planned("forward", *kind)
    z = torch.empty_like(x)
    mean = x.new_empty_strided((segments, geo.channels), (geo.channels, 1), dtype=torch.float32)
    var = torch.empty_like(mean)
    if x.numel() == 0:
        return z, mean.zero_(), var.zero_()
    with device_guard(x):
        if whole is not None:
            whole(x, weight, bias, z, mean, var, eps, negative_slope)
            return z, mean, var
        folded = geo.folded()
        _statistics(x, mean, var, negative_slope, act, plan(folded, config, "reduce"))
        _apply(x, mean, var, weight, bias, z, eps, negative_slope, act, folded, config)
    return z, mean, var


def norm_act_eval(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
    segments: int,
    act_first: bool,
    *,
    config: Config | None = None,
) -> Tensor:
    """z with given statistics: (segments, C), or one row for the whole batch. float32."""
    geo = geometry(x, _segments_of_statistics(x, mean, segments))
    z = torch.empty_like(x)
    if x.numel():
        act = {"ACT": activation, "ACT_FIRST": act_first}
        config = config or TILED[x.element_size()]
        with device_guard(x):
            _apply(x, mean, var, weight, bias, z, eps, negative_slope, act, geo.folded(), config)
    return z


def norm_act_backward(
    dz: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
    segments: int,
    act_first: bool,
    training: bool,
    need_dx: bool,
    need_dparams: bool,
    *,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dweight, dbias); what is not needed is an empty tensor and is not computed.

    ``training``: mean and var are norm_act_train's, of this x. dweight, dbias: (C,) float32.
    """
    single = training and need_dx
    segments = _segments_of_statistics(x, mean, segments)
    kind = x.shape, x.stride(), x.dtype, x.device, segments, activation, act_first, config
    geo, config, whole = planned("backward" if single else "tiled", *kind)
    if x.numel() == 0:
        zeros = torch.zeros(geo.channels, dtype=torch.float32, device=x.device)
        dparams = (zeros, zeros.clone()) if need_dparams else (zeros[:0], zeros[:0].clone())
        return torch.empty_like(x) if need_dx else x.new_empty(0), *dparams
    if dz.shape != x.shape or dz.stride() != x.stride():
        require_same_layout("dz", dz, "x", x)
    dx = torch.empty_like(x) if need_dx else None
    constants = (x, mean, var, weight, bias)
    scalars = (eps, negative_slope)
    act = {"ACT": activation, "ACT_FIRST": act_first}
    dbias = dweight = None
    if need_dparams:
        dbias = x.new_empty_strided((geo.channels,), (1,), dtype=torch.float32)
        dweight = torch.empty_like(dbias)
    with device_guard(x):
        if whole is not None:
            _backward_whole(dz, constants, dx, dbias, dweight, scalars, geo, whole)
        elif training and need_dx:
            folded = geo.folded()
            s1, s2 = _sums(dz, constants, None, dbias, dweight, scalars, act, folded, config)
            apply = plan(folded, config, "apply")
            backward_kernel[apply.grid](
                dz, *constants, s1, s2, None, None, dx, *scalars, **act, **apply.arguments
            )
        elif need_dparams:
            _sums(dz, constants, dx, dbias, dweight, scalars, act, geo.folded(), config)
        elif need_dx:
            apply = plan(geo.folded(), config, "apply")
            backward_kernel[apply.grid](
                dz, *constants, None, None, None, None, dx, *scalars, **act, **apply.arguments
            )
    if dweight is None or dbias is None:
        dweight, dbias = x.new_empty((2, 0), dtype=torch.float32)
    return x.new_empty(0) if dx is None else dx, dweight, dbias


def update_running_stats_(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
    average: bool,
) -> None:
    """Moves the running statistics (C,), in place, towards those of each segment (segments, C) in
    turn, or with ``average`` once towards their mean. The variance that enters is unbiased:
    var * count / (count - 1), ``count`` values a channel and segment, at least 2. One launch.
    """
    if count < 2:
        raise ValueError(f"count: expected at least 2 values per channel, got {count}")
    with device_guard(mean):
        move = _move(*mean.shape, average, mean.device)
        move(running_mean, running_var, mean, var, momentum, count / (count - 1))


@by_shape
def _move(segments: int, channels: int, average: bool, device: torch.device) -> Launch:
    block = 128
    named = {
        "segments": segments, "C": channels, "AVERAGE": average, "BLOCK": block, "num_warps": 4,
    }  # fmt: skip
    return Launch(running_kernel, (cdiv(channels, block),), named, varying=(0, 1, 2, 3))


def _segments_of_statistics(x: Tensor, mean: Tensor, segments: int) -> int:
    """One row of statistics serves every segment: then the batch is one segment."""
    channels = x.shape[1] if x.dim() > 1 else 0
    if mean.numel() == channels:
        return 1
    if mean.numel() != channels * segments:
        raise ValueError(
            f"mean: expected ({segments}, {channels}) or ({channels},), got {tuple(mean.shape)}"
        )
    return segments


@by_shape
def planned(
    direction: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    segments: int,
    activation: int,
    act_first: bool,
    config: Config | None,
) -> tuple[Geometry, Config, Launch | None]:
    """(geometry, configuration, what launches it all where one program does a channel block).

    Args:
        direction: "forward", "backward", or "tiled" for a pass that reads all values once.
        config: the configuration, if not the shipped one.
    """
    x = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    geo = geometry(x, segments)
    if config is None:
        tiled = direction == "tiled" or x.numel() == 0
        config = TILED[dtype.itemsize] if tiled else configure(geo, dtype.itemsize, direction)
    if not config.single or direction == "tiled" or x.numel() == 0:
        return geo, config, None
    whole = plan(geo, config, "whole")
    named = {
        "RESIDENT": whole.tiles == 1, "ACT": activation, "ACT_FIRST": act_first, **whole.arguments,
    }  # fmt: skip
    if direction == "forward":  # x, weight and bias may be of other kinds
        return geo, config, Launch(train_kernel, whole.grid, named, varying=(0, 1, 2))
    # So may dz, x, the statistics and parameters, and the gradients of these be asked for or not.
    varying = (0, 1, 2, 3, 4, 5, 6)
    return geo, config, Launch(backward_whole_kernel, whole.grid, named, varying)


def _statistics(
    x: Tensor, mean: Tensor, var: Tensor, slope: float, act: dict[str, int], tiled: Plan
) -> None:
    geo = tiled.geo
    means, m2s = x.new_empty((2, geo.segments, tiled.chunks, geo.width), dtype=torch.float32)
    stats_kernel[tiled.grid](x, means, m2s, slope, **act, **tiled.arguments)
    merge_stats_kernel[(geo.segments * cdiv(geo.channels, MERGE_BLOCK_C),)](
        x, means, m2s, mean, var, slope, geo.planes, geo.length, geo.width,
        tiled.chunks, tiled.tiles, tiled.tiles_per_chunk, **act,
        CHANNELS_LAST=geo.channels_last, FOLD=geo.fold, BLOCK_P=tiled.block_p,
        BLOCK_L=tiled.block_l, BLOCK_K=merge_block(tiled), BLOCK_C=MERGE_BLOCK_C,
        num_warps=MERGE_WARPS,
    )  # fmt: skip


def _apply(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    z: Tensor,
    eps: float,
    slope: float,
    act: dict[str, int],
    geo: Geometry,
    config: Config,
) -> None:
    tiled = plan(geo, config, "apply")
    apply_kernel[tiled.grid](x, mean, var, weight, bias, z, eps, slope, **act, **tiled.arguments)


def merge_block(tiled: Plan) -> int:
    """Rows of partials a merging program takes at once: as many as there are, up to a bound."""
    partials = tiled.chunks * tiled.geo.fold
    return min(MERGE_BLOCK_K, max(32, 1 << (partials - 1).bit_length()))


def merge(
    partial0: Tensor,
    partial1: Tensor | None,
    out: tuple[Tensor | None, Tensor | None],
    total: tuple[Tensor | None, Tensor | None],
    groups: int,
    partials: int,
    channels: int,
    block_k: int,
) -> None:
    """Launches merge_sums; totals over several groups need one program for all groups."""
    groups_per_program = groups if total[0] is not None else 1
    merge_sums[(cdiv(groups, groups_per_program) * cdiv(channels, MERGE_BLOCK_C),)](
        partial0, partial1, *out, *total, groups, groups_per_program, partials, channels,
        PAIR=partial1 is not None, BLOCK_K=block_k, BLOCK_C=MERGE_BLOCK_C, num_warps=MERGE_WARPS,
    )  # fmt: skip


def _sums(
    dz: Tensor,
    constants: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    dx: Tensor | None,
    dbias: Tensor | None,
    dweight: Tensor | None,
    scalars: tuple[float, float],
    act: dict[str, int],
    geo: Geometry,
    config: Config,
) -> tuple[Tensor, Tensor]:
    """S1 and S2 (segments, C); fills dbias and dweight where given, and dx (eval) on the way."""
    tiled = plan(geo, config, "reduce", tensors=2)
    partial1, partial2 = dz.new_empty(
        (2, geo.segments, tiled.chunks, geo.width), dtype=torch.float32
    )
    backward_kernel[tiled.grid](
        dz, *constants, None, None, partial1, partial2, dx, *scalars, **act, **tiled.arguments
    )
    shape = (geo.segments, tiled.chunks * geo.fold, geo.channels, merge_block(tiled))
    if geo.segments == 1 and dbias is not None and dweight is not None:
        merge(partial1, partial2, (dbias, dweight), (None, None), *shape)
        return dbias, dweight
    s1, s2 = dz.new_empty((2, geo.segments, geo.channels), dtype=torch.float32)
    together = geo.segments <= MERGE_GROUPS
    merge(partial1, partial2, (s1, s2), (dbias, dweight) if together else (None, None), *shape)
    if dbias is not None and not together:
        merge(s1, s2, (dbias, dweight), (None, None), 1, geo.segments, geo.channels, MERGE_BLOCK_K)
    return s1, s2


def _backward_whole(
    dz: Tensor,
    constants: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    dx: Tensor | None,
    dbias: Tensor | None,
    dweight: Tensor | None,
    scalars: tuple[float, float],
    geo: Geometry,
    whole: Launch,
) -> None:
    s1, s2 = dbias, dweight
    if dbias is not None and geo.segments > 1:
        s1, s2 = dz.new_empty((2, geo.segments, geo.channels), dtype=torch.float32)
    whole(dz, *constants, s1, s2, dx, *scalars)
    if dbias is not None and geo.segments > 1:
        merge(s1, s2, (dbias, dweight), (None, None), 1, geo.segments, geo.channels, MERGE_BLOCK_K)
