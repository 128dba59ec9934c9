"""How long the kernels of a step should take on a Hopper GPU: a model, for none has been timed.

A product by TMA takes, on the multiprocessor with the most programs, for each step of its loop as
long as that issues or multiplies, by the kernel report. Memory gives a share of its data sheet, and
each launch of a CUDA graph costs a gap. Left out are epilogues that nothing hides, and caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from bench.harness.machine import ROOT
from bench.roofline.kernels import Kernel
from bench.roofline.peaks import Peak
from fastgan.kernels.conv_block.tma.plan import ProductPlan, WeightPlan
from fastgan.kernels.core.geometry import cdiv
from tools.kernel_report.compare import Row, load

REPORT = ROOT / "bench" / "reports" / "kernels.json"
# Of the memory's bytes a second, and seconds between two kernels of a graph.
MEMORY_SHARE, LAUNCH = 0.85, 2e-6
# Operations of a multiprocessor in a cycle, of 16-bit products.
A_CYCLE = 4096


class Estimate(NamedTuple):
    """Microseconds of one run beyond its bound, by cause; `left` is their sum.

    Attributes:
        memory: where memory bounds it, below its data sheet; and of a product that its operands
            hold up.
        tiles: multiprocessors that idle in the last wave, and tiles that overhang.
        issue: the matrix unit waits for instructions.
        launches: gaps before its kernels.
    """

    memory: float
    tiles: float
    issue: float
    launches: float

    @property
    def left(self) -> float:
        return sum(self)


CAUSES = {
    "memory": "memory below its data sheet",
    "tiles": "idle multiprocessors and edges of tiles",
    "issue": "issue of instructions",
    "launches": "gaps between kernels",
}


def estimate(kernel: Kernel, peak: Peak) -> Estimate:
    """Of a kernel in 16 bits on a GPU whose multiprocessors are known."""
    cost, plan = kernel.cost, kernel.plan
    bound = cost.bound(peak.half, peak.bytes)
    memory = cost.moved / (MEMORY_SHARE * peak.bytes)
    whole, multiplied = _product(plan, peak) if plan is not None else (0.0, 0.0)
    tiles = max(0.0, multiplied - bound)
    issue = max(0.0, whole - max(multiplied, bound))
    more = max(0.0, memory - max(bound, whole, multiplied))
    found = more, tiles, issue, kernel.launches * LAUNCH
    return Estimate(*(seconds * 1e6 for seconds in found))


def _product(plan: ProductPlan | WeightPlan, peak: Peak) -> tuple[float, float]:
    """Seconds of a product, and those in which its matrix units multiply."""
    config = plan.config
    steps = plan.slice_steps if isinstance(plan, ProductPlan) else plan.length
    multiply = 2 * config.block_m * config.block_n * config.block_k / A_CYCLE
    issue = multiply * _issue_ratio(plan)
    clock = peak.half / (peak.multiprocessors * A_CYCLE)
    turns = cdiv(plan.grid[0], peak.multiprocessors) * steps
    return turns * max(issue, multiply) / clock, turns * multiply / clock


def _issue_ratio(plan: ProductPlan | WeightPlan) -> float:
    """The highest of the report's loops with the tile, or of the kernel's where it has none."""
    if isinstance(plan, ProductPlan):
        name = "tma_conv_kernel" if plan.slices == 1 else "tma_slice_kernel"
        wanted = {f"TRANSPOSED={int(plan.geo.transposed)}", f"BLOCK_N={plan.config.block_n}"}
    else:
        name = "tma_weight_kernel"
        wanted = {f"BLOCK_M={plan.config.block_m}", f"BLOCK_N={plan.config.block_n}"}
    loops = [row for row in _loops() if row.kernel == name]
    fitting = [row for row in loops if wanted <= set(row.variant.split())]
    return max(row.issue_ratio or 0.0 for row in fitting or loops)


@cache
def _loops() -> tuple[Row, ...]:
    """Those of 16 bits."""
    rows = [r for r in load(REPORT)["triton"].rows if not r.variant.startswith("fp32 ")]
    return tuple(r for r in rows if r.target == "sm_90" and r.issue_ratio is not None)


def total(kernels: Sequence[Kernel], peak: Peak) -> Estimate:
    """Of a step, in which each kernel runs as often as it does."""
    each = [(k.times, estimate(k, peak)) for k in kernels]
    return Estimate(*(sum(times * e[i] for times, e in each) for i in range(4)))
