"""bias_act on every backend, against PyTorch's own composition."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import eager
import pytest
import torch
from devices import everywhere
from parity import DTYPES, LAYERS, channels_last
from tolerance import assert_as_exact, within
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fastgan.ops import bias_act

SHAPES = [(8, 5), (4, 3, 7), (2, 3, 17, 19), (2, 64, 4, 4), (2, 3, 130, 70), (2, 4, 3, 4, 5)]


@everywhere("shape, dtype", product(SHAPES, DTYPES), product(LAYERS, DTYPES[:3]))
@pytest.mark.parametrize("activation", eager.ACTIVATIONS)
def test_equals_pytorch(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, activation: str
) -> None:
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    for as_given, biased in product([channels_last, Tensor.contiguous], [True, False]):
        x = as_given((torch.randn(shape, device=device) * 3).to(dtype))
        bias = torch.randn(shape[1], device=device) if biased else None
        dz = torch.randn(shape, device=device).to(dtype)
        # dbias may cancel to nearly nothing, where PyTorch is lucky on one number of threads.
        of_sums = float(dz.double().square().movedim(1, 0).flatten(1).sum(1).sqrt().max())

        def results(
            function: Any,
            dtype: torch.dtype,
            wide: torch.dtype,
            x: Tensor = x,
            bias: Tensor | None = bias,
            dz: Tensor = dz,
        ) -> list[Tensor]:
            inputs = [x.to(dtype), None if bias is None else bias.to(wide)]
            return eager.gradients(
                lambda x, b: function(x, b, activation=activation, negative_slope=0.2),
                inputs,
                dz.to(dtype),
            )

        own, theirs = results(bias_act, dtype, wide), results(eager.bias_act, dtype, wide)
        exact = results(eager.bias_act, torch.float64, torch.float64)
        assert own[0].stride() == x.stride()
        for name, *values in zip(["z", "dx", "dbias"], own, theirs, exact, strict=False):
            size = of_sums if name == "dbias" else 0.0
            # dbias is float32, but summed from the saved output, rounded to the data's dtype.
            assert_as_exact(name, *values, floor=dtype, size=size)


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
def test_first_and_second_derivatives(host_backend: str, activation: str) -> None:
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, *bias: Tensor) -> Tensor:
        return bias_act(x, *bias, activation=activation, negative_slope=0.2)

    for inputs in ((x, bias), (x,)):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
def test_infinities_and_nan_as_pytorch(host_backend: str, value: float, activation: str) -> None:
    spec = {"activation": activation, "negative_slope": 0.2}
    for as_given in (channels_last, Tensor.contiguous):
        x = as_given(torch.randn(4, 5, 6, 6))
        x[0, 1, 2, 3] = value
        both = [
            eager.gradients(partial(f, **spec), [x, torch.ones(5)], torch.ones_like(x))
            for f in (bias_act, eager.bias_act)
        ]
        torch.testing.assert_close(*both, equal_nan=True, **within(torch.float32, 10, 10))


def test_saves_its_output_alone(host_backend: str) -> None:
    saved = []
    x, bias = torch.randn(2, 3, 8, 8, requires_grad=True), torch.zeros(3, requires_grad=True)

    def pack(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        z = bias_act(x, bias)
    assert [t.data_ptr() for t in saved] == [z.data_ptr()]


def test_empty_batch(host_backend: str) -> None:
    x, bias = torch.empty(0, 3, 4, requires_grad=True), torch.zeros(3, requires_grad=True)
    gx, gb = torch.autograd.grad(bias_act(x, bias).sum(), (x, bias))
    assert gx.shape == x.shape
    assert torch.equal(gb, torch.zeros(3))


@pytest.mark.parametrize(
    ("error", "match", "args", "spec"),
    [
        (TypeError, "x: expected a Tensor", (1.0,), {}),
        (TypeError, "x: expected one of", (torch.ones(2, 3, dtype=torch.int32),), {}),
        (ValueError, r"x: expected \(N, C\)", (torch.ones(3),), {}),
        (ValueError, "bias: expected shape", (torch.ones(2, 3), torch.ones(2)), {}),
        (TypeError, "bias: expected torch.float32", (torch.ones(2, 3), torch.ones(3).half()), {}),
        (ValueError, "activation: 'elu'", (torch.ones(2, 3),), {"activation": "elu"}),
        (ValueError, "negative_slope", (torch.ones(2, 3),), {"negative_slope": -1}),
    ],
)
def test_errors(
    error: type[Exception], match: str, args: tuple[Any, ...], spec: dict[str, Any]
) -> None:
    with pytest.raises(error, match=match):
        bias_act(*args, **spec)
