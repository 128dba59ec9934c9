"""Whether an implementation's results count: a wrong one that is fast must not win.

The tests' rule and table of floors, for ours and for peers alike: the largest deviation from
float64 is at most twice that of eager PyTorch at the same dtype, plus a floor; eager's is the
larger of its two layouts'. To it comes what the kinks of activations leave open (see kinks).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from bench.harness.case import LAYOUTS
from bench.harness.kinks import OnBranch
from bench.harness.workload import Work
from fastgan.ops.core.tolerance import FLOOR

TIMES = 2.0
# With as many units at a kink, eager itself is on the other branch at a hundred: its error is a
# fair sample of what branches do, and nothing is added to it.
MANY = 1000


class Reference:
    """The truth about one set of inputs."""

    def __init__(self, work: Work, i: int) -> None:
        self.work, self.i = work, i
        self.eager = [work.eager(i, layout) for layout in LAYOUTS]
        self.exact = work.exact(i)

    @cached_property
    def spread(self) -> list[Tensor] | None:
        """What the branches of units at a kink can move, by value; None where eager's error says
        it."""
        moved = [torch.zeros_like(t) for t in self.exact]
        for up in (True, False):
            with OnBranch(up=up) as run:
                for total, one, truth in zip(
                    moved, self.work.exact(self.i), self.exact, strict=True
                ):
                    total += (one - truth).abs()
            if run.near >= MANY:
                return None
        return moved

    def why_refused(self, results: Sequence[Tensor]) -> str | None:
        """What is wrong with results; None if nothing is."""
        if len(results) != len(self.exact):
            return f"{len(results)} results where the reference has {len(self.exact)}"
        for i, own in enumerate(results):
            if own.shape != self.exact[i].shape:
                expected = tuple(self.exact[i].shape)
                return f"result {i} has shape {tuple(own.shape)}, expected {expected}"
            if not own.isfinite().all():
                return f"result {i} is not finite"
            if (wrong := self._why_refused(i, own)) is not None:
                return f"result {i}: {wrong}"
        return None

    def _why_refused(self, i: int, own: Tensor) -> str | None:
        truth = self.exact[i]
        size = truth.abs().max().clamp_min(1e-30) if truth.numel() else torch.tensor(1.0)
        theirs = max(_largest((eager[i].double() - truth).abs() / size) for eager in self.eager)
        allowed = TIMES * theirs + FLOOR[self.eager[0][i].dtype]
        deviation = (own.double() - truth).abs() / size
        if _largest(deviation) <= allowed:
            return None
        # The branches are looked at only where it matters: they take the reference twice more.
        if self.spread is not None:
            spread = self.spread[i] / size
            if self.work.network:
                # A unit moves all that stands behind it, and a few of them cancel differently in
                # each value: only the largest is comparable.
                allowed += _largest(spread)
            else:
                deviation = (deviation - spread).clamp_min(0.0)
        error = _largest(deviation)
        return f"error {error:.1e}, allowed {allowed:.1e}" if error > allowed else None


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
