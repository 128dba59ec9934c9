"""How a module's convolution blocks run, and by measurement how they should: explain and tune."""

from __future__ import annotations

import copy
import math
import textwrap
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastgan.checks import check_module
from fastgan.fusion.copying import copied
from fastgan.fusion.fuse import fuse
from fastgan.fusion.report import FusionReport
from fastgan.nn.blocks import Block
from fastgan.nn.layers import Activation
from fastgan.nn.recording import Run, recording
from fastgan.nn.runner import Runner, laid_out
from fastgan.ops import conv_block
from fastgan.ops.conv import aten, timing, tma, tuning
from fastgan.ops.conv.algorithms import Kernels, is_triton, kernels_of
from fastgan.ops.conv.problem import FORWARD, PASSES, describe
from fastgan.ops.conv_block import Deferred, backend_of
from fastgan.ops.core import dispatch
from fastgan.ops.core.memory_format import is_channels_last
from fastgan.ops.core.tensors import autocast_dtype, stat_dtype
from fastgan.ops.norm_act_conv import fused, with_statistics
from fastgan.system import tell


class Row(NamedTuple):
    """One block of `explain`. Sizes in bytes of a training pass; the rest of the forward pass.

    Attributes:
        layout: memory of its tensors: "contiguous", "channels-last", or "converted" to that, where
            it pays, from contiguous ones.
        kernels: what runs its convolution, forward and for both gradients; None without one.
    """

    name: str
    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    form: str
    why: str
    backend: str
    layout: str
    kernels: Kernels | None
    saved_eager: int
    saved_fused: int
    operations: int
    traffic: int


class Rows(list[Row]):
    """What `explain` has printed: a list whose repr is short, as a prompt shows it once more."""

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


def explain(module: nn.Module, *inputs: Tensor) -> Rows:
    """Runs a copy of `module` on `inputs` and prints a table of its blocks; returns the rows.

    For each block of a fused model, of a `FusedSequential` or of `fastgan.nn.chain`: the layers it
    is made of, shapes, form ("fused", "recompute", "norm_fused", "unfused" or "as it is"; see
    `convolution_form`; numbered reasons stand below) and the backend of its elementwise kernels,
    what runs its convolution and, where that is another, its gradients (see
    `fastgan/ops/conv/algorithms.py`), what torch.nn's layers and the block save for backward, and
    the operations (two a multiply-add) and bytes of its forward pass (input, weights and output
    once each). The blocks that `fuse` left as they are follow, with the reason. A module that is
    not fused is explained as `fuse` would have it.

    TypeError for a module or inputs that are none; ValueError if there is no block in `module`.
    """
    rows = explained(module, *inputs)
    shapes = ", ".join(_times(tuple(x.shape)) for x in inputs)
    print(f"{type(module).__name__} on {shapes}, {tuning.device_name(inputs[0].device)}")
    print("\n".join(_table(rows)))
    return Rows(rows)


def _table(rows: list[Row]) -> list[str]:
    """Two lines a block, as names and shapes side by side would not fit in 100 columns: its layers,
    which are broken only between names, and what runs."""
    notes = [", ".join(filter(None, (r.backend, r.layout, r.why))) for r in rows]
    known = list(dict.fromkeys(notes))
    cells: list[tuple[str, ...]] = [("shapes", "form", *_HEADINGS, "convolution")]
    for row, note in zip(rows, notes, strict=True):
        shapes = f"{_times(row.input)} → {_times(row.output)}" if row.output else ""
        form = f"{row.form} ({known.index(note) + 1})"
        cells.append((shapes, form, *_numbers([row]), str(row.kernels or "")))
    cells.append(("sum", "", *_numbers(rows), ""))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(texts, widths) for texts in cells]
    body = [[*_names(row), *line] for row, line in zip(rows, lines[1:-1], strict=True)]
    reasons = [f"({number}) {note}" for number, note in enumerate(known, 1)]
    return [*chain(lines[0], *body, lines[-1]), *reasons]


def _names(row: Row) -> list[str]:
    words = f"{row.name}: {row.kind}" if row.name else row.kind
    return textwrap.wrap(
        words, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Text on the left, numbers on the right, and the convolution in what is left of the line."""
    *texts, last = cells
    fields = [
        text.ljust(width) if number < 2 else text.rjust(width)
        for number, (text, width) in enumerate(zip(texts, widths, strict=False))
    ]
    start = "  " + "  ".join(fields)
    words = textwrap.wrap(last, max(20, _WIDTH - len(start) - 2)) or [""]
    return [f"{start}  {words[0]}".rstrip(), *(" " * (len(start) + 2) + w for w in words[1:])]


_WIDTH = 100
_HEADINGS = "MiB saved", "torch.nn's", "GFLOP", "MiB moved"


def _numbers(rows: list[Row]) -> list[str]:
    columns = [[r.saved_fused, r.saved_eager, r.operations, r.traffic] for r in rows]
    fused, eager, operations, traffic = map(sum, zip(*columns, strict=True))
    sizes = [f"{n / 2**20:.1f}" for n in (fused, eager, traffic)]
    return [*sizes[:2], f"{operations / 1e9:.2f}", sizes[2]]


def traced(module: nn.Module, *inputs: Tensor) -> tuple[list[Run], FusionReport]:
    """What became of each block in a forward pass of a copy of `module`, and what `fuse` left."""
    runs, report = _recorded(own := copied(module), *inputs)
    if not runs and not len(report):
        runs, report = _recorded(fuse(own), *inputs)
    if not runs and not len(report):
        raise ValueError(f"module: there is no block to fuse in {type(module).__name__}")
    return runs, report


def _recorded(module: nn.Module, *inputs: Tensor) -> tuple[list[Run], FusionReport]:
    with torch.enable_grad(), recording() as runs:
        module(*inputs)
    return runs, vars(module).get("fusion_report", FusionReport())


def explained(module: nn.Module, *inputs: Tensor) -> list[Row]:
    """The rows of `explain`, unprinted."""
    check_module("module", module)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        got = ", ".join(type(x).__name__ for x in inputs) or "nothing"
        raise TypeError(f"inputs: expected the tensors that module is called with, got {got}")
    seen: set[int] = set()
    runs, report = traced(module, *inputs)
    left = [(", ".join(b.layers), b.kinds, b.reason) for b in report.blocks if not b.fused]
    left += [(name, (), why) for name, why in report.untraced]
    return [
        *(_row(run, seen) for run in runs),
        *(
            Row(name, " → ".join(kinds), (), (), "as it is", why, "", "", None, 0, 0, 0, 0)
            for name, kinds, why in left
        ),
    ]


def _row(run: Run, seen: set[int]) -> Row:
    block, x, y = run.block, run.input, run.output
    operations = weights = 0
    if run.form and block.conv is not None:
        weight = block.conv.weight
        positions = (x if block.geometry.transposed else y).shape
        operations = 2 * weight.numel() * positions[0] * math.prod(positions[2:])
        weights = weight.numel() * y.element_size()
    traffic = _bytes(x) + weights + _bytes(y)
    saved = _saved(run, seen)
    normalised = _bytes(x) if block.norm is not None else 0
    return Row(
        ", ".join(block.names), " → ".join(type(child).__name__ for child in block.children),
        tuple(x.shape), tuple(y.shape), run.form or "as it is", run.why,
        _backend(x), _layout(run), convolution_kernels(run),
        saved + normalised, saved + normalised * run.keeps_normalised, operations, traffic,
    )  # fmt: skip


def _backend(x: Tensor) -> str:
    asked = dispatch.setting()
    return "PyTorch" if dispatch.in_torch(asked, x.device.type) else dispatch.resolve(asked, x)


def _layout(run: Run) -> str:
    if run.converted:
        return "converted"
    return "channels-last" if is_channels_last(run.input) else "contiguous"


def convolution_kernels(run: Run) -> Kernels | None:
    """What runs the convolution of a block, forward and for both gradients."""
    block, x = run.block, run.input
    if not run.form or block.conv is None:
        return None
    x = laid_out(x.to(autocast_dtype(x)), block.conv.weight)
    weight = block.conv.weight.to(x.dtype)
    problem = describe(FORWARD, x, weight, block.geometry, block.after != Activation())
    if run.form == "recompute":
        return kernels_of(problem)
    if run.form == "fused" and backend_of(x, dispatch.setting()) == "triton":
        problem = problem._replace(channels_last=True, triton=True)
        if tma.supports(problem) or not is_triton(problem):
            passes = [problem._replace(of=of) for of in PASSES]
            return Kernels(*(tma.name(p) if tma.supports(p) else "Triton" for p in passes))
        return kernels_of(problem)
    return Kernels(*[aten.name(problem)] * 3)


def _saved(run: Run, seen: set[int]) -> int:
    """Bytes that a block keeps for backward and no block before it does.

    Those are its input and, where an activation ends it, its output. torch.nn's layers keep the
    same two and what a norm hands to the convolution.
    """
    block = run.block
    reads = block.conv is not None or block.norm is not None
    reads |= isinstance(block.children[0], nn.LeakyReLU)
    kept = [run.input] if reads else []
    kept += [run.output] if run.block.after != Activation() else []
    new = [t for t in kept if t.data_ptr() not in seen]
    seen.update(t.data_ptr() for t in new)
    return sum(_bytes(t) for t in new)


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def tune(
    module: nn.Module,
    input: Tensor | tuple[Tensor, ...],
    rounds: int = 10,
    forms: tuple[str, ...] | None = None,
) -> dict[str, dict[str, timing.Times]]:
    """Measures, on this machine, every form that each convolution block of `module` could run in.

    Returns {layer: {form: times of forward + backward}} and adds it to the user's tuning table
    (`fastgan.ops.conv.tuning.user_table()`), whole or not at all. On a GPU the times are those of
    CUDA graphs, with caches cold and warm (see `fastgan.ops.conv.timing`), and the mean of both
    decides; a choice holds for the batches nearest to that of `input`.

    Args:
        input: what `module` is called with: a tensor, or several.
        forms: by default those that are compiled for the device of `input`; one alone leaves
            nothing to choose, and is measured anyway.
    """
    inputs = (input,) if isinstance(input, Tensor) else input
    first = inputs[0]
    forms = forms or tuning.compiled_forms(first.device, autocast_dtype(first))
    forms = tuple(map(tuning.convolution_form.current, forms))
    measured: dict[str, dict[str, timing.Times]] = {}
    runs = traced(module, *inputs)[0]
    for number, run in enumerate(runs):
        tell("measuring layers", number, len(runs))
        block, x = run.block, run.input
        if not run.form or block.conv is None:
            continue
        layer = tuning.layer_key(tuple(x.shape), tuple(block.conv.weight.shape), block.geometry)
        if layer not in measured:
            calls = {form: _call(run, form) for form in forms}
            measured[layer] = timing.measure(calls, x.device, rounds)
    tell("measuring layers", len(runs), len(runs))
    tuning.store(tuning.device_name(first.device), autocast_dtype(first), measured)
    return measured


def _call(run: Run, form: str) -> Callable[[], object]:
    """Forward and backward of a block in a form, on values of its own."""
    block = run.block
    x = torch.randn_like(run.input, dtype=autocast_dtype(run.input)).requires_grad_()
    dy = torch.randn_like(run.output, dtype=x.dtype)
    if form == "fused":
        return _fused_call(block, x, dy)
    layers = copy.deepcopy(list(zip(block.names, block.children, strict=True)))
    for _, layer in layers:
        if isinstance(layer, _ConvNd) and x.is_cuda:
            layer.to(x.dtype)  # as in a step, where all weights are rounded together
    own = [p for _, layer in layers for p in layer.parameters()]

    def call() -> object:
        with tuning.convolution_form(form):
            return torch.autograd.grad(Runner().run(x, layers), [x, *own], dy)

    return call


def _fused_call(block: Block, x: Tensor, dy: Tensor) -> Callable[[], object]:
    """As within a chain, where statistics of x come with it: a block alone would take them."""
    assert block.conv is not None
    weight = block.conv.weight.detach().to(x.dtype).requires_grad_()
    rows = block.rows(x.shape[0], 1) if block.trains() else 0
    if backend_of(x, dispatch.setting()) == "triton" and fused.serves(
        x.shape, x.dtype, x.device, weight.shape, block.geometry
    ):
        return _tma_call(copy.deepcopy(block), x, weight, dy, rows)
    moments: list[Tensor] = []
    if rows:
        shape, dtype = (rows, x.shape[1]), stat_dtype(x)
        moments = [make(shape, dtype=dtype, device=x.device) for make in (torch.zeros, torch.ones)]
        moments = [m.requires_grad_() for m in moments]
    mean, var = moments or (None, None)
    before, after = block.before, block.after
    deferred = Deferred(mean, var, activation=before.name, negative_slope=before.slope)

    def call() -> object:
        y, *sums = conv_block(
            x, weight, None, deferred, **block.geometry._asdict(),
            activation=after.name, negative_slope=after.slope, segments=rows,
        )  # fmt: skip
        outputs = [y, *(s for s in sums if s.numel())]
        gradients = [dy, *(torch.ones_like(s) for s in outputs[1:])]
        return torch.autograd.grad(outputs, [x, weight, *moments], gradients)

    return call


def _tma_call(
    block: Block, x: Tensor, weight: Tensor, dy: Tensor, rows: int
) -> Callable[[], object]:
    """Statistics in as many pieces as the norm merges by itself, and those of y as many times."""
    shape = rows, _PIECES, x.shape[1]
    counts = torch.full(shape[:2], x.numel() / max(1, rows * _PIECES * x.shape[1]), device=x.device)
    means, m2s = (torch.ones(shape, device=x.device) for _ in range(2))
    companions = fused.Companions(
        fused.Statistics(counts, means, m2s) if rows else None, segments=rows
    )
    affine = [] if block.norm is None else list(block.norm.parameters())

    def call() -> object:
        y, *_ = with_statistics(
            x, weight, None, block.norm_arguments(x, 1), companions,
            pre_activation=block.before.name, pre_slope=block.before.slope,
            **block.geometry._asdict(), activation=block.after.name,
            negative_slope=block.after.slope, keep_z=False,
        )  # fmt: skip
        return torch.autograd.grad(y, [x, weight, *affine], dy)

    return call


_PIECES = 32
