"""A case is measured as told: who is left out and why, what is counted."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from bench.dcgan_step import StepImplementation, StepWorkload
from bench.harness.case import BACKWARD, BOTH, FORWARD, Case
from bench.harness.cost import Cost, of_norm_act
from bench.harness.measure import Plan, measure
from bench.harness.memory import peak_bytes, saved_sizes
from bench.harness.workload import Call, Implementation, Workload
from fastgan import fuse

CASE = Case("norm_act", "4×3×8×8", "float32", "contiguous")
PLAN = Plan(seconds=0.0, least=2, most=2)
SHAPE = torch.Size((4, 3, 8, 8))


def model() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(3), nn.LeakyReLU(0.2))


class Wrong(nn.Module):
    """Off by a thousandth in one image."""

    def __init__(self, right: nn.Module) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.right(x)
        return torch.cat([y[:1] * 1.001, y[1:]])


def broken(_model: nn.Module) -> nn.Module:
    raise RuntimeError("no such device\nand more")


def work(**ways: Implementation) -> Workload:
    chosen = {"own": Implementation(partial(fuse, prefer="memory"), "contiguous", own=True), **ways}
    return Workload(CASE, model(), [SHAPE], chosen, of_norm_act(SHAPE, 4, BOTH))


def test_wrong_and_broken_implementations_get_no_time():
    ways = {name: Implementation(build, "contiguous") for name, build in
            {"eager": lambda m: m, "wrong": Wrong, "broken": broken}.items()}  # fmt: skip
    found = measure(work(**ways), PLAN)
    assert set(found.times) == {"own", "eager"}
    assert found.left_out["wrong"].startswith("refused: on input set 0, result 0: error")
    assert found.left_out["broken"] == "RuntimeError: no such device"


def test_a_wrong_implementation_of_our_own_is_refused_too():
    found = measure(work(own=Implementation(Wrong, "contiguous", own=True)), PLAN)
    assert not found.times
    assert "refused" in found.left_out["own"]


def test_rows_hold_ratios_bytes_and_the_share_of_the_roofline():
    found = measure(work(eager=Implementation(lambda m: m, "channels last")), PLAN)
    ceilings = {"bytes": 1e9, "float32": 1e9}
    own, eager = found.rows(ceilings)
    assert own["own"]
    assert not own["ratio"]
    value, low, high = eager["ratio"]["own"]
    assert low <= value <= high
    assert own["bytes"] == 8 * SHAPE.numel() * 4
    assert own["share_of_roofline"] == pytest.approx(own["bytes"] / 1e9 / own["seconds"]["p50"])
    assert own["saved_bytes"] < eager["saved_bytes"]
    assert own["input_sets"] == work().sets == 64  # small inputs: the most there are


def test_plain_functions_are_checked_and_timed():
    ways = {
        "own": Implementation(lambda _: Call(torch.mul), "contiguous", own=True),
        "eager": Implementation(lambda model: model, "contiguous"),
        "wrong": Implementation(lambda _: Call(torch.add), "contiguous"),
    }
    case = Case("mul", "4×3", "float32", "contiguous", FORWARD)
    drawn = partial(torch.randn, 2, 4, 3)
    work = Workload(case, Call(torch.mul), lambda: [*drawn()], ways, input_gradients=False)
    found = measure(work, PLAN)
    assert set(found.times) == {"own", "eager"}
    assert found.left_out["wrong"].startswith("refused")


def test_backward_alone_makes_its_forward_ready_beforehand():
    case = Case("norm_act", "4×3×8×8", "float32", "contiguous", BACKWARD)
    ways = {"eager": Implementation(lambda m: m, "contiguous")}
    backward = Workload(case, model(), [SHAPE], ways)
    runner = backward.runner("eager")
    calls: list[int] = []
    runner.model.register_forward_hook(lambda *_: calls.append(1))
    run = runner.ready(0)
    assert calls == [1]
    run()
    assert calls == [1]


def test_saved_sizes_count_storages_once_and_not_parameters():
    x, layer = torch.randn(4, 8, requires_grad=True), nn.Linear(8, 8)
    assert saved_sizes(lambda: layer(x), layer.parameters()) == [4 * 8 * 4]
    assert saved_sizes(lambda: x * x) == [4 * 8 * 4]


def test_peak_bytes():
    def run() -> torch.Tensor:
        first = torch.empty(1 << 20, dtype=torch.uint8)
        return torch.cat([first, first])

    assert 3 << 20 <= peak_bytes(run, "cpu") < 3.2 * 2**20


@pytest.mark.parametrize(("part", "passes"), [(FORWARD, 1), (BACKWARD, 1), (BOTH, 2)])
def test_a_network_costs_its_operations(part, passes):
    """Two a multiply-add; there is no gradient of the input."""
    layers = nn.Sequential(nn.Conv2d(3, 5, 4, 2, 1, bias=False), nn.LeakyReLU(0.2))
    case, ways = CASE._replace(part=part), {"eager": Implementation(lambda m: m, "contiguous")}
    network = Workload(case, layers, [SHAPE], ways, input_gradients=False, network=True)
    assert network.cost == Cost(passes * 2 * 4 * (5 * 4 * 4) * (3 * 4 * 4), 0, 0)
    (row,) = measure(network, PLAN).rows({"bytes": 1e9, "float32": 1e9})
    assert row["operations"] == network.cost.operations
    assert "bytes" not in row


def test_the_bound_is_the_slower_of_memory_and_arithmetic():
    assert Cost(100, 30, 20).bound(10.0, 10.0) == 10.0
    assert Cost(100, 30, 20).bound(50.0, 10.0) == 5.0


def test_a_step_costs_its_convolutions_and_trains():
    case = Case("DCGAN-64 step", "batch 4", "float32", "contiguous", "step")
    ways = {"eager": StepImplementation(lambda m: m, "contiguous")}
    step = StepWorkload(case, ways, batch=4, width=8)
    # Of each layer of both networks: positions times channels, of kernels of 4x4.
    g = [1 * 100 * 64, 16 * 64 * 32, 64 * 32 * 16, 256 * 16 * 8, 1024 * 8 * 3]
    d = [1024 * 3 * 8, 256 * 8 * 16, 64 * 16 * 32, 16 * 32 * 64, 1 * 64 * 1]
    # Noise and images that the discriminator learns of need no gradient.
    passes = 3 * sum(g) - g[0] + 2 * (3 * sum(d) - d[0]) + 2 * sum(d)
    assert step.cost == Cost(2 * 4 * 16 * passes, 0, 0)
    runner = step.runner("eager")
    before = [p.detach().clone() for p in runner.parameters]
    runner.ready(0)()
    moved = [not torch.equal(a, b) for a, b in zip(before, runner.parameters, strict=True)]
    assert all(moved)
