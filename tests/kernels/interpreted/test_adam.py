"""adam in Triton's interpreter against float64, and as an update of the engine."""

from __future__ import annotations

import copy

import pytest
import torch
from adam_case import CASES, check
from torch import nn

from fastgan.engine.ema import Ema
from fastgan.engine.precision import WrittenCopies
from fastgan.engine.update import Update
from fastgan.kernels import adam as kernels
from fastgan.ops import backend
from fastgan.ops.core.tolerance import FLOOR
from tools.rehearse.interpreter import launches


@pytest.fixture(autouse=True)
def _by_triton():
    with backend("triton"):
        yield


@pytest.mark.parametrize("case", CASES)
def test_follows_its_definition(case, monkeypatch):
    for name, value in {"CHECK": 256, "TURNS": 2, "UPDATE": 128}.items():
        monkeypatch.setattr(kernels, name, value)
    check(case, "cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def trained(
    on_gpu: bool, gradients: list[float], **options: float
) -> tuple[Update, Ema, WrittenCopies]:
    """A network after updates by gradients of these sizes."""
    module = network()
    update, ema = Update(module, 0.01, (0.5, 0.9), **options), Ema(module, 0.9)
    update.ema, update.copies = ema, WrittenCopies(module, torch.bfloat16)
    if on_gpu:  # numbers are where a captured step reads them
        update.optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
        ema.rate = torch.zeros(())
    for step, size in enumerate(gradients, 1):
        update.start()
        torch.manual_seed(step)
        for p in update.parameters:
            p.grad = torch.randn_like(p) * size
        ema.before(step)
        update.finish()
        ema.update()
    return update, ema, update.copies


@pytest.mark.parametrize("options", [{}, {"clip": 0.5}], ids=str)
def test_an_update_is_that_of_torch(options):
    """Weights, averages, counts and the state that a checkpoint holds; a skipped one among them."""
    gradients = [1.0, float("inf"), 2.0]
    with launches() as counted:
        own, average, copies = trained(True, gradients, **options)
    assert counted == {"check_kernel": 3, "adam_kernel": 3}
    other, expected, _ = trained(False, gradients, **options)
    assert own.skipped == other.skipped == 1
    states = own.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    floor = FLOOR[torch.float32]
    torch.testing.assert_close(*states, rtol=1e-5, atol=4 * floor)
    for ours, theirs in ((own._module, other._module), (average.average, expected.average)):
        torch.testing.assert_close(
            dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-5, atol=4 * floor
        )
    assert copies.current.keys() == copies.of.keys()
    assert len(copies.of) == 2
    for weight, rounded in copies.current.items():
        assert torch.equal(rounded, weight.bfloat16())
    other.optimizer.load_state_dict(copy.deepcopy(own.optimizer.state_dict()))


def test_copies_that_are_not_of_the_weights_are_not_current():
    _, _, copies = trained(True, [1.0], bound=0.01)
    assert not copies.current
    with backend("reference"):
        _, _, copies = trained(True, [1.0])
    assert not copies.current


def test_a_graph_of_the_copies_before_does_not_go_backward():
    update, _, copies = trained(True, [1.0])
    copied = next(iter(copies.of.values()))
    x = torch.ones_like(copied, requires_grad=True)
    y = x * copied.detach()
    for p in update.parameters:
        p.grad = torch.ones_like(p)
    update.finish()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
