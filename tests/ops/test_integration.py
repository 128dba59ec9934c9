"""The ops under torch.compile, export, autocast, FakeTensor and inside gradient penalties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from tolerance import within
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import fastgan.nn as fnn
from fastgan.ops import backend, bias_act, norm_act

OPS = torch.ops.fastgan
SPEC = (1e-5, 0, 0.2, 1, False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(host_backend: str, layout: torch.memory_format) -> None:
    x = torch.randn(4, 3, 2, 2).to(memory_format=layout).requires_grad_()
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    mean, var = torch.zeros(1, 3), torch.ones(1, 3)
    name = host_backend
    affine = (weight, bias)
    opcheck(OPS.norm_act_train.default, (x, *affine, *SPEC, name))
    opcheck(OPS.norm_act_train.default, (x, None, None, 1e-5, 1, 0.2, 2, True, name))
    opcheck(OPS.norm_act_eval.default, (x, mean, var, *affine, *SPEC, name))
    for training, need_dx, need_dparams in ((True, True, True), (False, True, False)):
        tail = (training, need_dx, need_dparams, name)
        args = (torch.randn_like(x), x, mean, var, *affine, *SPEC, *tail)
        opcheck(OPS.norm_act_backward.default, args)
    args = (torch.zeros(3), torch.ones(3), mean, var, 0.1, 16, False, name)
    opcheck(OPS.update_running_stats_.default, args)
    opcheck(OPS.bias_act.default, (x, bias, 0, 0.2, name))
    z = torch.randn_like(x).requires_grad_()
    opcheck(OPS.bias_act_backward.default, (torch.randn_like(x), z, 1, 0.2, True, name))


def discriminator(fused: bool) -> nn.Sequential:
    """Two convolutions, a normalised block and a biased one; the same weights each time."""
    torch.manual_seed(1)

    def block(norm: bool, channels: int) -> list[nn.Module]:
        if norm:
            layer = nn.BatchNorm2d(channels)
            nn.init.normal_(layer.weight, 1, 0.2)
            if fused:
                act = fnn.BatchNormAct2d(channels, negative_slope=0.2)
                act.load_state_dict(layer.state_dict())
                return [act]
            return [layer, nn.LeakyReLU(0.2)]
        return [fnn.BiasAct(channels, negative_slope=0.2)] if fused else [nn.LeakyReLU(0.2)]

    convolutions = [nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.Conv2d(8, 16, 4, 2, 1, bias=False)]
    head = nn.Conv2d(16, 1, 4, bias=False)
    return nn.Sequential(
        convolutions[0], *block(False, 8), convolutions[1], *block(True, 16), head, nn.Flatten()
    ).double()


def r1(model: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(model(real).sum(), real, create_graph=True)
    return g.square().sum((1, 2, 3)).mean()


def wgan_gp(model: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    mixed = real + 0.3 * real.flip(0)
    (g,) = torch.autograd.grad(model(mixed).sum(), mixed, create_graph=True)
    return (g.flatten(1).norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize("penalty", [r1, wgan_gp])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_penalties_equal_pytorch(
    host_backend: str, penalty: Callable[..., Tensor], layout: torch.memory_format
) -> None:
    real = torch.randn(6, 3, 16, 16, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    results = []
    for fused in (True, False):
        model = discriminator(fused).to(memory_format=layout)
        loss = torch.nn.functional.softplus(-model(real)).mean() + penalty(model, real)
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.shape != (8,)]
        results.append([loss.detach(), *grads])
    torch.testing.assert_close(*results, **within(torch.float64, 1000, 10))


def function(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    y = norm_act(x, mean, var, weight, bias, True, negative_slope=0.2)
    return bias_act(y * 2, bias, activation="tanh")


def inputs(layout: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
    x = torch.randn(4, 8, 5, 5).to(memory_format=layout).requires_grad_()
    affine = [torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)]
    return [x, *affine, torch.zeros(8), torch.ones(8)]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_compile_without_a_graph_break(layout: torch.memory_format) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True)
    torch.manual_seed(3)
    own, eager = inputs(layout), inputs(layout)
    eager = [t.detach().clone().requires_grad_(t.requires_grad) for t in own]
    for call, args in ((compiled, own), (function, eager)):
        call(*args).square().sum().backward()
    for a, b in zip(own, eager, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.slow
def test_compile_follows_the_backend_setting(native: None) -> None:
    """The setting is read when the function is called, not frozen when it was compiled."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: norm_act(x, None, None, training=True), fullgraph=True)
    x = torch.randn(4, 3)
    with backend("reference"):
        first = compiled(x)
    with backend("cuda"), pytest.raises(RuntimeError, match="cuda"):
        compiled(x)
    torch.testing.assert_close(compiled(x), first)


@pytest.mark.slow
def test_compiled_forward_and_gradient_penalty() -> None:
    torch._dynamo.reset()
    real = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    models = [discriminator(True), discriminator(True)]

    def step(model: nn.Module, real: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-model(real)).mean() + r1(model, real)

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        loss = torch.compile(lambda x: step(models[0], x), fullgraph=True)(real)
        loss.backward()
    step(models[1], real).backward()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_export() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = fnn.BatchNormAct2d(8)
            self.bias = fnn.BiasAct(8, activation="tanh")

        def forward(self, x: Tensor) -> Tensor:
            return self.bias(self.norm(x))

    model = Block().eval()
    x = torch.randn(4, 8, 5, 5)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}})
    larger = torch.randn(7, 8, 5, 5)
    torch.testing.assert_close(program.module()(larger), model(larger))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(host_backend: str, dtype: torch.dtype) -> None:
    """Half-precision activations meet float32 parameters, and come out in half precision."""
    conv, norm = nn.Conv2d(3, 8, 3), fnn.BatchNormAct2d(8)
    with torch.autocast("cpu", dtype):
        z = norm(conv(torch.randn(4, 3, 8, 8)))
    assert z.dtype is dtype
    z.float().square().sum().backward()
    assert norm.weight.grad is not None
    assert norm.weight.grad.dtype is torch.float32


def test_fake_tensors() -> None:
    with FakeTensorMode():
        args = inputs(torch.channels_last)
        z = function(*args)
        assert z.shape == args[0].shape
        assert z.is_contiguous(memory_format=torch.channels_last)
        gx, gw = torch.autograd.grad(z.sum(), args[:2])
    assert gx.shape == args[0].shape
    assert gw.shape == (8,)


def test_functional_call(host_backend: str) -> None:
    module = fnn.BatchNormAct2d(8)
    weight = torch.randn(8, requires_grad=True)
    state: dict[str, Any] = {"weight": weight, "running_mean": torch.zeros(8)}
    x = torch.randn(4, 8, 5, 5)
    z = torch.func.functional_call(module, state, (x,))
    torch.testing.assert_close(z, norm_act(x, None, None, weight, torch.zeros(8), True))
    assert torch.equal(module.running_mean, torch.zeros(8))
    assert not torch.equal(state["running_mean"], torch.zeros(8))
    (g,) = torch.autograd.grad(z.square().sum(), weight)
    assert g.isfinite().all()
