"""Runs layers one after another as the blocks they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from fastgan.nn import layout, steps
from fastgan.nn.blocks import Block, held
from fastgan.nn.planner import (
    Again,
    Form,
    Leaf,
    Planned,
    choose,
    form_of,
    kind_of,
    kind_of_call,
)
from fastgan.nn.recording import Run, is_recording, record, recorded_as_converted
from fastgan.ops import conv_block
from fastgan.ops.conv.geometry import output_shape
from fastgan.ops.conv_block import Deferred
from fastgan.ops.conv_block.autograd import backend_of
from fastgan.ops.core import dispatch
from fastgan.ops.core.memory_format import CHANNELS_LAST, channels_last, is_channels_last
from fastgan.ops.core.tensors import autocast_dtype, check_tensor, running_pair
from fastgan.ops.norm_act import move_running_stats
from fastgan.ops.norm_act.autograd import settle_for
from fastgan.ops.norm_act_conv import Norm, fused, with_statistics
from fastgan.ops.norm_act_conv.fused import Companions, Statistics
from fastgan.ops.norm_act_conv.repeated import Repeated

# What comes with a block's input: mean and variance, or what `norm_act_conv.fused` made of them.
_Pair = tuple[Tensor, Tensor]
_Moments = _Pair | Statistics
_Following = tuple[Block, str | None] | None  # the next block, and its form where that is known


class _Convolved(NamedTuple):
    """What came of a block with a convolution.

    Attributes:
        moments: of y, for the next block.
        step: what makes the call again, if anything does.
        pieces: whether it ran by `norm_act_conv.fused`.
        apart: whether its norm took a pass of its own.
    """

    y: Tensor
    moments: _Moments | None
    step: Repeated | None
    pieces: bool = False
    apart: bool = False


_KEEPING = ("unfused", "norm_fused")  # forms that keep for backward what torch.nn's layers keep


_plainly = False


@contextmanager
def unfused() -> Iterator[None]:
    """Within, the children of every FusedSequential and `chain` run one by one, as they are."""
    global _plainly
    previous, _plainly = _plainly, True
    try:
        yield
    finally:
        _plainly = previous


def runs_unfused() -> bool:
    """Whether `unfused` is in force."""
    return _plainly


class Runner(NamedTuple):
    """Runs layers one after another as blocks; the options are FusedSequential's."""

    segments: int = 1  # of torch.nn's batch norms
    keep_activations: bool = False
    planned: Planned | None = None

    def run(self, x: Tensor, leaves: list[Leaf]) -> Tensor:
        if type(x) is not Tensor:
            check_tensor("input", x)
        planned, kind = self.planned or Planned(), None
        compiling = torch.compiler.is_compiling()
        if dispatch.in_plain_export() if compiling else dispatch.is_composite(dispatch.setting()):
            return self._as_they_are((child for _, child in leaves), x)
        if not compiling:
            kind = kind_of(x), kind_of_call(), self.segments, self.keep_activations
        planned.last = planned.forms.get(kind) if planned.leaves == leaves else None
        ready = None if planned.last is None or is_recording() else planned.ready.get(kind)
        if ready is not None and not (_plainly or _has_any_global_hook()):
            if steps.unchanged(ready.relies):
                planned.converts = False
                return ready.step(x)
            planned.choose_again(kind)
            planned.last = None
        plain = planned.last is not None and kind in planned.plain
        if (plain and not is_recording()) or _plainly or _has_any_global_hook():
            return self._as_they_are((child for _, child in leaves), x)
        blocks = planned.blocks(leaves)
        planned.last = planned.forms.get(kind)
        again: Again | None = None
        if kind is not None and not is_recording() and dispatch.is_eager(x):
            again = planned.again.setdefault(kind, [None] * len(blocks))
        if planned.last is not None:
            planned.converts = kind in planned.converted
            return self._run_in(planned.converts, x, blocks, planned.last, again)[0]
        converts = kind is not None and layout.pays(blocks, x)
        y, forms = self._run_in(converts, x, blocks, None, again)
        if kind is not None:
            planned.keep(kind, forms, converts)
            if not converts and self.segments == 1 and steps.serve(x):
                planned.make_ready(kind)
        return y

    def _run_in(
        self,
        converted: bool,
        x: Tensor,
        blocks: list[Block],
        forms: list[Form] | None,
        again: Again | None,
    ) -> tuple[Tensor, list[Form]]:
        """As _run; converted: on a channels-last copy of x, with an output as of x itself."""
        if not converted:
            return self._run(x, blocks, forms, again)
        with recorded_as_converted():
            y, forms = self._run(layout.converted(x), blocks, forms, again)
        return layout.restored(y), forms

    def _run(
        self, x: Tensor, blocks: list[Block], forms: list[Form] | None, again: Again | None
    ) -> tuple[Tensor, list[Form]]:
        """(the output, how each block ran).

        Args:
            forms: how they are to run, if that is known.
            again: of plain eager calls of this kind, what makes each block's call again; filled as
                blocks run.
        """
        found: list[Form] = []
        moments: _Moments | None = None
        for i, block in enumerate(blocks):
            following = None
            if i + 1 < len(blocks):
                following = blocks[i + 1], None if forms is None else forms[i + 1].name
            chosen = form_of(block, x, self.keep_activations) if forms is None else forms[i]
            form, given, ran = chosen.name, x, None
            if form == "norm_act":
                x, moments = steps.run_norm(block, x, self._norm(block, x)), None
            elif form == "norm_fused" and block.norm is not None:
                x, moments = steps.run_norm(block, x, self._norm(block, x)), None
                x = self._as_they_are(block.children[block.before_conv :], x)
            elif form in ("", "unfused", "norm_fused"):
                x, moments = self._as_they_are(block.children, x), None
            else:
                step = None if again is None else again[i]
                ran = self._convolve(block, x, form, moments, following, step)
                x, moments = ran.y, ran.moments
                if again is not None:
                    again[i] = ran.step
            found.append(chosen)
            if is_recording():
                record(self._recorded(block, given, x, chosen, ran))
        return x, found

    def _recorded(
        self, block: Block, x: Tensor, y: Tensor, form: Form, ran: _Convolved | None
    ) -> Run:
        pieces, apart = (False, False) if ran is None else (ran.pieces, ran.apart)
        keeps = apart or form.name in _KEEPING
        if form.name == "fused" and pieces and not self._serves(block, x, x.shape):
            form = Form("recompute", "none but the gather of Triton's kernels serves it")
        kept = form.name == "recompute" or pieces
        return Run(block, x, y, *form, keeps or (kept and self.keep_activations))

    def _convolve(
        self,
        block: Block,
        x: Tensor,
        form: str,
        moments: _Moments | None,
        following: _Following,
        step: Repeated | None,
    ) -> _Convolved:
        """A block in the forms "fused" and "recompute".

        Args:
            step: what makes the block's last call of this kind again; the call is a plain eager
                one then.
        """
        assert block.conv is not None
        weight = held(block.conv, "weight")  # read once: spectral norm takes a step at each reading
        norm = block.norm_arguments(x, self.segments, is_eager=step is not None)
        of_x = moments if isinstance(moments, Statistics) else None
        if step is not None:
            wanted = self._rows(block, following, x, in_pieces=True)
            again = step.again(x, weight, block.conv_bias, norm, of_x, wanted)
            if again is not None:
                return _Convolved(*again, step, pieces=True)
        pieces = self._pieces(block, x, form, of_x)
        x = laid_out(x, weight) if pieces is None else x
        if form == "recompute" or pieces is not None:
            ran = self._norm_act_conv(block, x, weight, norm, pieces, following, step)
            return _Convolved(*ran, pieces=pieces is not None)
        pair = None if isinstance(moments, Statistics) else moments
        apart = block.trains() and pair is None
        if apart:  # no statistics came with x: its norm takes a pass of its own
            x, norm, block = steps.run_norm(block, x, norm), None, block.without_norm()
        y, pair = self._conv_block(block, x, weight, norm, pair, following)
        return _Convolved(y, pair, None, apart=apart)

    def _norm(self, block: Block, x: Tensor) -> Norm | None:
        """The arguments of a block's norm, for one use: the batch is counted as they are read."""
        return block.norm_arguments(x, self.segments)

    def _as_they_are(self, children: Iterable[nn.Module], x: Tensor) -> Tensor:
        for child in children:
            several = self.segments > 1 and child.training and isinstance(child, _BatchNorm)
            if several and not hasattr(child, "segments"):
                x = torch.cat([child(part) for part in x.chunk(self.segments)])
            else:
                x = child(x)
        return x

    def _norm_act_conv(
        self,
        block: Block,
        x: Tensor,
        weight: Tensor,
        norm: Norm | None,
        pieces: Companions | None,
        following: _Following,
        step: Repeated | None,
    ) -> tuple[Tensor, Statistics | None, Repeated | None]:
        """The recompute form: the statistics of x are taken, and z made, before the convolution;
        and the fused one on GPUs with TMA, where statistics came with x, and come with y.
        """
        if pieces is not None:
            pieces = pieces._replace(segments=self._rows(block, following, x, in_pieces=True))
        return with_statistics(
            x, weight, block.conv_bias, norm, pieces, step,
            pre_activation=block.before.name, pre_slope=block.before.slope,
            **block.geometry._asdict(), activation=block.after.name,
            negative_slope=block.after.slope, keep_z=self.keep_activations,
        )  # fmt: skip

    def _pieces(
        self, block: Block, x: Tensor, form: str, of_x: Statistics | None
    ) -> Companions | None:
        """What a block is called with that runs by `norm_act_conv.fused`: one in the fused form
        whose convolution runs there, or one whose input came with statistics in pieces.
        """
        if form == "recompute" and of_x is not None:
            return Companions(of_x)
        if form != "fused" or torch.compiler.is_compiling():
            return None
        if backend_of(x, dispatch.setting()) != "triton":
            return None
        served = of_x is not None or self._serves(block, x, x.shape)
        return Companions(of_x) if served else None

    def _conv_block(
        self,
        block: Block,
        x: Tensor,
        weight: Tensor,
        norm: Norm | None,
        moments: _Pair | None,
        following: _Following,
    ) -> tuple[Tensor, _Pair | None]:
        """The fused form elsewhere: x is normalised as it is loaded, by statistics that came with
        it.
        """
        deferred = _deferred(block, x, norm, moments)
        if norm is not None and norm.training and moments is not None:
            running = norm.running_mean, norm.running_var
            move_running_stats(x, *running, *moments, norm.momentum, norm.average_segments)
        y, mean, var = conv_block(
            x, weight, block.conv_bias, deferred, **block.geometry._asdict(),
            activation=block.after.name, negative_slope=block.after.slope,
            segments=self._rows(block, following, x, in_pieces=False),
        )  # fmt: skip
        return y, (mean, var) if mean.numel() else None

    def _rows(self, block: Block, following: _Following, x: Tensor, in_pieces: bool) -> int:
        """Segments of the statistics of y that the following block wants to be handed; 0: none.

        Args:
            in_pieces: they would be `Statistics`.
        """
        if following is None or following[0].conv is None or not following[0].trains():
            return 0
        next_block, form = following
        rows = next_block.rows(x.shape[0], self.segments)
        if rows == 0 or x.shape[0] % rows:
            return 0
        shape: tuple[int, ...] = ()
        if form is None or not in_pieces:
            shape = output_shape(x.shape, block.weight_shape, block.geometry)
            form = form or choose(next_block, x, shape, self.keep_activations)[0]
        if in_pieces:
            return rows if form in ("fused", "recompute") else 0
        elsewhere = form == "fused" and not self._serves(next_block, x, shape)
        return rows if elsewhere else 0

    def _serves(self, block: Block, x: Tensor, shape: tuple[int, ...]) -> bool:
        """Whether `norm_act_conv.fused` runs the convolution of an input of x's kind."""
        if not dispatch.is_eager(x):
            return False
        weight, geometry = block.weight_shape, block.geometry
        return fused.serves(tuple(shape), autocast_dtype(x), x.device, weight, geometry)


def laid_out(x: Tensor, weight: Tensor) -> Tensor:
    """x in channels-last memory where the weight is, as torch.nn's convolutions take it."""
    wanted = CHANNELS_LAST.get(x.dim())
    if wanted is None or weight.is_contiguous() or is_channels_last(x):
        return x
    return channels_last(x) if is_channels_last(weight) else x


def _deferred(block: Block, x: Tensor, norm: Norm | None, moments: _Pair | None) -> Deferred:
    activation, slope = block.before
    if norm is None:
        return Deferred(activation=activation, negative_slope=slope)
    rows = moments
    if not norm.training:
        running = running_pair(x, norm.running_mean, norm.running_var)
        assert running is not None
        settle_for(running[0])
        rows = running[0].reshape(1, -1), running[1].reshape(1, -1)
    assert rows is not None
    return Deferred(*rows, norm.weight, norm.bias, norm.eps, activation, slope)
