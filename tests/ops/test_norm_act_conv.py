"""norm_act_conv on the backends of the CPU, against PyTorch's own layers."""

from __future__ import annotations

from typing import Any

import eager
import pytest
import torch
import torch.nn.functional as F
from parity import channels_last
from tolerance import assert_as_exact
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastgan.ops import backend, conv, norm_act_conv
from fastgan.ops.conv.algorithms import force
from fastgan.ops.norm_act_conv import Norm

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

# (transposed, shape of x, C_out, kernel, geometry)
CASES = [
    (False, (4, 3, 8, 8), 5, (4, 4), {"stride": 2, "padding": 1}),
    (True, (4, 16, 4, 4), 8, (4, 4), {"stride": 2, "padding": 1}),
    (True, (8, 6, 1, 1), 4, (4, 4), {}),
    (True, (4, 3, 5, 7), 2, (5, 3), {"stride": (3, 2), "padding": (2, 0), "output_padding": 1}),
    (False, (4, 2, 21), 3, (15,), {"stride": 4, "padding": 7}),
    (False, (2, 2, 5, 4, 5), 3, (3, 4, 3), {"stride": 2, "padding": 1}),
]


def of_torch(
    tensors: list[Tensor | None],
    running: tuple[Tensor, Tensor],
    training: bool | None,
    activations: tuple[str, str],
    case: tuple[Any, ...],
    segments: int,
) -> Tensor:
    """PyTorch's layers: batch_norm (training None: no norm), activation, convolution, activation.

    Args:
        tensors: x, weight, bias, and the norm's weight and bias.
    """
    x, weight, bias, *affine = tensors
    assert x is not None
    z = x
    if training is not None:
        parts = x.chunk(segments)
        z = torch.cat([F.batch_norm(p, *running, *affine, training, 0.3) for p in parts])
    z = eager.act(z, activations[0], 0.2)
    function = (TRANSPOSED if case[0] else CONV)[x.dim() - 2]
    bias = None if bias is None else bias.to(x.dtype)
    return eager.act(function(z, weight, bias, **case[4]), activations[1], 0.2)


def fused(
    tensors: list[Tensor | None],
    running: tuple[Tensor, Tensor],
    training: bool | None,
    activations: tuple[str, str],
    case: tuple[Any, ...],
    segments: int,
    keep_z: bool = False,
) -> Tensor:
    x, weight, bias, *affine = tensors
    assert x is not None
    assert weight is not None
    norm = None
    if training is not None:
        norm = Norm(*running, *affine, training, 0.3, segments=segments)
    return norm_act_conv(
        x, weight, bias, norm, pre_activation=activations[0], pre_slope=0.2, transposed=case[0],
        activation=activations[1], negative_slope=0.2, keep_z=keep_z, **case[4],
    )  # fmt: skip


def make(case: tuple[Any, ...], affine: bool = True, biased: bool = True) -> list[Tensor | None]:
    transposed, shape, channels, kernel, _ = case
    of_weight = (shape[1], channels) if transposed else (channels, shape[1])
    x, weight = torch.randn(shape) * 2 + 1, torch.randn(*of_weight, *kernel) * 0.3
    sizes = ((channels, biased), (shape[1], affine), (shape[1], affine))
    return [x, weight, *(torch.randn(n) if given else None for n, given in sizes)]


def check(
    case: tuple[Any, ...],
    tensors: list[Tensor | None],
    training: bool | None,
    activations: tuple[str, str],
    dtype: torch.dtype,
    layout: str = "contiguous",
    segments: int = 1,
    keep_z: bool = False,
) -> None:
    """Output, all gradients and running statistics, by the tolerance rule."""
    channels = case[1][1]
    statistics = torch.randn(channels), torch.rand(channels) + 0.5

    def results(function: Any, dtype: torch.dtype, wide: torch.dtype) -> list[Tensor]:
        running = [s.to(wide, copy=True) for s in statistics]
        leaves: list[Tensor | None] = []
        for i, t in enumerate(tensors):
            t = None if t is None else t.to(dtype if i < 2 else wide, copy=True)
            if i == 0 and t is not None and layout == "channels_last":
                t = channels_last(t)
            leaves.append(None if t is None else t.requires_grad_())
        given = leaves if training is not None else [*leaves[:3], None, None]
        y = function(given, running, training, activations, case, segments)
        torch.manual_seed(2)
        cotangent = torch.randn(y.shape).to(dtype).to(y.dtype)
        wanted = [t for t in given if t is not None]
        return [y, *torch.autograd.grad(y, wanted, cotangent), *running]

    def own_function(*args: Any) -> Tensor:
        return fused(*args, keep_z=keep_z)

    wide = torch.float64 if dtype is torch.float64 else torch.float32
    own = results(own_function, dtype, wide)
    theirs = results(of_torch, dtype, wide)
    exact = results(of_torch, torch.float64, torch.float64)
    assert own[0].dtype is dtype
    either = case[1][2:] == (1, 1)  # such an x counts as channels-last
    lies = own[0].movedim(1, -1) if either or layout == "channels_last" else own[0]
    assert lies.is_contiguous()
    for i, values in enumerate(zip(own, theirs, exact, strict=True)):
        assert_as_exact(str(i), *values, floor=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_pytorch(
    host_backend: str, case: tuple[Any, ...], layout: str, dtype: torch.dtype
) -> None:
    activations = ("leaky_relu", "identity")
    check(case, make(case), True, activations, dtype, layout)
    check(case, make(case, affine=False), False, activations, dtype, layout)
    check(case, make(case), None, ("relu", "tanh"), dtype, layout)


@pytest.mark.parametrize("activation", eager.ACTIVATIONS)
@pytest.mark.parametrize("keep_z", [False, True])
def test_activations(host_backend: str, activation: str, keep_z: bool) -> None:
    for training in (True, False, None):
        for activations in ((activation, "identity"), ("identity", activation)):
            tensors = make(CASES[1], biased=activation != "relu")
            spec = training, activations, torch.float32, "channels_last"
            check(CASES[1], tensors, *spec, keep_z=keep_z)


@pytest.mark.parametrize("segments", [2, 4])
def test_segments_equal_as_many_calls(host_backend: str, segments: int) -> None:
    tensors = make(CASES[0])
    check(CASES[0], tensors, True, ("relu", "identity"), torch.float32, segments=segments)


SMALL = [
    (
        True,
        (2, 2, 2, 3),
        2,
        (3, 2),
        {"stride": (2, 1), "padding": (1, 0), "output_padding": (1, 0)},
    ),
    (False, (2, 2, 5), 2, (3,), {"stride": 2, "padding": 1}),
]


@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_first_and_second_derivatives(
    host_backend: str, case: tuple[Any, ...], training: bool | None
) -> None:
    given = make(case)
    leaves = [t.double().requires_grad_() for t in given if t is not None]
    running = torch.randn(case[1][1]).double(), torch.rand(case[1][1]).double() + 0.5

    def function(*tensors: Tensor) -> Tensor:
        of = [*tensors, *(None,) * (5 - len(tensors))]
        copies = (running[0].clone(), running[1].clone())
        return fused(of, copies, training, ("tanh", "sigmoid"), case, 1)

    leaves = leaves if training is not None else leaves[:3]
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, gen_non_contig_grad_outputs=True)


@pytest.mark.parametrize("keep_z", [False, True])
@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_saves_one_activation(host_backend: str, keep_z: bool, activation: str) -> None:
    tensors = make(CASES[1])
    leaves = [t if t is None else t.requires_grad_() for t in tensors]
    saved = set()

    def note(t: Tensor) -> Tensor:
        saved.add((t.data_ptr(), t.numel()))
        return t

    running = torch.zeros(16), torch.ones(16)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        y = fused(leaves, running, True, ("relu", activation), CASES[1], 1, keep_z)
    x = leaves[0]
    assert x is not None
    inputs = {(t.data_ptr(), t.numel()) for t in leaves if t is not None}
    own = {key for key in saved - inputs if key[1] > 2 * 16}
    assert (x.data_ptr(), x.numel()) in saved
    expected = [x.numel()] * keep_z + [y.numel()] * (activation == "tanh")
    assert sorted(n for _, n in own) == sorted(expected)


@pytest.mark.parametrize("how", ["requires_grad", "inputs"])
def test_only_the_gradients_asked_for(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """No weight gradient of frozen weights, nor where `autograd.grad` asks for other inputs."""
    calls = []
    for name in ("backward_weight", "backward_input"):
        function = getattr(conv, name)

        def counted(*args: Any, name: str = name, function: Any = function) -> Tensor:
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(conv, name, counted)
    x, weight, *_ = make(CASES[0])
    assert x is not None
    assert weight is not None
    with backend("cpu"):
        x.requires_grad_()
        y = norm_act_conv(x, weight.requires_grad_(how == "inputs"), norm=Norm())
        torch.autograd.grad(y.sum(), x)
        assert calls == ["backward_input"]
        calls.clear()
        y = norm_act_conv(x.detach(), weight.requires_grad_(), norm=Norm())
        y.sum().backward()
        assert calls == ["backward_weight"]


def test_opcheck(host_backend: str) -> None:
    op = torch.ops.fastgan.norm_act_conv.default
    back = torch.ops.fastgan.norm_act_conv_backward.default
    geometry = ([2, 2], [1, 1], [0, 0], True)
    x = channels_last(torch.randn(2, 3, 4, 4)).requires_grad_()
    weight = torch.randn(3, 2, 4, 4, requires_grad=True)
    gamma, beta = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    mean, var, bias = torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(2, requires_grad=True)
    before, after = (1e-5, 0, 0.2), (1, 0.0)
    cases: list[tuple[tuple[Any, ...], bool, int, bool]] = [
        ((None, None, gamma, beta), True, 2, False),
        ((None, None, gamma, beta), True, 1, True),
        ((mean, var, gamma, None), False, 1, True),
        ((None,) * 4, False, 1, False),
    ]
    for norm, training, segments, keep_z in cases:
        spec = (*before, training, segments, *geometry, *after)
        opcheck(op, (x, weight, bias, *norm, *spec, keep_z, host_backend))
    y = torch.randn(2, 2, 8, 8)
    spec = (*before, True, 1, *geometry, *after)
    plain = [t.detach() for t in (x, weight, mean, var, gamma, beta)]
    for needs in ((True, True, True, True), (False, True, False, False), (True,) + (False,) * 3):
        args = (y, plain[0], y, None, *plain[1:], *spec, *needs, host_backend)
        opcheck(back, args)


@pytest.mark.slow
def test_compile_without_a_graph_break(native: None) -> None:
    torch._dynamo.reset()

    def function(x: Tensor, weight: Tensor, gamma: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        norm = Norm(mean, var, gamma)
        return norm_act_conv(x, weight, None, norm, pre_activation="relu", stride=2, padding=1)

    results = []
    for call in (torch.compile(function, fullgraph=True), function):
        torch.manual_seed(1)
        leaves = [channels_last(torch.randn(4, 3, 8, 8)), torch.randn(5, 3, 4, 4), torch.randn(3)]
        leaves = [t.requires_grad_() for t in leaves]
        running = torch.zeros(3), torch.ones(3)
        y = call(*leaves, *running)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves), *running])
    torch.testing.assert_close(*results)


def test_autocast(host_backend: str) -> None:
    x, weight = torch.randn(4, 3, 8, 8), torch.randn(5, 3, 4, 4, requires_grad=True)
    gamma = torch.ones(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = norm_act_conv(x, weight, None, Norm(weight=gamma), pre_activation="relu")
    assert y.dtype is torch.bfloat16
    y.float().square().sum().backward()
    for t in (weight, gamma):
        assert t.grad is not None
        assert t.grad.dtype is torch.float32


@force(bf16=True)
def test_autocast_reads_a_float32_weight(native: None) -> None:
    """No copy of it is saved, and the gradient is not rounded; of any order as torch.nn's."""
    x, weight = torch.randn(4, 32, 8, 8), torch.randn(48, 32, 4, 4) / 8
    kept: list[Tensor] = []

    def results(function: Any, dtype: torch.dtype) -> list[Tensor]:
        leaves = [channels_last(t.to(dtype, copy=True)).requires_grad_() for t in (x, weight)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
            y = function(*leaves, stride=2, padding=1)
        first = torch.autograd.grad(y.double().square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.double().square().sum() for g in first), leaves)
        return [y, *first, *second]

    def own(x: Tensor, weight: Tensor, **geometry: Any) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            y = norm_act_conv(x, weight, **geometry)
        assert sum(t.shape == weight.shape for t in kept) == 1
        assert all(t is weight for t in kept if t.shape == weight.shape)
        return y

    found = [results(f, torch.float32) for f in (own, F.conv2d)]
    for i, values in enumerate(zip(*found, results(F.conv2d, torch.float64), strict=True)):
        assert_as_exact(f"result {i}", *values)
    plain = channels_last(weight.clone()).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm_act_conv(channels_last(x), plain, stride=2, padding=1)
    (gradient,) = torch.autograd.grad(y.double().square().sum(), plain)
    assert gradient.dtype is torch.float32
    assert not torch.equal(gradient, gradient.bfloat16().float())


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"weight": None}, TypeError, "weight: expected a Tensor"),
        ({"weight": torch.ones(5, 4, 4, 4)}, ValueError, "x: expected 4 channels"),
        ({"bias": torch.ones(4)}, ValueError, r"bias: expected shape \(5,\)"),
        ({"stride": 0}, ValueError, "stride: expected"),
        ({"padding": (1, 1, 1)}, ValueError, "padding: expected 2"),
        ({"output_padding": 1}, ValueError, "output_padding"),
        ({"activation": "gelu"}, ValueError, "activation"),
        ({"pre_slope": -1.0, "pre_activation": "leaky_relu"}, ValueError, "pre_slope"),
        ({"norm": Norm(segments=3)}, ValueError, "segments: 3 does not divide"),
        ({"norm": Norm(training=False)}, ValueError, "running_mean"),
        ({"norm": Norm(weight=torch.ones(4))}, ValueError, "norm.weight: expected shape"),
        ({"x": torch.ones(4, 3)}, ValueError, "x: expected 1 to 3 spatial"),
        ({"x": torch.ones(4, 3, 2, 2)}, ValueError, "too small"),
    ],
    ids=str,
)
def test_errors(change: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments = {"x": torch.ones(4, 3, 8, 8), "weight": torch.ones(5, 3, 4, 4), **change}
    with pytest.raises(error, match=match):
        norm_act_conv(**arguments)
