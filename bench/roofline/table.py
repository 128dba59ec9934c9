"""The table of a training step's kernels: operations, bytes, bounds, and what a model adds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.harness.cost import NOTHING
from bench.roofline.kernels import Kernel
from bench.roofline.model import CAUSES, total
from bench.roofline.peaks import Peak

HEADING = ["layer", "kernel", "times", "GFLOP", "MiB", "bound, µs", "bound by"]
MODELLED = ["estimate, µs", "left, µs"]


class Line(NamedTuple):
    """A kernel of a network, with its bound in microseconds of one run.

    Attributes:
        limit: what the bound is of, "operations" or "bytes".
    """

    network: str
    kernel: Kernel
    bound: float
    limit: str


def lines(networks: Mapping[str, Sequence[Kernel]], operations: float, bytes: float) -> list[Line]:
    """Every kernel with its bound at so many operations and bytes a second."""
    found = []
    for network, kernels in networks.items():
        for kernel in kernels:
            arithmetic, memory = kernel.cost.operations / operations, kernel.cost.moved / bytes
            limit = "operations" if arithmetic > memory else "bytes"
            found.append(Line(network, kernel, max(arithmetic, memory) * 1e6, limit))
    return found


def step_bound(given: Sequence[Line]) -> float:
    """Microseconds of a step: kernels run one after another, each as often as it does."""
    return sum(x.bound * x.kernel.times for x in given)


def rows(given: Sequence[Line], peak: Peak | None = None) -> list[list[str]]:
    """The table, its headings first: kernels by themselves, and the sums of each network and of the
    step, in which they count as often as they run; there "bound by" is the share of the bounds that
    are of operations.

    Args:
        peak: of a GPU that is modelled: what kernels should take there, and what is left of that.
    """
    found = [HEADING + MODELLED * (peak is not None)]
    for line in given:
        kernel = line.kernel
        words = [f"{line.network[:1].upper()} {kernel.layer}", kernel.name, str(kernel.times)]
        once = line._replace(kernel=kernel._replace(times=1))
        found.append([*words, *_numbers([once], line.limit, peak)])
    for network in [*dict.fromkeys(line.network for line in given), "step"]:
        own = [x for x in given if network in ("step", x.network)]
        of_operations = step_bound([x for x in own if x.limit == "operations"])
        limit = f"operations {of_operations / step_bound(own):.0%}"
        found.append([network, "", "", *_numbers(own, limit, peak)])
    return found


def _numbers(given: Sequence[Line], limit: str, peak: Peak | None) -> list[str]:
    cost = sum((x.kernel.cost for x in given for _ in range(x.kernel.times)), start=NOTHING)
    bound = step_bound(given)
    gflop = f"{cost.operations / 1e9:.2f}" if cost.operations else ""
    found = [gflop, f"{cost.moved / 2**20:.1f}", _us(bound), limit]
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
    for name in heading:
        table.add_column(
            name, justify="left" if name in ("layer", "kernel", "bound by") else "right"
        )
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
