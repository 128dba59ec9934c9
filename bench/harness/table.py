"""The table that a run prints: a line a case, a column an implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.harness.measure import Measurement
from bench.paired import geometric_mean, median_interval, ratio_interval


def render(measured: Sequence[Measurement], ceilings: Mapping[str, dict[str, float]]) -> str:
    """By op and shape: our time, and how many times faster ours is than each peer.

    ceilings: of each device that was measured on.
    """
    lines: list[str] = []
    group = ""
    for found in measured:
        if found.case.group != group:
            group = found.case.group
            lines += ["", group]
        lines.append(f"  {found.case.variant}")
        lines += [f"    {line}" for line in _lines(found, ceilings[found.case.device])]
    return "\n".join([*lines, *_summary(measured)])


def _lines(found: Measurement, ceilings: dict[str, float]) -> list[str]:
    own = next((name for name in found.own if name in found.times), None)
    lines = []
    for name, seconds in found.times.items():
        middle = median_interval(seconds)
        text = f"{name:32} {middle.value * 1e3:9.3f} ms"
        if own is not None and name != own:
            value, low, high = ratio_interval(seconds, found.times[own])
            text += f"   {value:5.2f}× the time of {own} [{low:.2f}, {high:.2f}]"
        if (floor := found.floor(ceilings)) is not None:
            text += f"   {floor / middle.value:.0%} of the roofline"
        if name in found.saved:
            text += f"   saves {found.saved[name] / 2**20:.1f} MiB"
            text += f"   peak {found.peak[name] / 2**20:.0f} MiB"
        lines.append(text)
    if any(state.get("throttled") for state in found.gpu):
        lines.append("the GPU was slowed down while this was measured")
    return lines + [f"{name:32} {reason}" for name, reason in found.left_out.items()]


def _summary(measured: Sequence[Measurement]) -> list[str]:
    """The geometric mean of the ratios by op and peer, and how often the peer is faster."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for found in measured:
        own = next((name for name in found.own if name in found.times), None)
        for name in found.times:
            if own is not None and name not in found.own:
                value = ratio_interval(found.times[name], found.times[own]).value
                ratios.setdefault((found.case.op, name), []).append(value)
    if not ratios:
        return []
    lines = ["", "geometric mean of a peer's time over ours, and in how many cases it is faster"]
    for (op, peer), values in ratios.items():
        faster = sum(v < 1 for v in values)
        lines.append(
            f"  {op:16} {peer:32} {geometric_mean(values):5.2f}  {faster} of {len(values)}"
        )
    return lines
