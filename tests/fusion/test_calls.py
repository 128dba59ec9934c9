"""What a fused model does from call to call: which forward answers, and what it notices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_calls import calls
from originals import Skipping, as_chosen, assert_equal, image, reasons, sequential
from torch import Tensor, nn

import fastgan
from bench.harness.memory import saved_sizes
from fastgan.fusion import plan
from fastgan.nn import steps
from fastgan.ops.core import native

pytestmark = pytest.mark.usefixtures("form")


@as_chosen
def test_the_forward_falls_back_where_the_trace_does_not_hold():
    """Arguments with a default, changed attributes, mixed modes, exchanged children, new hooks."""
    original = Skipping().eval()
    fused = fastgan.fuse(copy.deepcopy(original))
    x, mask = image(), torch.rand(4, 6, 8, 8)

    def check(**options: Any) -> None:
        torch.testing.assert_close(fused(x, **options), original(x, **options))

    check(mask=mask)
    for model in (fused, original):
        model.doubled = True
    check()
    for model in (fused, original):
        model.norm1 = nn.Identity()
    check()
    assert not torch.allclose(fused(x), fastgan.fuse(Skipping())(x))


@as_chosen
@pytest.mark.parametrize("late", [False, True])
def test_hooks_are_respected(late: bool):
    """A hook sees its layer run, whether it was there before or came after."""
    model, seen = sequential(), []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(module)

    if not late:
        model[3].register_forward_hook(hook)
    fastgan.fuse(model)
    if late:
        model[3].register_forward_hook(hook)
    else:
        assert reasons(model) == ["BatchNorm2d has hooks"] * 2
    model(image())
    assert seen == [model[3]]


def test_a_hook_on_a_part_that_was_traced_through_is_respected():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    fastgan.fuse(model)
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    model(image())
    assert seen == [1]


def change_slope(model: nn.Sequential) -> None:
    model[1].negative_slope = 0.7


def change_convolution(model: nn.Sequential) -> None:
    model[2].padding, model[2].stride = (1, 1), (2, 2)


def change_dilation(model: nn.Sequential) -> None:
    model[2].dilation = (2, 2)


def change_statistics(model: nn.Sequential) -> None:
    model[3].track_running_stats, model[3].running_mean, model[3].running_var = False, None, None


def change_forward(model: nn.Sequential) -> None:
    model[4].forward = lambda x: x * 3


def change_layer(model: nn.Sequential) -> None:
    model[5] = nn.ConvTranspose2d(6, 2, 2, dtype=torch.float64)
    nn.init.constant_(model[5].weight, 0.1)
    nn.init.zeros_(model[5].bias)


def freeze(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)
    model[3].eval()


@as_chosen
@pytest.mark.parametrize(
    "change",
    [
        change_slope, change_convolution, change_dilation, change_statistics, change_forward,
        change_layer, freeze,
    ],
)  # fmt: skip
def test_what_changes_between_calls_is_noticed(change: Callable[[nn.Sequential], None]):
    original = sequential().double()
    fused = fastgan.fuse(copy.deepcopy(original))
    x = image(4, 3, 12, 12).double()
    for _ in range(2):  # the second call goes by what the first found
        torch.testing.assert_close(fused(x), original(x))
    for model in (fused, original):
        change(model)
    for _ in range(2):
        torch.testing.assert_close(fused(x), original(x))
    torch.testing.assert_close(fused.state_dict(), original.state_dict())
    fused(x).sum().backward()
    original(x).sum().backward()
    for own, theirs in zip(fused.parameters(), original.parameters(), strict=True):
        assert (own.grad is None) == (theirs.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, theirs.grad)


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    return sum(saved_sizes(lambda: model(x)))


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_memory_is_saved_where_it_is_preferred():
    original = sequential()
    x = image(8, 3, 32, 32)
    fast = fastgan.fuse(copy.deepcopy(original))
    small = fastgan.fuse(copy.deepcopy(original), prefer="memory")
    assert saved_bytes(fast, x) <= saved_bytes(original, x)
    normalised = 4 * 8 * 6 * 14 * 14  # what the transposed convolution takes
    assert saved_bytes(small, x) <= saved_bytes(original, x) - normalised
    assert_equal(small, original, x)
    assert_equal(copy.deepcopy(small), original, x)
    with pytest.raises(ValueError, match="prefer: expected 'speed' or 'memory', got 'size'"):
        fastgan.fuse(original, prefer="size")


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_where_nothing_pays_the_models_own_forward_runs(monkeypatch: pytest.MonkeyPatch):
    """From the second call on; a larger tensor runs fused again."""
    monkeypatch.setattr(steps, "serve", lambda x: False)
    model = fastgan.fuse(Skipping())
    calls = []
    own = Skipping.forward
    monkeypatch.setattr(Skipping, "forward", lambda self, x: calls.append(1) or own(self, x))
    for _ in range(3):
        model(image(2, 3, 6, 6))
    assert len(calls) == 2
    model(image(16, 3, 64, 64)), model(image(16, 3, 64, 64))
    assert len(calls) == 2


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_where_nothing_pays_no_plan_within_is_asked(monkeypatch: pytest.MonkeyPatch):
    """But on its own each answers as before."""
    monkeypatch.setattr(steps, "serve", lambda x: False)
    layers = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3)]
    model = fastgan.fuse(nn.Sequential(*layers))
    x = image()
    model(x)
    asked = []
    known = native.WITH_AUTOGRAD.known
    counted = lambda *call: asked.append(1) or known(*call)  # noqa: E731
    monkeypatch.setattr(native.WITH_AUTOGRAD, "known", counted)
    model(x)
    assert len(asked) == 1
    model[0](x)
    assert len(asked) == 2
    with pytest.raises((ValueError, RuntimeError), match=r"weight|channels"):
        model(torch.randn(4, 5, 8, 8))
    model[0](x)
    assert len(asked) == 4


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_where_nothing_pays_a_call_costs_one_look(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "serve", lambda x: False)
    original = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()), nn.Conv2d(3, 3, 3))
    fused = fastgan.fuse(copy.deepcopy(original))
    x = image()
    look = calls(lambda: fused(x)) - calls(lambda: original(x))
    most = 15 if native.from_python() else 26
    assert look <= most, "21 while Python made the kind of a call, 14 since C++ does"


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_layers_run_as_they_are_beside_blocks_that_pay():
    """In both modes, whatever was fused; a hook on a layer is called, a block that changes too."""
    original = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.MaxPool2d(8),
        nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 16, 1), nn.ReLU(),
    )  # fmt: skip
    fused = fastgan.fuse(copy.deepcopy(original))
    x = image(16, 3, 66, 66)
    for training in (True, False):
        fused.train(training), original.train(training)
        for _ in range(3):
            assert_equal(fused, original, x)
        forms = [run.form for run in fused.fusion_report.runs]
        assert forms == ["unfused", "norm_act", "unfused", "norm_fused"]
    seen: list[nn.Module] = []
    handles = [fused[i].register_forward_hook(lambda m, *_: seen.append(m)) for i in (1, 5)]
    fused(x)
    assert seen == [fused[1], fused[5]]
    for handle in handles:
        handle.remove()
    fused[1].eps = original[1].eps = 0.5
    fused[2].negative_slope = original[2].negative_slope = 0.5
    assert_equal(fused, original, x)


def test_hooks_on_all_modules_see_every_call():
    model = fastgan.fuse(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU()))
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        model(image())
    finally:
        handle.remove()
    assert seen == [model[0][0], model[0], model[1], model]


@as_chosen
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripting_takes_the_layers_own_forwards():
    """Of a copy with the same weights; the model itself stays fused."""
    model = fastgan.fuse(nn.Sequential(sequential(), Squares()))
    x = image()
    expected = model(x)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), expected)
    assert {id(p) for p in scripted.parameters()} == {id(p) for p in model.parameters()}
    assert plan.plan_of(model) is not None
    copied = copy.deepcopy(model)
    assert vars(copied)["__prepare_scriptable__"].module is copied
    fastgan.unfuse(model)
    assert "__prepare_scriptable__" not in vars(model)


class Squares(nn.Module):
    """A forward by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(x)) ** 2
