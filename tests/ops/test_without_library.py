"""Where there is no compiled library, plain calls on CPUs run PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import eager
import pytest
import torch
import torch.nn.functional as F
from parity import DTYPES, LAYOUTS, channels_last, check_parity
from tolerance import assert_as_exact
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import fastgan
from fastgan.fusion import explained
from fastgan.nn import BatchNormAct2d, BiasAct, FusedSequential, InstanceNormAct2d, segments
from fastgan.ops import bias_act, instance_norm_act, norm_act, norm_act_conv
from fastgan.ops.bias_act import reference as bias_act_reference
from fastgan.ops.norm_act import reference
from fastgan.ops.norm_act_conv import Norm
from fastgan.ops.norm_act_conv import reference as norm_act_conv_reference

pytestmark = pytest.mark.usefixtures("no_library")
C = 4


@pytest.fixture(autouse=True)
def _no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """An automatic choice does not come to the definitions."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the reference runs")

    for name in ("norm_act_train", "norm_act_eval", "norm_act_backward", "update_running_stats_"):
        monkeypatch.setattr(reference, name, refuse)
    monkeypatch.setattr(bias_act_reference, "bias_act", refuse)
    monkeypatch.setattr(norm_act_conv_reference, "forward", refuse)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_norm_act(dtype: torch.dtype, layout: str, training: bool) -> None:
    for shape, order, count in product(
        [(6, C, 5, 3), (6, C), (4, C, 7), (2, C, 3, 4, 5)],
        ["norm_act", "act_norm"],
        [1, 2] if training else [1],
    ):
        x, dz = LAYOUTS[layout](torch.randn(shape) * 2 + 1), torch.randn(shape)
        affine = torch.randn(2, C)
        check_parity(
            x.to(dtype), *affine, dz, training, order=order, segments=count, negative_slope=0.2
        )


@pytest.mark.parametrize("activation", eager.ACTIVATIONS)
def test_activations(activation: str) -> None:
    x, dz, bias = torch.randn(4, C, 3, 5), torch.randn(4, C, 3, 5), torch.randn(C)
    check_parity(x, None, None, dz, True, activation=activation, negative_slope=0.2)
    for given in ([x, bias], [x, None]):
        own, theirs = (
            eager.gradients(
                lambda *t, f=f: f(*t, activation=activation, negative_slope=0.2), given, dz
            )
            for f in (bias_act, eager.bias_act)
        )
        torch.testing.assert_close(own, theirs, rtol=0, atol=0)
    assert bias_act(x, activation="identity").data_ptr() != x.data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_instance_norm(layout: str) -> None:
    x, dz, affine = torch.randn(3, C, 5, 6), torch.randn(3, C, 5, 6), torch.randn(2, C)

    def results(f: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        running = torch.zeros(C, dtype=dtype), torch.ones(C, dtype=dtype)

        def call(x: Tensor, *affine: Tensor) -> Tensor:
            z = f(x, *running, *affine)
            return z if f is instance_norm_act else F.leaky_relu(z, 0.01)

        inputs = [LAYOUTS[layout](x).to(dtype), *affine.to(dtype)]
        return [*eager.gradients(call, inputs, dz), *running]

    own = results(instance_norm_act, torch.float32)
    theirs, exact = (results(F.instance_norm, dtype) for dtype in (torch.float32, torch.float64))
    for values in zip(own, theirs, exact, strict=True):
        assert_as_exact("instance norm", *values)
    assert own[0].stride() == LAYOUTS[layout](x).stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_norm_act_conv(dtype: torch.dtype, transposed: bool, training: bool) -> None:
    x, weight, bias, gamma = (torch.randn(s) for s in ((4, C, 6, 6), (C, C, 3, 3), (C,), (C,)))
    convolve = F.conv_transpose2d if transposed else F.conv2d

    def own(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor) -> Tensor:
        norm = Norm(*running, gamma, None, training)
        return norm_act_conv(
            x, weight, bias, norm, pre_activation="leaky_relu", pre_slope=0.2, padding=1,
            transposed=transposed, activation="tanh",
        )  # fmt: skip

    def theirs(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor) -> Tensor:
        z = F.leaky_relu(F.batch_norm(x, *running, gamma, None, training), 0.2)
        return torch.tanh(convolve(z, weight.to(x.dtype), bias.to(x.dtype), padding=1))

    found = []
    for function, of in ((own, dtype), (theirs, dtype), (theirs, torch.float64)):
        wide = torch.float64 if of is torch.float64 else torch.float32
        running = torch.zeros(C, dtype=wide), torch.ones(C, dtype=wide)
        inputs = [channels_last(x).to(of), *(t.to(wide) for t in (weight, bias, gamma))]
        found.append([*eager.gradients(function, inputs, torch.ones_like(x)), *running])
    for values in zip(*found, strict=True):
        assert_as_exact("norm_act_conv", *values)
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)


def test_derivatives() -> None:
    def double(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        z = norm_act(x, None, None, gamma, beta, True, segments=2)
        z = norm_act_conv(z, weight, beta, Norm(weight=gamma), pre_activation="tanh")
        return bias_act(z, beta, activation="sigmoid")

    inputs = double(4, 2, 2, 2), double(2, 2, 2, 2), double(2), double(2)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_running_statistics_are_seen_to_move_and_every_backward_has_its_own() -> None:
    x = torch.randn(4, C, 3, 3, requires_grad=True)
    mean, var = torch.zeros(C), torch.ones(C)
    known = norm_act(x, mean, var, training=False)
    (expected,) = torch.autograd.grad(known.sum(), x, retain_graph=True)
    versions = mean._version, var._version
    twice = [norm_act(x, mean, var, training=True, segments=count) for count in (1, 2)]
    assert mean._version > versions[0]
    assert var._version > versions[1]
    sum(z.add_(1).square().sum() for z in twice).backward()
    torch.testing.assert_close(torch.autograd.grad(known.sum(), x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_layers_are_those_of_torch(momentum: float | None) -> None:
    """The count of batches too, and the segments of a batch, which are as many calls of torch's."""
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)

    def layers(own: bool) -> nn.Sequential:
        torch.manual_seed(0)
        middle: list[nn.Module] = [nn.BatchNorm2d(C, momentum=momentum), nn.LeakyReLU(0.2)]
        last: list[nn.Module] = [nn.InstanceNorm2d(C), nn.LeakyReLU(0.2)]
        if own:
            middle = [BatchNormAct2d(C, momentum=momentum, negative_slope=0.2)]
            last = [InstanceNormAct2d(C, negative_slope=0.2)]
        ends = nn.Conv2d(3, C, 3, bias=False), nn.Conv2d(C, C, 3, bias=False)
        between = nn.ConvTranspose2d(C, C, 3), nn.Tanh()
        return nn.Sequential(ends[0], *middle, *between, ends[1], *last).double()

    def trained(model: nn.Module, calls: int) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        for _ in range(2):
            with segments(model, 2 // calls):
                y = torch.cat([model(part) for part in leaf.chunk(calls)])
        y.square().sum().backward()
        gradients = [p.grad for p in model.parameters()]
        return [y, leaf.grad, *gradients, *model.buffers(), model.eval()(x)]

    expected = trained(layers(False), 2)
    assert expected[-2] == 4
    for model in (layers(True), FusedSequential(*layers(False)), FusedSequential(*layers(True))):
        torch.testing.assert_close(trained(model, 1), expected)


def test_models_run_their_own_layers() -> None:
    model = FusedSequential(nn.Conv2d(3, C, 3, bias=False), BiasAct(C), BatchNormAct2d(C))
    x = torch.randn(2, 3, 8, 8)
    fused = fastgan.fuse(nn.Sequential(nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.ReLU()))
    for rows in (explained(model, x), explained(fused, x)):
        assert {(row.form, row.backend) for row in rows} == {("unfused", "PyTorch")}
        assert all("C++ extension" in row.why for row in rows)
    # An image smaller than the kernel, of which oneDNN's convolutions in 16 bits read beyond.
    small = FusedSequential(nn.Conv2d(3, C, 4, 2, 1, dtype=torch.bfloat16))
    (row,) = explained(small, torch.randn(2, 3, 2, 2, dtype=torch.bfloat16))
    assert row.form == "recompute"


def test_the_reference_runs_where_it_is_asked_for() -> None:
    x = torch.randn(4, C, 3, 3)
    calls = [
        lambda: norm_act(x, None, None, training=True),
        lambda: bias_act(x),
        lambda: norm_act_conv(x, torch.randn(C, C, 3, 3)),
    ]
    with fastgan.backend("reference"):
        for call in calls:
            with pytest.raises(AssertionError, match="the reference runs"):
                call()
