"""Which form a convolution block runs in, by device and shape.

Three forms compute the same: "fused" (`conv_block`: one kernel that normalises as it loads),
"recompute" (`norm_act_conv`: fused norm_act, then a convolution, as one op) and "norm_fused"
(norm_act, then the layers that stand there), which keeps as much for backward as torch.nn's layers
and is chosen where time counts and not memory. Measured choices stand in a table that ships with
the package (tuning.json) and in one of the user's own, which `fastgan tune` writes; for a layer in
neither the choice is by rule.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any

import torch

from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.timing import Times
from fastgan.ops.core import dispatch
from fastgan.ops.core.memory_format import is_channels_last
from fastgan.ops.core.setting import Setting
from fastgan.system import user_cache, whole_file

FORMS = ("recompute", "fused", "norm_fused")
SHIPPED = Path(__file__).with_name("tuning.json")
_FORMAT = 1
_RENAMED = {"composed": "recompute", "apart": "norm_fused"}  # of the last release's tables, too


class convolution_form(Setting):
    """Chooses the form of every convolution block: at once, or for a `with` block.

    name: "auto" (by table and rule), "fused", "recompute" or "norm_fused"; ValueError for another.
    The setting belongs to the process. Batch statistics must come with their tensor in the fused
    form: where the input was not made by a fused block, its norm runs before, by itself.
    """

    names, renamed = FORMS, _RENAMED


def explained(
    device: torch.device,
    dtype: torch.dtype,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    geometry: Geometry,
    beats_eager: bool | None = None,
) -> tuple[str, str]:
    """(form, why) of a convolution of x in a dtype.

    Args:
        beats_eager: what `conv.algorithms.beats_eager` says, where time counts and not memory.
    """
    if convolution_form.value != "auto":
        return convolution_form.value, "asked for"
    fast = beats_eager is not None
    allowed = [f for f in compiled_forms(device, dtype) if fast or f != "norm_fused"]
    if len(allowed) == 1:
        reason = None if device.type != "cuda" else dispatch.why_not("triton", "cuda", dtype)
        return "recompute", reason or f"the only form for {device.type} that saves memory"
    if fast and torch.compiler.is_compiling() and device.type == "cpu":
        return "norm_fused", "a choice by size would hold the graph to its sizes"
    measured = _measured_shapes(device, dtype, weight_shape, tuple(geometry), fast)
    fastest = of_class(x_shape, measured)
    if fastest is not None:
        return fastest, "measured"
    if device.type != "cpu":
        return "recompute", "not measured on this device; fastgan tune measures"
    if beats_eager:
        return "recompute", "kernels of fastgan's own are faster than the library's convolution"
    return "norm_fused", "the library's convolution is as fast by itself"


def of_class(
    x_shape: tuple[int, ...], measured: tuple[tuple[tuple[int, ...], str], ...]
) -> str | None:
    """What was fastest at the measured batch that x's is nearest to, by ratio.

    A compiled graph's sizes may be symbols: it is asked whether they reach or equal those of
    classes, which holds it to the class, and no more. measured: as of `classes`.
    """
    found = None
    for (batch, *sizes), form in measured:
        equal = all(a == b for a, b in zip(sizes, x_shape[1:], strict=True))
        if equal and (found is None or x_shape[0] >= batch):
            found = form
    return found


def classes(
    measured: Iterable[tuple[tuple[int, ...], str]],
) -> tuple[tuple[tuple[int, ...], str], ...]:
    """(shape, form) of measured shapes, by batch, as classes of batches: that of a shape is the
    least that is as near to it as to the one before, by ratio.

    Of a layer that was measured at batches of 128 and 1024 the second class begins at 363.
    """
    found, before = [], dict[tuple[int, ...], int]()
    for (batch, *sizes), form in sorted(measured):
        below = before.get(tuple(sizes))
        least = batch if below is None else isqrt(below * batch - 1) + 1
        found.append(((least, *sizes), form))
        before[tuple(sizes)] = batch
    return tuple(found)


@torch.compiler.assume_constant_result
def _measured_shapes(
    device: torch.device,
    dtype: torch.dtype,
    weight_shape: tuple[int, ...],
    geometry: tuple[Any, ...],
    fast: bool,
) -> tuple[tuple[tuple[int, ...], str], ...]:
    """`classes` of (shape of x, fastest form) of the measured layers with a weight and geometry.

    Args:
        geometry: as a plain tuple, for the compiler makes nothing of a named one that it passes on.
    """
    allowed = [f for f in compiled_forms(device, dtype) if fast or f != "norm_fused"]
    layers: dict[str, Any] = {}
    for path in (SHIPPED, user_table()):
        layers |= _devices(path).get(device_name(device), {}).get(_name(dtype), {})
    found = []
    for layer, entry in layers.items():
        sizes = re.match(r"\w+ (\d+(?:x\d+)+) to ", layer)
        shape = tuple(map(int, sizes[1].split("x"))) if sizes else ()
        fastest = _fastest(entry, allowed)
        if fastest is not None and layer == layer_key(shape, weight_shape, Geometry(*geometry)):
            found.append((shape, fastest))
    return classes(found)


def _fastest(entry: dict[str, Any], allowed: list[str]) -> str | None:
    times = {_RENAMED.get(k, k): v for k, v in entry.get("microseconds", {}).items()}
    measured = {k: v for k, v in times.items() if k in allowed}
    return min(measured, key=lambda form: measured[form]) if measured else None


# Values from which norm_act is faster than batch norm and activation by themselves, and than
# instance norm, where a chain calls it in Python; by measurement in whole networks, forward and
# backward, on a CPU with AVX-512. By itself it is ahead at any size, and so it is by steps
# (`fastgan.nn.steps`); what a chain knows of a block that it does not run as it is takes about what
# a small one gains without a backward pass, contiguous and channels-last.
_NORM_PAYS = 1 << 15
_NORM_PAYS_FORWARD = {False: 1 << 19, True: 1 << 20}
_INSTANCE_NORM_PAYS = 1 << 13
_FORWARD_ALONE_PAYS = 1 << 16  # contiguous, without a backward pass
_MIN_PLANE = 16  # positions: on smaller contiguous planes norm_act is slower at any size


def norm_pays(x: torch.Tensor, instances: bool, activated: bool) -> bool:
    """Whether a norm of x and what follows it are faster as norm_act than as layers, no step of
    which there is.

    Args:
        instances: it is an instance norm.
        activated: an activation follows.
    """
    if x.device.type != "cpu" or dispatch.setting() != "auto":
        return True
    if dispatch.resolve("auto", x) != "cpu":
        return False
    channels_last = is_channels_last(x)
    if not channels_last and x.numel() < _MIN_PLANE * x.shape[0] * x.shape[1]:
        return False
    forward_alone = not (torch.is_grad_enabled() and x.requires_grad)
    if instances:
        contiguous_alone = forward_alone and not channels_last
        return x.numel() >= (_FORWARD_ALONE_PAYS if contiguous_alone else _INSTANCE_NORM_PAYS)
    least = _NORM_PAYS_FORWARD[channels_last] if forward_alone else _NORM_PAYS
    return activated and x.numel() >= least


@cache
def device_name(device: torch.device) -> str:
    """What the tables call a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def layer_key(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], geometry: Geometry) -> str:
    """A layer as the tables name it: conv 64x3x32x32 to 64, kernel 4x4, stride 2x2, padding 1x1."""

    def times(values: tuple[int, ...]) -> str:
        return "x".join(map(str, values))

    kind = "conv_transpose" if geometry.transposed else "conv"
    channels = weight_shape[1 if geometry.transposed else 0]
    text = (
        f"{kind} {times(tuple(x_shape))} to {channels}, kernel {times(tuple(weight_shape[2:]))}, "
        f"stride {times(geometry.stride)}, padding {times(geometry.padding)}"
    )
    if any(geometry.output_padding):
        text += f", output_padding {times(geometry.output_padding)}"
    return text


@torch.compiler.assume_constant_result
def compiled_forms(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """The forms that run on a device as compiled code: no interpreter."""
    if device.type != "cuda":
        return "recompute", "norm_fused"
    fused = dispatch.why_not("triton", device.type, dtype) is None
    return ("recompute", "fused", "norm_fused") if fused else ("recompute", "norm_fused")


def user_table() -> Path:
    """The user's own table: tuning.json in the user's cache."""
    return user_cache() / "tuning.json"


def store(device: str, dtype: torch.dtype, measured: dict[str, dict[str, Times]]) -> Path:
    """Adds {layer: {form: times}} to the user's table, whole or not at all; its path."""
    path = user_table()
    devices = json.loads(json.dumps(_devices(path)))
    layers = devices.setdefault(device, {}).setdefault(_name(dtype), {})
    for layer, times in measured.items():
        means = {form: t.mean for form, t in times.items()}
        layers[layer] = {
            "form": min(means, key=lambda form: means[form]),
            "microseconds": means,
            "cold": {form: t.cold for form, t in times.items()},
            "warm": {form: t.warm for form, t in times.items()},
        }
    table = {"format": _FORMAT, "devices": devices}
    with whole_file(path) as file:
        file.write(json.dumps(table, indent=1, sort_keys=True).encode())
    forget()
    return path


def forget() -> None:
    """Has the tables read again."""
    Setting.renew()
    _devices.cache_clear()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def _devices(path: Path) -> dict[str, Any]:
    """{device: {dtype: {layer: {"form", "microseconds"}}}} of a table; empty where it is unread."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] != _FORMAT:
            raise ValueError(f"format {table['format']}, expected {_FORMAT}")
        devices: dict[str, Any] = table["devices"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is no tuning table, and ignored: {error}", stacklevel=2)
        return {}
    return devices
