"""All that a plan relies on, looked at by one call of C++."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgan
from fastgan.fusion.looking import entries
from fastgan.fusion.plan import plan_of
from fastgan.fusion.watching import Watch
from fastgan.nn import steps
from fastgan.ops.core import native
from fastgan.ops.core.setting import Setting

pytestmark = pytest.mark.skipif(not native.from_python(), reason="csrc/eager is not there")


class Scaled(nn.Module):
    """Its forward reads plain attributes, a child, whether there is a parameter, and its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.shift = nn.Parameter(torch.ones(()))
        self.scale, self.pads = 2.0, (1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.pad(x, self.pads)) * self.scale
        if self.training:
            x = x + 1
        return x if self.shift is None else x + self.shift


def _hook(module: nn.Module) -> Any:
    return module.register_forward_hook(lambda *_: None)


CHANGES: dict[str, Callable[[Scaled], Any]] = {
    "a number": lambda m: setattr(m, "scale", 3.0),
    "a number of another type": lambda m: setattr(m, "scale", 2),
    "a tuple": lambda m: setattr(m, "pads", (1, 1, 1, 2)),
    "a parameter taken away": lambda m: setattr(m, "shift", None),
    "a child": lambda m: setattr(m, "layers", nn.Sequential(nn.Conv2d(3, 4, 3))),
    "a child of a child": lambda m: m.layers.__setitem__(2, nn.Tanh()),
    "a new child": lambda m: m.layers.append(nn.Tanh()),
    "a child taken away": lambda m: m.layers.__delitem__(2),
    "the mode of a part": lambda m: m.layers.eval(),
    "a hook": lambda m: _hook(m.layers),
}


def _looks(model: nn.Module) -> Any:
    plan = plan_of(model)
    assert plan is not None
    return plan._looks()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen(change: Callable[[Scaled], Any]):
    model = fastgan.fuse(Scaled())
    x = torch.randn(2, 3, 6, 6)
    model(x)
    looks = _looks(model)
    assert looks is not None
    assert steps.unchanged(looks)
    change(model)
    assert not steps.unchanged(looks)
    own = copy.deepcopy(model)
    torch.testing.assert_close(model(x), fastgan.unfuse(own)(x))


def test_what_is_equal_is_as_it_was():
    model = fastgan.fuse(Scaled())
    looks = _looks(model)
    model.scale, model.pads = float("2.0"), tuple([1] * 4)
    model.shift = nn.Parameter(torch.zeros(()))
    assert steps.unchanged(looks)


def test_each_mode_has_its_own():
    model = fastgan.fuse(Scaled())
    training = _looks(model)
    model.eval()
    assert not steps.unchanged(training)
    assert steps.unchanged(_looks(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_looks_at_itself(copied: Callable[[nn.Module], nn.Module]):
    model = fastgan.fuse(Scaled())
    x = torch.randn(2, 3, 6, 6)
    model(x)
    other = copied(model)
    other(x)
    model.scale = 3.0
    assert not steps.unchanged(_looks(model))
    assert steps.unchanged(_looks(other))


@pytest.mark.parametrize("value", [{}, {"a": 1}, ..., NotImplemented, type(None)], ids=str)
def test_a_value_that_means_something_else_to_cpp_is_compared_in_python(value: object):
    watch, module = Watch(nn.Module()), nn.Module()
    watch.attributes[module] = {"value": value}
    assert entries(watch, []) is None


def test_a_value_that_compares_itself_is_compared_by_identity():
    """Its own __eq__ could say anything."""

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    own = {"value": Equal()}
    looks = (own, "value", own["value"])
    assert steps.unchanged(looks)
    own["value"] = Equal()
    assert not steps.unchanged(looks)


def _kinds(x: Tensor) -> list[Any]:
    kind = native.WITH_AUTOGRAD.call_kind
    found = [kind(training, Setting.state, (x,)) for training in (True, False)]
    with torch.no_grad():
        found.append(kind(True, Setting.state, (x,)))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found.append(kind(True, Setting.state, (x,)))
    with fastgan.backend("reference"):
        found.append(kind(True, Setting.state, (x,)))
    return found


def test_calls_of_two_kinds_are_told_apart():
    x = torch.randn(2, 3, 4, 4)
    others = x.clone().requires_grad_(), x.double(), x.to(memory_format=torch.channels_last), x[:1]
    found = [kind for each in (x, *others) for kind in _kinds(each)]
    assert None not in found
    assert len(set(found)) == len(found)
    assert _kinds(x) == _kinds(x.clone())


@pytest.mark.parametrize(
    "other",
    [torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"), 1.0, None, "x"],
    ids=["sparse", "meta", "number", "None", "text"],
)
def test_a_call_with_something_else_has_no_kind(other: object):
    assert native.WITH_AUTOGRAD.call_kind(True, 0, (torch.ones(2), other)) is None
    assert native.WITH_AUTOGRAD.known({}, True, 0, (other,)) is None
