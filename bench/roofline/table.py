"""The table of a training step's kernels: operations, bytes, bounds, and the time measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from bench.harness.cost import NOTHING, Cost
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
            arithmetic = kernel.cost.operations / rates.operations
            limit = "operations" if arithmetic > kernel.cost.moved / rates.bytes else "bytes"
            found.append(Line(network, kernel, kernel.cost.bound(*rates) * 1e6, limit))
    return found


def measured(given: Sequence[Line], device: torch.device) -> list[Line]:
    """Each kernel timed by itself on the device, all in turn within each round."""
    calls = {str(i): line.kernel.call for i, line in enumerate(given)}
    runnable = {name: call for name, call in calls.items() if call is not None}
    with torch.no_grad():
        times = timing.by_the_host(runnable, device, _ROUNDS)
    return [line._replace(measured=times.get(str(i))) for i, line in enumerate(given)]


def step_cost(given: Sequence[Line]) -> Cost:
    """What a step costs: each kernel as often as it runs."""
    return sum((x.kernel.cost for x in given for _ in range(x.kernel.times)), start=NOTHING)


def step_bound(given: Sequence[Line]) -> float:
    """Microseconds of a step: kernels run one after another."""
    return sum(x.bound * x.kernel.times for x in given)


def step_measured(given: Sequence[Line]) -> float | None:
    """The same of what was measured; None where a kernel was not."""
    times = [x.measured for x in given]
    if None in times:
        return None
    return sum((x.measured or 0.0) * x.kernel.times for x in given)


def rows(given: Sequence[Line], peak: Peak | None = None) -> list[list[str]]:
    """The table, its headings first: kernels by themselves, and the sums of each network and of the
    step, in which they count as often as they run; there "bound by" is the share of the bounds that
    are of operations.

    Args:
        peak: of a GPU that is modelled: what kernels should take there, and what is left of that.
    """
    timed = step_measured(given) is not None
    heading = ["layer", "kernel", *["by"] * timed, "times", "GFLOP", "MiB", "bound, µs", "bound by"]
    heading += ["measured, µs", "of the bound"] * timed
    found = [heading + ["estimate, µs", "left, µs"] * (peak is not None)]
    for line in given:
        kernel = line.kernel
        words = [f"{line.network[:1].upper()} {kernel.layer}", kernel.name]
        words += [*[kernel.by] * timed, str(kernel.times)]
        once = line._replace(kernel=kernel._replace(times=1))
        found.append([*words, *_numbers([once], line.limit, peak)])
    for network in [*dict.fromkeys(line.network for line in given), "step"]:
        own = [x for x in given if network in ("step", x.network)]
        of_operations = step_bound([x for x in own if x.limit == "operations"])
        limit = f"operations {of_operations / step_bound(own):.0%}"
        found.append([network, *[""] * (2 + timed), *_numbers(own, limit, peak)])
    return found


def _numbers(given: Sequence[Line], limit: str, peak: Peak | None) -> list[str]:
    cost, bound, took = step_cost(given), step_bound(given), step_measured(given)
    gflop = f"{cost.operations / 1e9:.2f}" if cost.operations else ""
    found = [gflop, f"{cost.moved / 2**20:.1f}", _us(bound), limit]
    if took is not None:
        found += [_us(took), f"{bound / took:.0%}"]
    if peak is not None:
        left = total([x.kernel for x in given], peak).left
        found += [_us(bound + left), _us(left)]
    return found


def print_step(title: str, given: Sequence[Line], peak: Peak | None = None) -> None:
    """Prints the table, and of a GPU that is modelled the causes of what is left."""
    from rich.console import Console
    from rich.table import Table

    heading, *body = rows(given, peak)
    table = Table(title=title, title_justify="left")
    words = ("layer", "kernel", "by", "bound by")
    for name in heading:
        table.add_column(name, justify="left" if name in words else "right")
    for i, row in enumerate(body):
        table.add_row(*row, end_section=body[min(i + 1, len(body) - 1)][0][:1] != row[0][:1])
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    if peak is not None:
        left = total([x.kernel for x in given], peak)
        causes = ", ".join(f"{CAUSES[name]} {_us(value)}" for name, value in left._asdict().items())
        console.print(f"By a model, not a measurement, left of the step, µs: {causes}.")


def _us(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
