"""fastgan.optim.Adam is torch.optim.Adam, without its copies of channels-last weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan.optim import Adam


def parameters() -> list[nn.Parameter]:
    """Channels-last, contiguous, one that is dense in another order, 3-D, and a vector."""
    torch.manual_seed(0)
    tensors = [
        torch.randn(8, 6, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(8, 6, 4, 4),
        torch.randn(4, 5, 6).permute(2, 0, 1),
        torch.randn(3, 4, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d),
        torch.randn(4, 1, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(7),
    ]
    return [nn.Parameter(t) for t in tensors]


def train(kind: type[torch.optim.Adam], **options: Any) -> tuple[list[nn.Parameter], Any]:
    given = parameters()
    optimizer = kind(given, 0.1, (0.5, 0.9), **options)
    for step in range(3):
        torch.manual_seed(step)
        for p in given[step == 1 :]:  # one without a gradient for once
            p.grad = torch.randn_like(p)
        optimizer.step()
        optimizer.zero_grad()
    return given, optimizer


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"maximize": True}], ids=str
)
def test_steps_and_state_are_those_of_torch(options: dict[str, Any], fused: bool) -> None:
    own, optimizer = train(Adam, fused=fused, **options)
    torchs, of_torch = train(torch.optim.Adam, fused=fused, **options)
    for ours, expected in zip(own, torchs, strict=True):
        assert torch.equal(ours, expected)
        assert ours.stride() == expected.stride()
        state, known = optimizer.state[ours], of_torch.state[expected]
        assert state.keys() == known.keys()
        for name in state:
            assert torch.equal(state[name], known[name])
            assert state[name].stride() == known[name].stride()
    assert optimizer.state_dict()["param_groups"] == of_torch.state_dict()["param_groups"]


def test_gradients_in_another_layout_than_their_weight() -> None:
    results = []
    for kind in (Adam, torch.optim.Adam):
        p = parameters()[0]
        optimizer = kind([p], 0.1, fused=True)
        for _ in range(2):
            p.grad = p.detach().sin().contiguous()
            optimizer.step()
        results.append(p.detach())
    assert torch.equal(*results)


def test_no_weight_is_copied() -> None:
    given = parameters()
    for p in given:
        p.grad = torch.randn_like(p)
    optimizer = Adam(given, fused=True)
    optimizer.step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        optimizer.step()
    assert "aten::clone" not in {event.name for event in profile.events()}


def trained() -> tuple[nn.Parameter, Adam]:
    p = nn.Parameter(torch.zeros(4, 3))
    optimizer = Adam([p], fused=True, amsgrad=True)
    p.grad = torch.ones_like(p)
    optimizer.step()
    return p, optimizer


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "exp_avg",
            torch.zeros(2),
            r"exp_avg of parameter 0 has shape \[2\], the param",
        ),
        ("exp_avg_sq", torch.zeros(3, 4), "exp_avg_sq of parameter 0 has shape"),
        ("max_exp_avg_sq", torch.zeros(()), "max_exp_avg_sq of parameter 0 has shape"),
        ("step", torch.zeros(0), "step of parameter 0 must be one number"),
        ("step", None, "state of parameter 0 has no step"),
    ],
)
def test_a_state_of_another_shape_is_refused_before_anything_is_loaded(
    name: str, value: Tensor | None, message: str
) -> None:
    p, optimizer = trained()
    before = {k: v.clone() for k, v in optimizer.state[p].items()}
    state = copy.deepcopy(optimizer.state_dict())
    if value is None:
        del state["state"][0][name]
    else:
        state["state"][0][name] = value
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert all(torch.equal(v, before[k]) for k, v in optimizer.state[p].items())


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"])
def test_a_step_refuses_a_state_of_another_shape(name: str) -> None:
    """PyTorch's fused update would read and write past it."""
    p, optimizer = trained()
    optimizer.state[p][name] = torch.zeros(0)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=r"a moment has shape|must be one number"):
        optimizer.step()
    assert torch.equal(p, before)


def test_a_parameter_that_was_replaced_by_a_larger_one_is_refused() -> None:
    p, optimizer = trained()
    p.data = torch.zeros(400, 300)
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"shape \[4, 3\], its parameter \[400, 300\]"):
        optimizer.step()


def test_a_state_of_other_parameters_is_refused() -> None:
    _, optimizer = trained()
    with pytest.raises(ValueError, match="the state is of 1 parameters, here are 6"):
        Adam(parameters()).load_state_dict(optimizer.state_dict())


def test_a_skipped_step_and_state_of_torch() -> None:
    given, of_torch = train(torch.optim.Adam, fused=True)
    optimizer = Adam(given, fused=True)
    optimizer.load_state_dict(copy.deepcopy(of_torch.state_dict()))
    before: list[Tensor] = [p.detach().clone() for p in given]
    for p in given:
        p.grad = torch.full_like(p, float("inf"))
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))


@pytest.mark.parametrize("made", [True, False])
def test_another_may_make_the_step(made: bool) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer, given = Adam([p], 0.1, fused=True), []

    def instead(group: dict[str, Any], *lists: list[Tensor]) -> bool:
        given.extend(map(len, lists))
        return made

    optimizer.instead = instead
    p.grad, before = torch.ones_like(p), p.detach().clone()
    optimizer.step()
    assert given == [1, 1, 1, 1, 0, 1]
    assert torch.equal(p, before) is made
    assert copy.deepcopy(optimizer).instead is None
