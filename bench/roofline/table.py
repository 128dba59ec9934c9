"""The table of a training step's kernels: operations, bytes, bounds, and the time measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from bench.harness.cost import Cost
from bench.roofline.kernels import Kernel
from bench.roofline.model import CAUSES, total
from bench.roofline.peaks import Peak, Rates
from fastgan.ops.conv import timing

_ROUNDS = 7


class Line(NamedTuple):
    """A kernel of a network, microseconds of one run: the bound, and the median measured or None.

    Attributes:
        limit: what the bound is of, "operations" or "bytes".
    """

    network: str
    kernel: Kernel
    bound: float
    limit: str
    measured: float | None = None


def lines(networks: Mapping[str, Sequence[Kernel]], rates: Rates) -> list[Line]:
    """Every kernel with its bound at some rates, unmeasured."""
    found = []
    for network, kernels in networks.items():
        for kernel in kernels:
            cost = kernel.cost
            arithmetic = cost.operations / rates.operations
            memory = cost.moved / rates.bytes
            limit = "operations" if arithmetic > memory else "bytes"
            found.append(Line(network, kernel, cost.bound(*rates) * 1e6, limit))
    return found


def measured(given: Sequence[Line], device: torch.device) -> list[Line]:
    """Each kernel timed by itself on the device, all in turn within each round."""
    calls = {str(i): line.kernel.call for i, line in enumerate(given)}
    runnable = {name: call for name, call in calls.items() if call is not None}
    with torch.no_grad():
        times = timing.by_the_host(runnable, device, _ROUNDS)
    return [line._replace(measured=times.get(str(i))) for i, line in enumerate(given)]


def step_cost(given: Sequence[Line], network: str | None = None) -> Cost:
    """What a step, or a network's part, costs: each kernel as often as it runs."""
    kernels = [x.kernel for x in given if network in (None, x.network)]
    return Cost(*(sum(k.times * k.cost[i] for k in kernels) for i in range(3)))


def step_bound(given: Sequence[Line], network: str | None = None) -> float:
    """Microseconds of a step, or of a network's part: kernels run one after another."""
    return sum(x.bound * x.kernel.times for x in given if network in (None, x.network))


def step_measured(given: Sequence[Line], network: str | None = None) -> float | None:
    """The same of what was measured; None where a kernel was not."""
    chosen = [x for x in given if network in (None, x.network)]
    if any(x.measured is None for x in chosen):
        return None
    return sum((x.measured or 0.0) * x.kernel.times for x in chosen)


HEADINGS = (
    *("layer", "kernel", "by", "times", "GFLOP", "MiB", "bound, µs", "bound by"),
    *("measured, µs", "of the bound"),
)


def cells(line: Line) -> list[str]:
    """A line under HEADINGS."""
    kernel, cost = line.kernel, line.kernel.cost
    gflop = f"{cost.operations / 1e9:.2f}" if cost.operations else ""
    mib = f"{cost.moved / 2**20:.1f}"
    words = [kernel.layer, kernel.name, kernel.by, str(kernel.times), gflop, mib]
    return [*words, _us(line.bound), line.limit, *_shares(line.bound, line.measured)]


def sums(given: Sequence[Line]) -> list[list[str]]:
    """A line for each network, and one for the step, under HEADINGS; "bound by" is the share of the
    bounds that are of operations."""
    found = []
    for network in [*dict.fromkeys(line.network for line in given), None]:
        cost = step_cost(given, network)
        bound = step_bound(given, network)
        of_operations = step_bound([x for x in given if x.limit == "operations"], network)
        amounts = f"{cost.operations / 1e9:.2f}", f"{cost.moved / 2**20:.1f}", _us(bound)
        limit = f"operations {of_operations / bound:.0%}"
        shares = _shares(bound, step_measured(given, network))
        found.append([network or "step", "", "", "", *amounts, limit, *shares])
    return found


def print_step(title: str, given: Sequence[Line], peak: Peak | None = None) -> None:
    """Prints the table. Its sums count each kernel as often as it runs in a step.

    Args:
        peak: of a GPU that is modelled: what kernels should take there, and what is left of that.
    """
    from rich.console import Console
    from rich.table import Table

    timed = any(line.measured is not None for line in given)
    shown = [i for i in range(len(HEADINGS)) if timed or i not in (2, 8, 9)]
    table = Table(title=title, title_justify="left")
    for i in shown:
        table.add_column(HEADINGS[i], justify="right" if i in (3, 4, 5, 6, 8, 9) else "left")
    for heading in ("estimate, µs", "left, µs") if peak else ():
        table.add_column(heading, justify="right")
    previous = None
    for line in given:
        if previous not in (None, line.network):
            table.add_section()
        previous = line.network
        more = _estimated([line._replace(kernel=line.kernel._replace(times=1))], peak)
        table.add_row(*map(cells(line).__getitem__, shown), *more)
    table.add_section()
    for row in sums(given):
        of_network = [x for x in given if row[0] in ("step", x.network)]
        table.add_row(*map(row.__getitem__, shown), *_estimated(of_network, peak))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    if peak:
        left = total([x.kernel for x in given], peak)
        causes = ", ".join(f"{CAUSES[name]} {_us(value)}" for name, value in left._asdict().items())
        console.print(
            f"By a model, not a measurement, left of the step beyond its bounds, µs: {causes}."
        )


def _estimated(given: Sequence[Line], peak: Peak | None) -> list[str]:
    if peak is None:
        return []
    left = total([x.kernel for x in given], peak).left
    return [_us(step_bound(given) + left), _us(left)]


def _us(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _shares(bound: float, found: float | None) -> tuple[str, str]:
    return ("", "") if found is None else (_us(found), f"{bound / found:.0%}")
