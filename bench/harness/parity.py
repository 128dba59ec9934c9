"""Whether an implementation's results count: a wrong one that is fast must not win.

The tests' rule (tests/ops/tolerance.py, whose table of floors is used here too): the error against
float64 is at most twice that of eager PyTorch at the same dtype, plus a floor. Peers may err more,
so that none is refused for rounding otherwise than eager does.

A few values may lie further off: where a value rounds to the other side of an activation's kink,
its gradient is another. In a network such a value spreads to all behind it, so there the root mean
square over a tensor is compared instead of each of its values.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

OWN, PEER = 2.0, 16.0
AT_A_KINK = 1e-5  # of a tensor's values, and at least one of them
NETWORK = 2e-2  # the least error that counts in a network: eager's own is up to 2e-3 in float32


def _floors() -> dict[torch.dtype, float]:
    path = Path(__file__).resolve().parents[2] / "tests" / "ops" / "tolerance.py"
    spec = importlib.util.spec_from_file_location("_bench_tolerance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    floors: dict[torch.dtype, float] = module.FLOOR
    return floors


FLOOR = _floors()


def why_refused(
    results: Sequence[Tensor],
    eager: Sequence[Tensor],
    exact: Sequence[Tensor],
    times: float = OWN,
    network: bool = False,
) -> str | None:
    """What is wrong with results; None if nothing is. `times`: eager's error that is allowed."""
    if len(results) != len(exact):
        return f"{len(results)} results where the reference has {len(exact)}"
    for i, (own, theirs, truth) in enumerate(zip(results, eager, exact, strict=True)):
        if own.shape != truth.shape:
            return f"result {i} has shape {tuple(own.shape)}, expected {tuple(truth.shape)}"
        if not own.isfinite().all():
            return f"result {i} is not finite"
        measure = _root_mean_square if network else _nearly_largest
        error = measure(own, truth)
        allowed = times * measure(theirs, truth) + FLOOR[theirs.dtype] + network * NETWORK
        if error > allowed:
            return f"result {i}: error {error:.1e}, allowed {allowed:.1e}"
    return None


def _nearly_largest(actual: Tensor, exact: Tensor) -> float:
    """The largest deviation but for those at a kink, relative to the largest value."""
    deviations = (actual.double() - exact.double()).abs().flatten()
    if deviations.numel() < 2:
        return float((deviations / exact.double().abs().clamp_min(1e-30)).sum())
    left_out = min(deviations.numel() // 2, max(1, int(AT_A_KINK * deviations.numel())))
    largest = deviations.topk(left_out + 1).values[-1]
    return float(largest / exact.double().abs().max().clamp_min(1e-30))


def _root_mean_square(actual: Tensor, exact: Tensor) -> float:
    deviation = (actual.double() - exact.double()).norm()
    return float(deviation / exact.double().norm().clamp_min(1e-30))
