"""`python -m tools.rehearse.execute FILE`: the calls of recorded steps, in Triton's interpreter.

A process of its own, with TRITON_INTERPRET=1: Triton decides as it is imported. Each call gets CPU
tensors of the recorded shapes, strides, alignments and dtypes, with random values; outputs are
poisoned. Results are held against the reference backend by the tolerance rule.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from fastgan.kernels.core import precision
from fastgan.ops.core.tolerance import FLOOR
from fastgan.ops.mean_loss import reference as mean_loss
from fastgan.ops.norm_act import reference as norm_act
from fastgan.ops.norm_act.reference import wide
from fastgan.ops.norm_act_conv import fused, reference
from fastgan.ops.norm_act_conv.arguments import Backward, Forward
from fastgan.ops.norm_act_conv.fused import Companions, Statistics

from . import composition
from .record import Call, Spec

ROOT = Path(__file__).resolve().parents[2]
_POSITIVE = ("var", "running_var", "running", "exp_avg_sqs", "steps")


class Executed(NamedTuple):
    """What came of calls. kernels: the names of those that ran, seconds: of all of it."""

    calls: int
    kernels: list[str]
    problems: list[str]
    seconds: float


def in_interpreter(calls: Iterable[Call]) -> Executed:
    """Executes each call once, in a process that interprets.

    Raises:
        RuntimeError: the process failed; its last words.
    """
    distinct = {repr(call): call for call in calls}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls"
        file.write_bytes(pickle.dumps(list(distinct.values())))
        done = subprocess.run(
            [sys.executable, "-m", "tools.rehearse.execute", str(file)],
            env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the interpreter exited {done.returncode}: {done.stderr[-2000:]}")
    return Executed(*json.loads(done.stdout.splitlines()[-1]))


def main(path: str) -> None:
    from .interpreter import as_hardware, launches

    calls = pickle.loads(Path(path).read_bytes())
    plan = importlib.import_module("fastgan.kernels.conv_block.tma.plan")
    started = time.monotonic()
    torch.set_num_threads(1)
    with (
        patch.object(plan, "has_tma", lambda device: True),
        as_hardware(), launches() as kernels, _poisoned(),
    ):  # fmt: skip
        problems = [problem for call in calls for problem in execute(call)]
    spent = time.monotonic() - started
    print(json.dumps(Executed(len(calls), sorted(kernels), problems, spent)))


@contextmanager
def _poisoned() -> Iterator[None]:
    """Within, memory that nothing was written to holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def execute(call: Call) -> list[str]:
    """What of a call's results is wrong, in words."""
    with patch.object(precision, "float32_precision", lambda device: call.precision):
        return _execute(call)


def _execute(call: Call) -> list[str]:
    torch.manual_seed(zlib.crc32(repr(call).encode()))
    how = {"fused": _fused, "mean_loss": _of_losses}.get(call.module, _raw)
    of_triton, of_torch, of_reference, given = how(call)
    name = f"{call.module}.{call.op} {_shapes(call.arguments)}"
    try:
        found = of_triton(*_copies(given))
    except Exception as error:  # of a launcher or of the interpreter, of whatever kind
        return [f"{name}: {type(error).__name__}: {error}"]
    own = of_torch(*_copies(given))
    exact = of_reference(*_copies(given, torch.float64))
    floor = _floor(call, _first(given).dtype)
    # A sum is rounded as large as its terms, of which what stood there before is one.
    before = list(_tensors(given)) if call.op.endswith("_") else []
    told = []
    for i, results in enumerate(zip(found, own, exact, strict=True)):
        present = [t is not None and t.numel() > 0 for t in results]
        if present[0] != present[1]:
            told.append(f"{name}: result {i} is there for one backend alone")
        elif present[0]:
            least = float(before[i].abs().max()) if before else 0.0
            told += [f"{name}: result {i}: {wrong}" for wrong in _wrong(*results, floor, least)]
    return told


def _floor(call: Call, dtype: torch.dtype) -> float:
    """Of a call whose first tensor has a dtype; TF32 has as many digits as float16."""
    if call.module not in ("fused", "conv_block"):  # through no product
        return FLOOR[torch.float32]
    of_tf32 = dtype is torch.float32 and call.precision == "tf32"
    return FLOOR[torch.float16 if of_tf32 else dtype]


def _wrong(
    found: Tensor, own: Tensor, exact: Tensor, floor: float, least: float = 0.0
) -> list[str]:
    """By the tolerance rule; own: of PyTorch's composition at the dtype of the call, least: what
    errors are taken relative to where the largest value is less.
    """
    if (found.shape, found.dtype) != (own.shape, own.dtype):
        return [f"{found.dtype} {tuple(found.shape)}, not {own.dtype} {tuple(own.shape)}"]
    scale = max(float(exact.abs().max()), least, 1e-30)
    error, theirs = (float((t.double() - exact).abs().max()) / scale for t in (found, own))
    allowed = 2 * theirs + floor
    return [] if error <= allowed else [f"error {error:.2e}, allowed {allowed:.2e}"]


# Triton's, PyTorch's own composition at the dtype, the definition; and the arguments of each.
Functions = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], tuple[Any, ...]]


def _raw(call: Call) -> Functions:
    """Of raw kernels: Triton's and the reference's have one name, and arguments."""
    kernel, definition = (
        getattr(importlib.import_module(module), call.op)
        for module in (f"fastgan.kernels.{call.module}", f"fastgan.ops.{call.module}.reference")
    )
    names = list(inspect.signature(definition).parameters)
    first = call.arguments[0]
    values = _Values(first if isinstance(first, Spec) else None)
    given = tuple(values(n, v) for n, v in zip(names, call.arguments, strict=False))

    def with_changed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> tuple[Tensor | None, ...]:
            found = function(*arguments)
            if found is None:  # it changes some in place
                return tuple(_tensors(arguments))
            return found if isinstance(found, tuple) else (found,)

        return run

    own = getattr(composition, call.op, definition)
    return with_changed(kernel), with_changed(own), with_changed(definition), given


def _of_losses(call: Call) -> Functions:
    kernel = getattr(importlib.import_module("fastgan.kernels.mean_loss"), call.op)
    definition = _losses if call.op == "mean_loss" else _gradients_of_losses
    # As x, which has a mean: of numbers around 0 that would be rounding alone.
    return kernel, definition, definition, _Values(None)("x", call.arguments)


def _losses(logits: tuple[Tensor, ...], terms: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return mean_loss.mean_loss([(wide(x), t) for x, t in zip(logits, terms, strict=True)])


def _gradients_of_losses(g: Tensor, logits: Any, terms: Any) -> tuple[Tensor, ...]:
    leaves = tuple(x.detach().requires_grad_() for x in logits)
    return torch.autograd.grad(_losses(leaves, terms)[0], leaves, g)


def _fused(call: Call) -> Functions:
    """Of norm_act_conv by the kernels whose statistics travel."""
    a, beside = call.arguments
    a = _Values(a.x)("", a)
    if call.op == "backward":
        if a.z is not None:
            a = a._replace(z=composition.normalise(a, False)[0].to(a.x.dtype))
        return _fused_backward, composition.backward, reference.backward, (a,)
    beside = _Values(None)("", beside)
    if beside.of_x is not None:
        beside = beside._replace(of_x=_pieces(a.x, *beside.of_x.means.shape[:2]))
    # Products by TMA alone leave statistics: behind others the norm takes them itself.
    counted = fused.Plan(a, beside).product is not None
    runs = composition.forward, reference.forward
    own, exact = (partial(_forward, run, counted=counted) for run in runs)
    return _fused_forward, own, exact, (a, beside)


def _fused_backward(a: Backward) -> tuple[Tensor | None, ...]:
    g_x, g_weight, *rest = fused.backward(a, "triton", rows=None)
    return g_x, None if g_weight is None else g_weight.to(a.weight.dtype), *rest


def _fused_forward(a: Forward, beside: Companions) -> tuple[Tensor | None, ...]:
    y, mean, var, z, rows, statistics = fused.forward(a, "triton", companions=beside)
    moved = beside.running if rows is not None else None  # else the caller moves them
    of_y = _merged(*statistics) if statistics else (None, None)
    return y, mean, var, z, *(moved or (None, None)), *of_y


def _forward(
    run: Any, a: Forward, beside: Companions, *, counted: bool
) -> tuple[Tensor | None, ...]:
    y, mean, var, z = run(a)
    running = beside.running if beside.of_x is not None else None
    if running is not None:
        count = a.x.numel() // mean.numel()
        norm_act.update_running_stats_(*running, mean, var, beside.momentum, count, beside.average)
    of_y: tuple[Tensor | None, ...] = (None, None)
    if counted and beside.segments:
        of_y = norm_act.moments(norm_act.split(y, beside.segments))
    kept = z if a.keep_z and a.has_prologue else None
    return y, mean, var, kept, *(running or (None, None)), *of_y


def _pieces(x: Tensor, segments: int, pieces: int) -> Statistics:
    """The statistics of x, of slices of the batch in so many pieces."""
    rows = x.movedim(1, -1).reshape(segments, -1, x.shape[1]).double()
    parts = rows.tensor_split(pieces, 1)
    means = [part.sum(1, True) / max(1, part.shape[1]) for part in parts]
    m2s = [(part - mean).square().sum(1) for part, mean in zip(parts, means, strict=True)]
    counts = torch.tensor([[part.shape[1] for part in parts]] * segments)
    return Statistics(counts.float(), torch.cat(means, 1).float(), torch.stack(m2s, 1).float())


def _merged(*of: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (segments, C) of `Statistics`."""
    counts, means, m2s = (t.double() for t in of if t is not None)
    weight = (counts / counts.sum(1, True))[..., None]
    mean = (weight * means).sum(1)
    m2 = (m2s + counts[..., None] * (means - mean[:, None]).square()).sum(1)
    return mean.float(), (m2 / counts.sum(1, True)).float()


class _Values:
    """Random tensors in place of `Spec`s, by names of arguments; images: what indices are of."""

    def __init__(self, images: Spec | None) -> None:
        self._images = images.shape[0] if images is not None else 0

    def __call__(self, name: str, value: Any) -> Any:
        if isinstance(value, Spec):
            return self._tensor(name, value)
        if not isinstance(value, tuple):
            return value
        names = getattr(value, "_fields", (name,) * len(value))
        held = [self(n, v) for n, v in zip(names, value, strict=True)]
        return type(value)(*held) if hasattr(value, "_fields") else tuple(held)

    def _tensor(self, name: str, spec: Spec) -> Tensor:
        first = spec.offset // spec.dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(spec.shape, spec.stride, strict=True))
        size = first + max(0, last) + 1
        if spec.dtype.is_floating_point:
            flat = torch.randn(size) + 0.5 if name == "x" else torch.randn(size)
            if name in _POSITIVE:
                flat = flat.square() + 0.5
            if name == "weight" and len(spec.shape) > 2:
                flat /= math.sqrt(math.prod(spec.shape[1:]))
        else:
            most = {torch.uint8: 256, torch.bool: 2}.get(spec.dtype, self._images)
            flat = torch.randint(most, (size,))
        return flat.to(spec.dtype).as_strided(spec.shape, spec.stride, first)


def _copies(value: Any, dtype: torch.dtype | None = None) -> Any:
    """With tensors of their own, of floating point in a dtype; strides stay."""
    if isinstance(value, Tensor):
        copy = value.new_empty(0) if not value.numel() else value
        storage = torch.empty(0, dtype=value.dtype).set_(copy.untyped_storage()).clone()
        if dtype is not None and value.is_floating_point():
            storage = storage.to(dtype)
        return storage.as_strided(value.shape, value.stride(), value.storage_offset())
    if not isinstance(value, tuple):
        return value
    held = [_copies(v, dtype) for v in value]
    return type(value)(*held) if hasattr(value, "_fields") else tuple(held)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, Tensor):
        yield value


def _first(value: Any) -> Tensor:
    """The first tensor of nested tuples."""
    return next(_tensors(value))


def _shapes(value: Any) -> str:
    if isinstance(value, Spec):
        return "x".join(map(str, value.shape)) + f":{str(value.dtype).removeprefix('torch.')}"
    return " ".join(filter(None, map(_shapes, value))) if isinstance(value, tuple) else ""


if __name__ == "__main__":
    main(sys.argv[1])
