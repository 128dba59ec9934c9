"""Calls of a chain that are like earlier ones: these plan and check nothing, others do. The kernels
are those for GPUs with TMA, their launches taken out; results: tests/kernels/interpreted.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

pytest.importorskip("triton")

from bench.host_cost import chain, images, no_launches
from fastgan.nn import BatchNormAct2d, FusedSequential, planner, runner, segments
from fastgan.nn.keeping import activations_kept
from fastgan.ops import backend, convolution_form
from fastgan.ops.core import native
from fastgan.ops.norm_act_conv import fused

BLOCKS = 3  # of norm, activation and convolution, behind the first convolution


@pytest.fixture(autouse=True, params=["C++", "Python"])
def launches(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """The kernels that would have been launched; arguments are known again by C++, or by Python."""
    if request.param == "Python":
        monkeypatch.setattr(native.WITH_AUTOGRAD, "kind", lambda *_: None)
    elif not native.WITH_AUTOGRAD.kind(0, None):
        pytest.skip("no C++ module of this Python")
    with no_launches() as launched:
        yield launched


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often what plans and checks is called."""
    counted: Counter[str] = Counter()
    ops = importlib.import_module("fastgan.ops.norm_act_conv")
    geometry = importlib.import_module("fastgan.kernels.conv_block.tma.plan")
    for place, name in (
        (planner, "plan"), (runner, "form_of"), (runner, "choose"),
        (runner, "with_statistics"), (ops, "check_input"), (ops, "parameter"),
        (fused.Plan, "__init__"), (fused.tma, "served_geometry"), (geometry, "supports"),
    ):  # fmt: skip
        own = getattr(place, name)

        def counting(*args: Any, name: str = name, own: Any = own, **kwargs: Any) -> Any:
            counted[name] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(place, name, counting)
    return counted


def run(model: nn.Module, x: Tensor) -> None:
    y = model(x)
    if y.requires_grad:
        y.backward(torch.zeros_like(y))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no_grad"])
def test_a_second_call_plans_nothing(
    training: bool, gradients: bool, planned: Counter[str], launches: list[str]
) -> None:
    model, x = chain(BLOCKS).train(training), images()
    with nullcontext() if gradients else torch.no_grad():
        run(model, x)
        assert planned["with_statistics"] == BLOCKS + 1
        first = list(launches)
        planned.clear()
        launches.clear()
        run(model, torch.ones_like(x).requires_grad_())
    assert not planned
    assert launches == first


Change = Callable[[FusedSequential], AbstractContextManager[object] | None]


def put(at: int, name: str, value: object) -> Change:
    def change(model: FusedSequential) -> None:
        setattr(model[at], name, value)

    return change


def memory(at: int, name: str, convert: Callable[[Tensor], Tensor]) -> Change:
    """Has a parameter or buffer lie in other memory."""

    def change(model: FusedSequential) -> None:
        t = getattr(model[at], name)
        t.data = convert(t.data)

    return change


# The first convolution is 0, the first norm 1, its activation 2, the next convolution 3.
OF_MODEL: dict[str, Change] = {
    "evaluation": lambda model: model.eval() and None,
    "one norm's training": lambda model: model[1].eval() and None,
    "momentum": put(1, "momentum", 0.5),
    "eps": put(1, "eps", 1e-3),
    "slope": put(2, "negative_slope", 0.3),
    "segments": lambda model: segments(model, 2),
    "no gradients": lambda _: torch.no_grad(),
    "backend": lambda _: backend("reference"),
    "form": lambda _: convolution_form("recompute"),
    "autocast": lambda _: torch.autocast("cpu", torch.float16),
    "kept": lambda _: activations_kept("on"),
    "weight's layout": memory(3, "weight", torch.Tensor.contiguous),
    "weight's dtype": memory(3, "weight", torch.Tensor.float),
    "norm's weight's dtype": memory(1, "weight", torch.Tensor.bfloat16),
    "norm's weight's strides": memory(1, "weight", lambda w: w.repeat_interleave(2)[::2]),
    "running statistics' dtype": memory(1, "running_var", torch.Tensor.bfloat16),
    "no running statistics": lambda model: model.__setitem__(
        1, nn.BatchNorm2d(16, track_running_stats=False)
    ),
    "a hook": lambda model: model[1].register_forward_hook(lambda *_: None) and None,
    "another module": put(2, "forward", nn.ReLU().forward),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_MODEL)
def test_another_setting_plans_anew(name: str, planned: Counter[str]) -> None:
    model, x = chain(BLOCKS), images()
    for _ in range(2):
        model(x)
    planned.clear()
    with OF_MODEL[name](model) or nullcontext():
        model(x)
    assert planned


def test_autocast_to_another_dtype_plans_anew(planned: Counter[str]) -> None:
    model, x = chain(BLOCKS).float(), images().float()
    for dtype in (torch.float16, torch.bfloat16):
        planned.clear()
        with torch.autocast("cpu", dtype):
            assert model(x).dtype is dtype
        assert planned


OF_INPUT: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": lambda x: x[:1],
    "size": lambda x: x[:, :, :6].contiguous(memory_format=torch.channels_last),
    "layout": torch.Tensor.contiguous,
    "dtype": torch.Tensor.half,
    "no gradient": torch.Tensor.detach,
}


@pytest.mark.parametrize("name", OF_INPUT)
def test_another_input_plans_anew(name: str, planned: Counter[str]) -> None:
    model, x = chain(BLOCKS), images()
    for _ in range(2):
        model(x)
    planned.clear()
    model(OF_INPUT[name](x))
    assert planned
    planned.clear()
    model(x)
    assert not planned, "what was known of the first is forgotten"


def test_a_batch_is_counted_once_where_the_plan_no_longer_holds() -> None:
    model, x = chain(BLOCKS), images()
    for convert in (torch.Tensor.clone, torch.Tensor.contiguous, torch.Tensor.float):
        memory(3, "weight", convert)(model)
        model(x)
    assert model[1].num_batches_tracked == 3


def test_parametrized_weights_are_read_once_a_call(planned: Counter[str]) -> None:
    model, x = chain(BLOCKS), images()
    parametrizations.spectral_norm(model[3])
    norm, steps = model[3].parametrizations.weight[0], []
    norm.register_forward_hook(lambda *_: steps.append(None))
    for _ in range(3):
        planned.clear()
        run(model, x)
    assert not planned
    assert len(steps) == 3


def test_running_statistics_that_come_to_share_memory_are_refused() -> None:
    model, x = chain(BLOCKS), images()
    model(x)
    model[1].running_mean = model[1].weight.detach()
    with pytest.raises(ValueError, match="running_mean: shares memory with weight"):
        model(x)


@pytest.mark.parametrize("converted", ["input", "norm"])
def test_what_is_converted_each_time_is_planned_once(converted: str, planned: Counter[str]) -> None:
    model, x = chain(BLOCKS), images()
    if converted == "input":
        x = x.detach().contiguous()
    else:
        model[1].bfloat16()
    model(x)
    planned.clear()
    model(x)
    assert planned["with_statistics"] == (converted == "norm")
    assert not planned["__init__"]


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_a_norm_alone_is_checked_once(affine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    norm_act = importlib.import_module("fastgan.ops.norm_act")
    norm, x, checked = BatchNormAct2d(16, affine=affine, eps=1.25e-5), images(), []
    own = norm_act.check_input
    norm_act._alike.clear()
    monkeypatch.setattr(norm_act, "check_input", lambda x: checked.append(None) or own(x))

    def checks() -> int:
        checked.clear()
        run(norm, x)
        return len(checked)

    assert [checks() for _ in range(3)] == [1, 0, 0]
    norm.momentum = 0.25
    assert [checks() for _ in range(2)] == [1, 0]
    x = x.detach()[:1]
    assert [checks() for _ in range(2)] == [1, 0]
    with backend("reference"):
        assert [checks() for _ in range(2)] == [1, 0]
    norm.running_mean = norm.running_var
    with pytest.raises(ValueError, match="running_mean: shares memory with running_var"):
        norm(x)
    norm.running_mean = torch.zeros(15)
    with pytest.raises(ValueError, match="running_mean"):
        norm(x)
    norm.eval()
    with pytest.raises(ValueError, match="running_mean"):
        norm(x)
