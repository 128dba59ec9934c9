"""Which results count: the tests' rule, and what kinks leave open, no more."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.harness.case import Case
from bench.harness.kinks import OnBranch
from bench.harness.parity import MANY, Reference
from bench.harness.workload import Implementation, Workload

CASE = Case("test", "64", "float32", "contiguous")
TINY = 1e-12  # nearer to zero than float32 can tell beside values of size one


class Stub:
    """A workload of one leaf tensor under LeakyReLU, whose gradient is the result."""

    def __init__(self, x: Tensor, network: bool = False, dtype: str = "float32") -> None:
        self.x, self.network, self.case = x, network, CASE._replace(dtype=dtype)

    def exact(self, i: int) -> list[Tensor]:
        return self.gradient(self.x)

    def eager(self, i: int, layout: str) -> list[Tensor]:
        return self.gradient(self.x.float())

    def gradient(self, x: Tensor) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        return list(torch.autograd.grad(F.leaky_relu(leaf, 0.2).sum(), leaf))


def values(at_a_kink: int) -> Tensor:
    x = torch.linspace(0.5, 1.5, MANY + 1, dtype=torch.float64)
    x[:at_a_kink] = TINY
    return x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_either_branch_is_right_at_a_kink_and_nowhere_else(dtype):
    reference = Reference(Stub(values(1), dtype=dtype), 0)
    (right,) = reference.exact
    for place, value, refused in ((0, 0.2, False), (0, 0.6, False), (0, 0.1, True), (1, 0.9, True)):
        other = right.clone()
        other[place] = value
        assert (reference.why_refused([other]) is not None) == refused, (place, value)


def test_in_a_network_the_largest_effect_of_a_branch_counts():
    (right,) = (reference := Reference(Stub(values(1), network=True), 0)).exact
    assert reference.why_refused([right - 0.7]) is None
    assert "allowed 8.0e-01" in str(reference.why_refused([right - 0.9]))


def test_nothing_is_added_where_eager_is_a_fair_sample():
    (right,) = (reference := Reference(Stub(values(MANY)), 0)).exact
    assert reference.spread is None
    assert reference.why_refused([right]) is None
    other = right.clone()
    other[0] = 0.6  # between the branches
    assert reference.why_refused([other]) is not None


def test_without_kinks_the_rule_is_that_of_the_tests():
    (right,) = (reference := Reference(Stub(values(0)), 0)).exact
    assert reference.spread is not None
    assert not reference.spread[0].any()
    assert reference.why_refused([right * (1 + 9e-7)]) is None
    assert "error" in str(reference.why_refused([right * (1 + 2e-6)]))
    assert "shape" in str(reference.why_refused([right[:3]]))
    assert "not finite" in str(reference.why_refused([right * float("inf")]))
    assert "0 results" in str(reference.why_refused([]))


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.LeakyReLU(0.2)], ids=["relu", "leaky"])
def test_branches_forced_upon_a_network(act):
    """The gradient of a unit at zero lies between its branches, behind a layer too."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), act, nn.Linear(4, 1, bias=False))
    ways = {"eager": Implementation(lambda m: m, "contiguous")}
    work = Workload(CASE, model, [(2, 4)], ways, network=True)
    with torch.no_grad():
        model[0].weight[0] = 0.0  # unit 0 is exactly at the kink
    reference = Reference(work, 0)
    with OnBranch(up=True) as run:
        work.exact(0)
    assert run.near == 2  # one unit, two images
    assert reference.spread is not None
    slope = getattr(act, "negative_slope", 0.0)
    x, dy, w = work.given[0][0].detach(), work.cotangents[0][0], model[2].weight[0, 0]
    moved = (1 - slope) * (dy * w * x).sum(0).abs()
    index = 2  # output, x, first weight
    torch.testing.assert_close(reference.spread[index][0].float(), moved.detach())
    assert not reference.spread[index][1:].any()
