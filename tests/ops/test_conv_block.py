"""conv_block's definition and derivatives, against PyTorch's own composition."""

from __future__ import annotations

from typing import Any

import eager
import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_as_exact, within
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastgan.ops import backend, conv_block
from fastgan.ops.conv_block import Deferred, reference

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

RECTANGLE = {"stride": (3, 2), "padding": (2, 0)}

# (transposed, x, C_out, kernel, geometry): strides, odd sizes, one position, rectangles, 1-D, 3-D.
CASES = [
    (False, (4, 3, 8, 8), 5, (4, 4), {"stride": 2, "padding": 1}),
    (True, (4, 3, 4, 4), 5, (4, 4), {"stride": 2, "padding": 1}),
    (True, (8, 6, 1, 1), 4, (4, 4), {"stride": 1}),
    (False, (4, 4, 4, 4), 1, (4, 4), {}),
    (True, (2, 3, 5, 7), 2, (5, 3), {**RECTANGLE, "output_padding": (1, 1)}),
    (False, (2, 3, 9, 6), 2, (3, 5), {"stride": (1, 3), "padding": (0, 2)}),
    (False, (4, 2, 21), 3, (15,), {"stride": 4, "padding": 7}),
    (True, (2, 2, 7), 3, (8,), {"stride": 4, "padding": 2}),
    (False, (2, 2, 5, 4, 5), 3, (3, 4, 3), {"stride": 2, "padding": 1}),
    (True, (2, 2, 3, 2, 3), 2, (4, 4, 4), {"stride": 2, "padding": 1}),
]


def of_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: tuple[Tensor, ...],
    segments: tuple[int, int],
    activations: tuple[str, str],
    transposed: bool,
    geometry: dict[str, Any],
) -> tuple[Tensor, ...]:
    """PyTorch's own layers: batch_norm a segment, activation, convolution, activation, moments."""
    before, after = segments
    z = x
    if norm:
        parts = [F.batch_norm(part, None, None, *norm, True) for part in x.chunk(before)]
        z = torch.cat(parts)
    z = eager.act(z, activations[0], 0.2)
    function = (TRANSPOSED if transposed else CONV)[x.dim() - 2]
    bias = None if bias is None else bias.to(x.dtype)
    y = eager.act(function(z, weight, bias, **geometry), activations[1], 0.2)
    u = y.reshape(after, -1, *y.shape[1:]).transpose(1, 2).flatten(2)
    return y, u.mean(2), u.var(2, unbiased=False)


def fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: tuple[Tensor, ...],
    segments: tuple[int, int],
    activations: tuple[str, str],
    transposed: bool,
    geometry: dict[str, Any],
) -> tuple[Tensor, ...]:
    """conv_block, with the statistics of x from plain PyTorch, so that all of dx is compared."""
    before, after = segments
    deferred = Deferred(activation=activations[0], negative_slope=0.2)
    if norm:
        wide = x if x.dtype is torch.float64 else x.float()
        rows = wide.reshape(before, -1, *x.shape[1:]).transpose(1, 2).flatten(2)
        moments = rows.mean(2), rows.var(2, unbiased=False)
        deferred = deferred._replace(mean=moments[0], var=moments[1], weight=norm[0], bias=norm[1])
    return conv_block(
        x, weight, bias, deferred, transposed=transposed, activation=activations[1],
        negative_slope=0.2, segments=after, **geometry,
    )  # fmt: skip


def make(
    case: tuple[Any, ...], normed: bool, biased: bool
) -> tuple[list[Tensor], bool, dict[str, Any]]:
    """[x, weight, bias?, gamma, beta?] of a case, with a mean far from zero."""
    transposed, shape, channels, kernel, geometry = case
    of_weight = (shape[1], channels) if transposed else (channels, shape[1])
    tensors = [torch.randn(shape) * 2 + 1, torch.randn(*of_weight, *kernel) * 0.3]
    tensors += [torch.randn(channels)] if biased else []
    tensors += [torch.randn(shape[1]), torch.randn(shape[1])] if normed else []
    return tensors, transposed, geometry


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_pytorch(case: tuple[Any, ...], normed: bool, dtype: torch.dtype) -> None:
    tensors, transposed, geometry = make(case, normed, biased=not normed)
    segments = (2, 1) if normed else (1, 2)
    if case[1][2:] == (1, 1):
        segments = (1, 1)
    activations = ("leaky_relu", "identity") if normed else ("identity", "tanh")

    def results(function: Any, dtype: torch.dtype, wide: torch.dtype) -> list[Tensor]:
        leaves = [
            t.to(dtype if i < 2 else wide).clone().requires_grad_() for i, t in enumerate(tensors)
        ]
        bias = None if normed else leaves[2]
        outputs = function(
            *leaves[:2], bias, tuple(leaves[2:]) if normed else (), segments, activations,
            transposed, geometry,
        )  # fmt: skip
        torch.manual_seed(2)
        cotangents = [torch.randn(o.shape).to(dtype).to(o.dtype) for o in outputs]
        return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)]

    own = results(fused, dtype, torch.float32)
    theirs = results(of_torch, dtype, torch.float32)
    exact = results(of_torch, torch.float64, torch.float64)
    for i, values in enumerate(zip(own, theirs, exact, strict=True)):
        assert_as_exact(str(i), *values, floor=dtype)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("case", [CASES[4], CASES[7]], ids=str)
def test_first_and_second_derivatives(case: tuple[Any, ...], normed: bool) -> None:
    tensors, transposed, geometry = make(case, normed, biased=True)
    leaves = [t.double().requires_grad_() for t in (tensors[0][..., :4], *tensors[1:])]

    def function(x: Tensor, weight: Tensor, bias: Tensor, *norm: Tensor) -> tuple[Tensor, ...]:
        activations = ("tanh", "identity") if normed else ("identity", "leaky_relu")
        return fused(x, weight, bias, norm, (1, 2), activations, transposed, geometry)

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, gen_non_contig_grad_outputs=True, fast_mode=True)


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
def test_bilinear_second_derivatives(activation: str) -> None:
    """The norm-free form, whose double backward is the same kernels again; and the third order."""
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_block(x, weight, bias, padding=1, activation=activation)[0]

    def gradient(*leaves: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)

    assert gradgradcheck(function, (x, weight, bias))
    assert gradgradcheck(gradient, (x, weight, bias), fast_mode=True)


def test_only_the_gradients_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, bool]] = []
    gradients = reference._aten_gradients

    def spy(*args: Any) -> Any:
        asked.append(args[-2:])
        return gradients(*args)

    monkeypatch.setattr(reference, "_aten_gradients", spy)
    for of_x, of_weight in ((True, False), (False, True)):
        x = torch.randn(2, 3, 8, 8, requires_grad=of_x)
        weight = torch.randn(4, 3, 4, 4, requires_grad=of_weight)
        conv_block(x, weight, stride=2, padding=1)[0].sum().backward()
        assert (x.grad is not None, weight.grad is not None) == (of_x, of_weight)
    assert asked == [(True, False), (False, True)]


def test_saves_its_input_and_output_alone() -> None:
    saved = []
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(4, 3, 4, 4, requires_grad=True)
    rows = torch.zeros(1, 3), torch.ones(1, 3)

    def pack(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y, *_ = conv_block(x, weight, None, Deferred(*rows), stride=2, padding=1, segments=1)
    full = {t.data_ptr() for t in saved if t.numel() > 100 and t is not weight}
    assert full - {weight.data_ptr()} == {x.data_ptr(), y.data_ptr()}


def test_opcheck() -> None:
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(4, 3, 4, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    rows = torch.randn(1, 3, requires_grad=True), (torch.rand(1, 3) + 0.5).requires_grad_()
    norm = (*rows, torch.ones(3, requires_grad=True), None, 1e-5, 0, 0.2)
    geometry = ([2, 2], [1, 1], [0, 0], False)
    ops = torch.ops.fastgan
    opcheck(ops.conv_block.default, (x, weight, bias, *norm, *geometry, 0, 0.2, 2, "reference"))
    nothing = (None,) * 4 + (0.0, 0, 1.0)
    opcheck(ops.conv_block.default, (x, weight, None, *nothing, *geometry, 1, 0.2, 0, "reference"))
    y = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    of_y = torch.randn_like(y), torch.randn(2, 4), None
    args = (*of_y, x, y, torch.randn(2, 4), weight, *norm, *geometry, 0, 0.2, 2)
    opcheck(ops.conv_block_backward.default, (*args, True, True, True, "reference"))


def penalised(x: Tensor, weight: Tensor, gamma: Tensor) -> Tensor:
    rows = x.mean((0, 2, 3))[None], x.var((0, 2, 3), unbiased=False)[None]
    y, *_ = conv_block(x, weight, None, Deferred(*rows, weight=gamma), stride=2, padding=1)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    return y.mean() + g.square().sum()


def test_forward_and_penalty_compile_as_one_function() -> None:
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    weight, gamma = torch.randn(4, 3, 4, 4, requires_grad=True), torch.ones(3, requires_grad=True)
    expected = torch.autograd.grad(penalised(x, weight, gamma), (weight, gamma))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(penalised, backend="aot_eager", fullgraph=True)
        actual = torch.autograd.grad(compiled(x, weight, gamma), (weight, gamma))
    torch.testing.assert_close(actual, expected)


def test_autocast_converts_as_a_convolution_does() -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, mean, _ = conv_block(x, weight, torch.zeros(4), segments=1)
        expected = F.conv2d(x, weight)
    assert y.dtype is expected.dtype is torch.bfloat16
    assert mean.dtype is torch.float32
    torch.testing.assert_close(y, expected, **within(torch.bfloat16, 2, 2))
    (g,) = torch.autograd.grad(y.float().sum(), weight)
    assert g.dtype is torch.float32


X, W = torch.ones(4, 3, 8, 8), torch.ones(5, 3, 4, 4)


@pytest.mark.parametrize(
    ("error", "match", "args", "spec"),
    [
        (ValueError, "segments: 3 does not divide", (X, W), {"segments": 3}),
        (ValueError, "bias: expected shape", (X, W, torch.ones(3)), {}),
        (ValueError, "weight", (X, torch.ones(5, 2, 4, 4)), {}),
        (ValueError, "both mean and var", (X, W, None, Deferred(torch.ones(1, 3))), {}),
        (ValueError, "need mean and var", (X, W, None, Deferred(weight=torch.ones(3))), {}),
        (ValueError, "deferred.mean", (X, W, None, Deferred(*torch.ones(2, 3, 3))), {}),
        (ValueError, "activation: 'elu'", (X, W), {"activation": "elu"}),
        (ValueError, "stride", (X, W), {"stride": 0}),
        (TypeError, "x: expected a Tensor", (1.0, W), {}),
    ],
)
def test_errors(
    error: type[Exception], match: str, args: tuple[Any, ...], spec: dict[str, Any]
) -> None:
    with pytest.raises(error, match=match):
        conv_block(*args, **spec)


def test_a_backend_without_the_op_is_refused() -> None:
    with backend("cpu"), pytest.raises(RuntimeError, match="norm_act_conv"):
        conv_block(X, W)
