"""Running statistics are moved in place, and autograd sees that they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import eager
import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from tolerance import assert_as_exact
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from fastgan.nn import BatchNormAct2d, FusedSequential
from fastgan.ops import instance_norm_act, norm_act, norm_act_conv, sync_norm_act
from fastgan.ops.core import dispatch
from fastgan.ops.norm_act import autograd, reference
from fastgan.ops.norm_act.arguments import Update
from fastgan.ops.norm_act_conv import Norm

C = 4


def convolve(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return norm_act_conv(x, torch.randn(3, C, 3, 3), None, Norm(mean, var))


ROUTES: dict[str, Callable[..., Any]] = {
    "norm_act": lambda x, m, v: norm_act(x, m, v, None, None, True),
    "segments": lambda x, m, v: norm_act(x, m, v, None, None, True, segments=2),
    "instance_norm_act": lambda x, m, v: instance_norm_act(x, m, v),
    "norm_act_conv": convolve,
    "sync_norm_act": lambda x, m, v: sync_norm_act(x, m, v),
    "compiled norm_act": lambda x, m, v: torch.compile(norm_act, backend="aot_eager")(
        x, m, v, None, None, True
    ),
    "operator": lambda x, m, v: torch.ops.fastgan.update_running_stats_(
        m, v, m.detach().clone()[None], v.detach().clone()[None], 0.1, 9, False,
        dispatch.setting(),
    ),
}  # fmt: skip


def statistics(dtype: torch.dtype, strided: bool) -> tuple[Tensor, Tensor]:
    step = 2 if strided else 1
    return torch.zeros(step * C, dtype=dtype)[::step], torch.ones(step * C, dtype=dtype)[::step]


@pytest.mark.parametrize("in_cpp", [True, False], ids=["cpp", "python"])
@pytest.mark.parametrize("needs_gradient", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_moving_them_raises_their_versions(
    route: str,
    needs_gradient: bool,
    in_cpp: bool,
    host_backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not in_cpp:
        monkeypatch.setattr(dispatch, "in_cpp", lambda *_: False)
    kinds = [(torch.float32, torch.float32, False), (torch.float32, torch.float32, True)]
    if route != "operator":
        kinds += [(torch.bfloat16, torch.float32, False), (torch.bfloat16, torch.bfloat16, False)]
    elif needs_gradient:
        kinds = kinds[:1]
    for dtype, of_statistics, strided in kinds:
        if strided and route == "operator":
            continue
        x = torch.randn(4, C, 5, 6, dtype=dtype, requires_grad=needs_gradient)
        mean, var = statistics(of_statistics, strided)
        before = mean._version, var._version
        ROUTES[route](x, mean, var)
        assert mean._version > before[0]
        assert var._version > before[1]


def test_torchs_own_backward_sees_that_they_were_moved() -> None:
    x = torch.randn(4, C, 5, 5, requires_grad=True)
    mean, var = statistics(torch.float32, False)
    y = F.batch_norm(x, mean, var)
    norm_act(x.detach(), mean, var, training=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_layer_of_torch_and_the_fused_op_may_alternate() -> None:
    """torch.nn's layers raise no version, and one that trains saved its statistics by theirs."""
    norm = nn.BatchNorm2d(C)
    fused = FusedSequential(norm, nn.LeakyReLU(0.2))
    x = torch.randn(4, C, 5, 5, requires_grad=True)
    own = F.leaky_relu(norm(x), 0.2)
    z = fused(x)
    torch.testing.assert_close(z, own)
    (expected,) = torch.autograd.grad(own.square().sum(), x)
    (found,) = torch.autograd.grad(z.square().sum(), x)
    torch.testing.assert_close(found, expected)
    assert norm.num_batches_tracked == 2
    twice = nn.BatchNorm2d(C)
    for _ in range(2):
        twice(x)
    torch.testing.assert_close(norm.running_mean, twice.running_mean)
    torch.testing.assert_close(norm.running_var, twice.running_var)


def test_a_module_counts_and_moves_visibly() -> None:
    layer = BatchNormAct2d(C)
    buffers = [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    before = [b._version for b in buffers]
    layer(torch.randn(4, C, 5, 5))
    assert all(b._version > v for b, v in zip(buffers, before, strict=True))


def test_they_move_under_inference_mode() -> None:
    mean, var = statistics(torch.float32, False)
    with torch.inference_mode():
        norm_act(torch.randn(4, C, 5, 5), mean, var, training=True)
    assert mean.abs().max() > 0


@pytest.mark.parametrize("transform", ["jvp", "grad", "dual"])
def test_they_move_as_torchs_under_transforms(transform: str) -> None:
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)

    def moved(function: Callable[..., Tensor]) -> list[Tensor]:
        mean, var = torch.zeros(3).double(), torch.ones(3).double()

        def call(x: Tensor) -> Tensor:
            return function(x, mean, var, None, None, True).pow(2).sum()

        if transform == "jvp":
            jvp(call, (x,), (x,))
        elif transform == "grad":
            grad(call)(x)
        else:
            with fwd.dual_level():
                call(fwd.make_dual(x, x))
        return [mean, var]

    for own, theirs in zip(moved(norm_act), moved(eager.norm_act), strict=True):
        assert_as_exact("statistics", own, theirs, theirs)
    given = torch.zeros(3).double(), torch.ones(3).double()
    instances = torch.zeros(3).double(), torch.ones(3).double()
    grad(lambda x: instance_norm_act(x, *given).sum())(x)
    F.instance_norm(x, *instances)
    for own, theirs in zip(given, instances, strict=True):
        assert_as_exact("statistics", own, theirs, theirs)


def test_each_sample_moves_its_own_under_vmap() -> None:
    """As torch.nn: one for all samples is an error that moves nothing."""
    x = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    own, theirs = ([torch.zeros(2, 3).double(), torch.ones(2, 3).double()] for _ in range(2))
    vmap(lambda x, m, v: norm_act(x, m, v, training=True))(x, *own)
    for i in range(2):
        F.batch_norm(x[i], theirs[0][i], theirs[1][i], training=True)
    for a, b in zip(own, theirs, strict=True):
        assert_as_exact("statistics", a, b, b)
    shared = torch.zeros(3).double(), torch.ones(3).double()
    with pytest.raises(RuntimeError, match="running_mean"):
        vmap(lambda x: norm_act(x, *shared, training=True))(x)
    assert torch.equal(shared[0], torch.zeros(3).double())
    assert torch.equal(shared[1], torch.ones(3).double())


@pytest.mark.parametrize("momenta", [(0.1, 0.1), (0.1, 0.7)])
def test_moves_that_waited_are_those_made_one_by_one(monkeypatch, momenta):
    """Two layers, one of which sees two segments and then another batch."""
    layers = [(torch.randn(c), torch.rand(c)) for c in (5, 3)]
    batches = [(0, 2), (1, 1), (0, 1)]
    exact = [tuple(t.double() for t in pair) for pair in layers]
    plain = [tuple(t.clone() for t in pair) for pair in layers]
    waiting = []
    for i, segments in batches:
        mean, var = torch.randn(2, segments, len(layers[i][0])).unbind()
        how = momenta[i], 7, False
        waiting.append(Update(*(t.data for t in layers[i]), mean, var.abs(), *how))
        reference.update_running_stats_(*plain[i], mean, var.abs(), *how)
        reference.update_running_stats_(*exact[i], mean.double(), var.abs().double(), *how)
    monkeypatch.setattr(autograd.MOVES, "items", waiting)
    other = torch.zeros(3)
    autograd.settle_for(other)
    assert len(waiting) == 3
    autograd.settle_for(layers[1][0])
    assert waiting == []
    for of_layer in zip(layers, plain, exact, strict=True):
        for got, own, wide in zip(*of_layer, strict=True):
            assert_as_exact("running", got, own, wide)
