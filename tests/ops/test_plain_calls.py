"""Plain calls reach the compiled kernels past torch's dispatcher; what is left to the operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastgan.nn import BatchNormAct2d
from fastgan.ops import backend, bias_act, norm_act
from fastgan.ops.core import native

pytestmark = pytest.mark.skipif(
    native.why_no_autograd() is not None, reason=str(native.why_no_autograd())
)
C = 6


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def train(x: Tensor) -> Tensor:
    return norm_act(x, torch.zeros(C), torch.ones(C), training=True, activation="tanh")


def evaluate(x: Tensor) -> Tensor:
    return norm_act(x, torch.full((C,), 0.3), torch.full((C,), 2.0), negative_slope=0.2)


def biased(x: Tensor) -> Tensor:
    return bias_act(x, torch.ones(C, dtype=x.dtype), activation="sigmoid")


Op = Callable[[Tensor], Tensor]
OPS = [train, evaluate, biased]


def raw(x: Tensor) -> tuple[Any, Any]:
    """What the C++ functions give for x themselves."""
    running = torch.zeros(C), torch.ones(C)
    return (
        native.WITH_AUTOGRAD.norm_act(
            x, *running, None, None, True, 0.1, 1e-5, 0, 0.2, 1, False, False, "cpu"
        ),
        native.WITH_AUTOGRAD.bias_act(x, None, 0, 0.2, "cpu"),
    )


class Sub(Tensor):
    pass


def negative_view(x: Tensor) -> Tensor:
    return torch._neg_view(x)  # type: ignore[no-any-return]


NOT_PLAIN: dict[str, Callable[[Tensor], Any]] = {
    "subclass": lambda x: x.as_subclass(Sub),
    "negative view": negative_view,
    "zeros without memory": lambda x: torch._efficientzerotensor(x.shape),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "no tensor": lambda x: x.numpy(),
    "none": lambda x: None,
    "one dimension": lambda x: x.flatten(),
    "whole numbers": lambda x: x.long(),
}


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_python(case: str) -> None:
    x = torch.randn(4, C, 3, 5)
    assert all(t is not None for t in raw(x))
    assert raw(NOT_PLAIN[case](x)) == (None, None)


@pytest.mark.parametrize("op", OPS)
def test_negative_views_are_computed_by_their_values(op: Op) -> None:
    x = torch.randn(4, C, 3, 5)
    assert torch.equal(op(negative_view(x)), op(-x))
    leaf = x.clone().requires_grad_()
    z = op(leaf)
    found, expected = (
        torch.autograd.grad(z, leaf, g, retain_graph=True)[0] for g in (negative_view(x), -x)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("op", OPS)
def test_forward_mode_and_traces_pass_by_neither_way(op: Op) -> None:
    x = torch.randn(4, C, 3, 5)
    with forward_ad.dual_level():
        assert raw(x) == (None, None)
        tangent = forward_ad.unpack_dual(op(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    assert tangent is not None
    traced = torch.jit.trace(op, x, check_trace=False)
    assert "fastgan::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x + 1), op(x + 1))


@pytest.mark.parametrize("op", OPS)
def test_both_ways_in_give_the_same(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, C, 3, 5, requires_grad=True)
    found = []
    for by_operator in (False, True):
        if by_operator:
            for name in ("norm_act", "bias_act"):
                monkeypatch.setattr(native.WITH_AUTOGRAD, name, native._by_operator(name))
        z = op(x)
        assert z.grad_fn is not None
        assert "fastgan::" in z.grad_fn.name()
        found.append((z, *torch.autograd.grad(z.square().sum(), x)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert native._by_operator("norm_act")(x.as_subclass(Sub), *[None] * 13) is None


@pytest.mark.parametrize("op", OPS)
def test_a_gradient_that_is_missing_counts_as_zeros(op: Op) -> None:
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Tensor) -> Tensor:
            ctx.set_materialize_grads(False)
            return t.clone()

        @staticmethod
        def backward(ctx: Any, *_: Any) -> None:
            return None

    x = torch.randn(4, C, 3, 5, requires_grad=True)
    Nothing.apply(op(x)).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("op", [train, evaluate])
def test_a_saved_tensor_that_comes_back_as_another_is_refused(op: Op) -> None:
    x = torch.randn(4, C, 3, 5, requires_grad=True)

    def wider(t: Tensor) -> Tensor:
        return t.double() if t.shape == x.shape else t

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, wider):
        z = op(x)
    with pytest.raises(RuntimeError, match="norm_act: a tensor saved for backward came back"):
        z.sum().backward()


@pytest.mark.parametrize("op", OPS)
def test_compiled_autograd_gives_the_same_gradients(op: Op) -> None:
    x = torch.randn(4, C, 3, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(op(x).square().sum(), x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        op(x).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


def test_a_profile_names_the_calls() -> None:
    x = torch.randn(4, C, 3, 5)
    with torch.profiler.profile() as profile, backend("cpu"):
        train(x)
        biased(x)
    names = {event.key for event in profile.key_averages()}
    assert {"fastgan::norm_act", "fastgan::bias_act"} <= names


def test_counts_move_visibly_and_only_where_they_are_plain() -> None:
    count = native.WITH_AUTOGRAD.count
    layer = BatchNormAct2d(C)
    batches = layer.num_batches_tracked
    assert batches is not None
    version = batches._version
    layer(torch.randn(4, C, 3, 5))
    assert (int(batches), batches._version) == (1, version + 1)
    for other in (torch.zeros(()), torch.zeros(2, dtype=torch.long), batches.to("meta"), None, 3):
        assert not count(other, 1)
    with torch.inference_mode():
        assert not count(torch.zeros((), dtype=torch.long), 1)


def test_wrong_numbers_of_arguments_are_refused() -> None:
    if not native.build_record().get("python"):
        pytest.skip("built without Python's headers")
    for name in ("norm_act", "bias_act", "count"):
        with pytest.raises(TypeError, match=r"expected \d+ arguments, got 1"):
            getattr(native.WITH_AUTOGRAD, name)(None)


def test_settings_of_a_layer_hold_from_the_next_call_on() -> None:
    layer, x = BatchNormAct2d(C, negative_slope=0.1).eval(), torch.randn(4, C, 3, 5)
    layer(x)
    layer.negative_slope, layer.eps = 0.3, 0.5
    norm = nn.BatchNorm2d(C, eps=0.5).eval()
    torch.testing.assert_close(layer(x), nn.functional.leaky_relu(norm(x), 0.3))
