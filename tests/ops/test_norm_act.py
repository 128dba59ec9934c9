"""norm_act on every backend, against PyTorch's own layers."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import eager
import pytest
import torch
from devices import everywhere
from parity import DTYPES, LAYERS, LAYOUTS, channels_last, check_parity
from tolerance import assert_as_exact, within
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fastgan.ops import backend, instance_norm_act, norm_act

SHAPES = [
    (8, 5),
    (64, 16),
    (4, 3, 7),
    (6, 4, 5, 3),
    (2, 64, 4, 4),
    (4, 16, 8, 8),
    (2, 33, 6, 6),
    (2, 130, 1, 1),
    (2, 3, 130, 140),
    (2, 4, 3, 4, 5),
]


@everywhere("shape, dtype", product(SHAPES, DTYPES), product(LAYERS, DTYPES[:3]))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_pytorch(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str, training: bool
) -> None:
    x = LAYOUTS[layout]((torch.randn(shape, device=device) * 2 + 1).to(dtype))
    weight, bias = torch.randn(2, shape[1], device=device)
    dz = torch.randn(shape, device=device)
    check_parity(x, weight, bias, dz, training, negative_slope=0.2)


@everywhere(
    "shape, dtype",
    product([(4, 16, 9, 9), (4, 6, 5)], DTYPES[:2]),
    product([(12, 40, 9, 9)], DTYPES[:3]),
)
@pytest.mark.parametrize("activation", eager.ACTIVATIONS)
@pytest.mark.parametrize("order", ["norm_act", "act_norm"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_activations_orders_and_segments(
    device: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    activation: str,
    order: str,
    training: bool,
) -> None:
    spec = {"activation": activation, "order": order, "negative_slope": 0.1}
    for as_given in LAYOUTS.values():
        x = as_given(torch.randn(shape, device=device).to(dtype))
        weight, bias = torch.randn(2, shape[1], device=device)
        dz = torch.randn(shape, device=device)
        for affine in ((weight, None), (None, bias), (None, None)):
            check_parity(x, *affine, dz, training, **spec)
        for segments in (2, shape[0]) if training else ():
            check_parity(x, None, bias, dz, True, segments=segments, **spec)


@pytest.mark.parametrize("segments", [2, 3, 6])
def test_segments_equal_as_many_calls(host_backend: str, segments: int) -> None:
    for shape, as_given in product([(6, 20, 8, 8), (12, 5)], [channels_last, Tensor.contiguous]):
        x = as_given(
            torch.randn(shape) + torch.arange(shape[0]).reshape(-1, *(1,) * len(shape[1:]))
        )
        weight, bias = torch.randn(shape[1]), torch.randn(shape[1])
        if x[: shape[0] // segments, 0].numel() > 1:
            check_parity(x, weight, bias, torch.randn(shape), True, segments=segments)


@pytest.mark.parametrize("shift", [0.0, 1e2, 1e4])
def test_mean_far_above_deviation(host_backend: str, shift: float) -> None:
    """Statistics by merged moments lose no digits where E[x^2] - E[x]^2 would lose all."""
    for as_given in (channels_last, Tensor.contiguous):
        x = as_given(torch.randn(8, 16, 24, 24) + shift)
        check_parity(x, torch.randn(16), torch.randn(16), torch.randn(x.shape), True, momentum=1.0)


@pytest.mark.parametrize("how", ["cat", "narrow", "expand", "transpose", "channels_last"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_any_strides(host_backend: str, how: str, layout: str) -> None:
    def loss(z: Tensor) -> Tensor:
        if how == "cat":
            return torch.cat([z, 2 * z], 1)[:, 3:9].square().sum()
        if how == "narrow":
            return z.narrow(2, 1, 2).sum() + z.narrow(1, 0, 3).square().sum()
        if how == "expand":
            return z.sum() + z.mean((2, 3)).square().sum()
        if how == "transpose":
            weight = torch.arange(z.numel(), dtype=z.dtype).reshape(z.transpose(0, 3).shape)
            return (z.transpose(0, 3) * weight).sum() / z.numel()
        return (channels_last(z) * channels_last(torch.ones_like(z))).square().sum()

    x = torch.randn(4, 6, 5, 3, dtype=torch.float64)
    x = channels_last(x) if layout == "channels_last" else x
    weight = torch.randn(6, dtype=torch.float64)
    grads = []
    for function in (norm_act, eager.norm_act):
        leaf, gamma = x.detach().requires_grad_(), weight.clone().requires_grad_()
        z = function(leaf, None, None, gamma, None, True, negative_slope=0.2)
        grads.append(torch.autograd.grad(loss(z), (leaf, gamma)))
    torch.testing.assert_close(grads[0], grads[1], **within(torch.float64, 1000, 10))


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("order", ["norm_act", "act_norm"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("segments", [1, 2])
def test_first_and_second_derivatives(
    host_backend: str, activation: str, order: str, training: bool, segments: int
) -> None:
    def double(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    x, weight, bias = double(4, 2, 2, 1), double(2), double(2)
    mean = torch.randn(2, dtype=torch.float64)
    var = torch.rand(2, dtype=torch.float64) + 0.5

    def function(*inputs: Tensor | None) -> Tensor:
        x, weight, bias = (*inputs, None, None)[:3]
        return norm_act(
            x, mean.clone(), var.clone(), weight, bias, training, activation=activation,
            negative_slope=0.2, order=order, segments=segments,
        )  # fmt: skip

    for inputs in ((x, weight, bias), (x,)):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_second_order_equals_pytorch(device: str) -> None:
    """The gradient of a penalty on the input's gradient, as in R1, in float32."""
    x = channels_last(torch.randn(8, 12, 9, 9, device=device) * 2 + 1)
    weight, bias = torch.randn(2, 12, device=device)

    def penalty(function: Any, dtype: torch.dtype) -> list[Tensor]:
        leaves = [t.to(dtype).detach().clone().requires_grad_() for t in (x, weight, bias)]
        z = function(leaves[0], None, None, *leaves[1:], True, negative_slope=0.2)
        (gradient,) = torch.autograd.grad(z.square().sum(), leaves[0], create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), leaves))

    own, theirs = penalty(norm_act, torch.float32), penalty(eager.norm_act, torch.float32)
    for name, *values in zip(
        ("x", "weight", "bias"), own, theirs, penalty(eager.norm_act, torch.float64), strict=True
    ):
        assert_as_exact(name, *values, floor=torch.float32)


def test_third_derivative(host_backend: str) -> None:
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    def gradient_norm(x: Tensor) -> Tensor:
        z = norm_act(x, None, None, training=True, activation="tanh")
        (g,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
        return g.square().sum()

    assert gradgradcheck(gradient_norm, (x,))


def test_saves_one_full_size_tensor(host_backend: str) -> None:
    """Of a convolution and norm_act, norm_act adds none to the output of the convolution."""
    conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    weight, bias = torch.ones(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    image = torch.randn(4, 3, 16, 16)

    def saved(function: Any) -> int:
        pointers = set()

        def pack(t: Tensor) -> Tensor:
            if t.numel() == 4 * 8 * 16 * 16:
                pointers.add(t.data_ptr())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            function(conv(image))
        return len(pointers)

    def of_torch(y: Tensor) -> Tensor:
        norm = torch.nn.functional.batch_norm(y, None, None, weight, bias, True)
        return torch.nn.functional.leaky_relu_(norm, 0.2)

    assert saved(lambda y: norm_act(y, None, None, weight, bias, True)) == 1
    assert saved(of_torch) == 2


def test_only_requested_gradients(host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgan.ops.norm_act import reference as raw

    asked = []
    original = raw.norm_act_backward

    def spy(*args: Any) -> Any:
        asked.append(args[-2:])
        return original(*args)

    monkeypatch.setattr(raw, "norm_act_backward", spy)
    x, weight = torch.randn(4, 3, 5, requires_grad=True), torch.ones(3, requires_grad=True)
    with backend("reference"):
        norm_act(x, None, None, weight.detach(), None, True).sum().backward()
        norm_act(x.detach(), None, None, weight, None, True).sum().backward()
    assert asked == [(True, False), (False, True)]
    with backend(host_backend):
        z = norm_act(x, None, None, weight, None, True)
        (gx,) = torch.autograd.grad(z.square().sum(), x, retain_graph=True)
        (gw,) = torch.autograd.grad(z.square().sum(), weight)
    both = eager.gradients(
        lambda x, w: eager.norm_act(x, None, None, w, None, True), [x, weight], 2 * z
    )
    torch.testing.assert_close([gx, gw], both[1:], **within(torch.float32, 100, 10))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_infinities_and_nan_as_pytorch(host_backend: str, training: bool, value: float) -> None:
    for as_given, activation in product(
        [channels_last, Tensor.contiguous], ["leaky_relu", "tanh", "sigmoid"]
    ):
        x = as_given(torch.randn(4, 5, 6, 6))
        x[0, 1, 2, 3] = value
        spec = {"activation": activation, "negative_slope": 0.2}
        dz = torch.ones(x.shape)
        results = []
        for function in (norm_act, eager.norm_act):
            running = torch.zeros(5), torch.ones(5)

            bound = partial(function, **spec)

            def call(x: Tensor, f: Any = bound, r: Any = running) -> Tensor:
                return f(x, *r, None, None, training)

            results.append([*eager.gradients(call, [x], dz), *running])
        torch.testing.assert_close(*results, equal_nan=True, **within(torch.float32, 100, 10))


def test_same_bits_on_any_number_of_threads(native: None) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            for as_given in (channels_last, Tensor.contiguous):
                x = as_given(torch.randn(8, 24, 33, 31))
                inputs = [x, torch.randn(24), torch.randn(24)]
                results.append(
                    eager.gradients(
                        lambda x, w, b: norm_act(x, None, None, w, b, True), inputs, x.cos()
                    )
                )
    finally:
        torch.set_num_threads(threads)
    for later in (2, 4):
        for offset in (0, 1):
            for a, b in zip(results[offset], results[later + offset], strict=True):
                assert torch.equal(a, b)


@everywhere("shape", [((8, 96, 7, 5),)], [((8, 96, 7, 5),), ((64, 64, 32, 32),)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_runs_are_bitwise_equal(device: str, shape: tuple[int, ...], layout: str) -> None:
    x = LAYOUTS[layout]((torch.randn(shape, device=device) * 2 + 1).bfloat16())
    weight, bias = torch.randn(2, shape[1], device=device)
    dz = torch.randn_like(x)

    def run() -> list[Tensor]:
        def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return norm_act(x, None, None, weight, bias, True)

        return eager.gradients(call, [x, weight, bias], dz)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_empty_batch(host_backend: str) -> None:
    x = torch.empty(0, 4, 3, 3, requires_grad=True)
    weight = torch.ones(4, requires_grad=True)
    mean, var = torch.zeros(4), torch.ones(4)
    for training in (True, False):
        z = norm_act(x, mean, var, weight, None, training)
        assert z.shape == x.shape
        gx, gw = torch.autograd.grad(z.sum(), (x, weight))
        assert gx.shape == x.shape
        assert torch.equal(gw, torch.zeros(4))
    assert torch.equal(mean, torch.zeros(4))
    assert torch.equal(var, torch.ones(4))


@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (3, 5, 9), (2, 3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_instance_norm(host_backend: str, shape: tuple[int, ...], affine: bool) -> None:
    channels = shape[1]
    params = [torch.randn(channels), torch.randn(channels)] if affine else [None, None]
    for as_given, use_input in product([channels_last, Tensor.contiguous], [True, False]):
        x, dz = as_given(torch.randn(shape) * 3 + 2), torch.randn(shape)
        results = []
        for function in (instance_norm_act, torch.nn.functional.instance_norm):
            running = torch.zeros(channels), torch.ones(channels)

            def call(x: Tensor, *p: Any, spec: Any = (function, running, use_input)) -> Tensor:
                function, running, use_input = spec
                z = function(x, *running, *p, use_input)
                return z if function is instance_norm_act else eager.act(z, "leaky_relu", 0.01)

            results.append([*eager.gradients(call, [x, *params], dz), *running])
        torch.testing.assert_close(*results, **within(torch.float32, 100, 20))


X = torch.zeros(4, 3, 2, 2)
C3 = torch.ones(3)


@pytest.mark.parametrize(
    ("error", "match", "args", "spec"),
    [
        (TypeError, "x: expected a Tensor", ([1.0], None, None), {"training": True}),
        (TypeError, "x: expected one of", (X.int(), None, None), {"training": True}),
        (ValueError, r"x: expected \(N, C\)", (X[0, 0, 0], None, None), {"training": True}),
        (ValueError, r"x: expected \(N, C\)", (X[None, None], None, None), {"training": True}),
        (ValueError, "more than 1 value", (torch.zeros(1, 3), None, None), {"training": True}),
        (ValueError, "more than 1 value", (X[:2, :, :1, :1], None, None),
         {"training": True, "segments": 2}),
        (ValueError, "segments: 3", (X, None, None), {"training": True, "segments": 3}),
        (ValueError, "segments: .*got 0", (X, None, None), {"training": True, "segments": 0}),
        (ValueError, "running_mean: evaluation", (X, None, None), {}),
        (ValueError, "running_var: give both", (X, C3, None), {}),
        (ValueError, "running_mean: give both", (X, None, C3), {"training": True}),
        (ValueError, r"running_mean: expected shape \(3,\)", (X, torch.ones(4), C3), {}),
        (ValueError, r"weight: expected shape \(3,\)", (X, C3, C3, torch.ones(1, 3)), {}),
        (ValueError, r"bias: expected shape \(3,\)", (X, C3, C3, None, torch.ones(2)), {}),
        (TypeError, "weight: expected a Tensor or None", (X, C3, C3, 1.0), {}),
        (TypeError, "weight: expected torch.float32", (X, C3, C3, C3.double()), {}),
        (TypeError, "weight: expected torch.float64",
         (X.double(), C3.double(), C3.double(), C3), {}),
        (ValueError, "weight: is on meta", (X, C3, C3, C3.to("meta")), {}),
        (ValueError, "activation: 'gelu'", (X, C3, C3), {"activation": "gelu"}),
        (ValueError, "negative_slope", (X, C3, C3), {"negative_slope": -0.1}),
        (ValueError, "negative_slope", (X, C3, C3), {"negative_slope": float("nan")}),
        (ValueError, "order: 'act'", (X, C3, C3), {"order": "act"}),
    ],
)  # fmt: skip
def test_errors(
    error: type[Exception], match: str, args: tuple[Any, ...], spec: dict[str, Any]
) -> None:
    with pytest.raises(error, match=match):
        norm_act(*args, **spec)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 4, 1), (2, 4)], ids=str)
def test_instance_norm_needs_more_than_one_value(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        torch.nn.functional.instance_norm(torch.zeros(shape))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        instance_norm_act(torch.zeros(shape))
