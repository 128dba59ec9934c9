"""A fused model's forward may be wrapped and bound again, as accelerate does it (its steps, here).

Mixed precision: `prepare` wraps `forward.__func__` in autocast and in a conversion of the outputs
and binds that; `unwrap_model(keep_fp32_wrapper=False)` follows `__wrapped__` and binds what it
finds. That called a fused model's forward with the model itself as first argument.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
from types import MethodType

import pytest
import torch
from tolerance import within
from torch import Tensor, nn

import fastgan
from fastgan.fusion.plan import plan_of


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 2, 1), nn.Tanh()
    )


class InFloat32:
    """accelerate's ConvertOutputsToFp32."""

    def __init__(self, forward) -> None:
        self.forward = forward
        functools.update_wrapper(self, forward)

    def __call__(self, *args: Tensor) -> Tensor:
        return self.forward(*args).float()


def prepare(module: nn.Module) -> None:
    module._original_forward = module.forward
    function = module.forward.__func__ if hasattr(module.forward, "__func__") else module.forward
    mixed = torch.autocast("cpu", dtype=torch.bfloat16)(function)
    if hasattr(module.forward, "__func__"):
        module.forward = MethodType(mixed, module)
        module.forward = MethodType(InFloat32(module.forward.__func__), module)
    else:
        module.forward = InFloat32(mixed)


def unwrap(module: nn.Module) -> None:
    forward, original = module.forward, module.__dict__.pop("_original_forward")
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
        if forward == original:
            break
    module.forward = MethodType(forward, module)


def assert_as(own: nn.Module, theirs: nn.Module) -> None:
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(own(x), theirs(x))


@pytest.fixture(params=[True, False], ids=["training", "evaluation"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    original = model().train(request.param)
    return fastgan.fuse(copy.deepcopy(original)), original


def test_mixed_precision_and_back(pair: tuple[nn.Module, nn.Module]):
    fused, original = pair
    for module in pair:
        prepare(module)
    x = torch.randn(4, 3, 8, 8)
    found, expected = fused(x), original(x)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, expected, **within(torch.bfloat16, 2, 2))
    for module in pair:
        unwrap(module)
    assert_as(fused, original)
    assert plan_of(fused).forwards  # it was the plan that answered
    fastgan.unfuse(fused)
    assert "forward" not in vars(fused)
    assert_as(fused, original)


def test_unfused_while_wrapped(pair: tuple[nn.Module, nn.Module]):
    fused, original = pair
    prepare(fused)
    fastgan.unfuse(fused)
    unwrap(fused)
    assert_as(fused, original)


def test_copies_of_a_model_that_was_bound_again(pair: tuple[nn.Module, nn.Module]):
    """Each runs its own parameters."""
    fused, original = pair
    prepare(fused), unwrap(fused)
    torch.save(fused, buffer := io.BytesIO())
    buffer.seek(0)
    copies = [copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))]
    copies.append(torch.load(buffer, weights_only=False))
    with torch.no_grad():
        fused[0].weight.zero_()
    for other in copies:
        assert plan_of(other).module is other
        assert other.forward.__self__ is other
        assert_as(other, original)


def test_forward_is_partially_applied_and_bound_to_another():
    """`functools.partial(type(m).forward, m)` and hooks by assignment, as other tools have them."""
    fused, original = fastgan.fuse(first := model()), copy.deepcopy(first)
    fastgan.unfuse(original)
    second = fastgan.fuse(model()).eval()
    own = fused.forward
    fused.forward = functools.partial(own.__func__, fused)
    assert_as(fused.eval(), original.eval())
    fused.forward = lambda *args: own(*args)
    assert_as(fused, original)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(own.__func__(second, x), second(x))
    torch.testing.assert_close(own.__func__(original, x), original(x))  # which has no plan
