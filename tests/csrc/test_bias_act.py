"""The CUDA kernels of bias_act, run on the host, against float64 PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerance import FLOOR, assert_as_exact

SHAPES = [(4, 8, 16), (6, 7, 9), (3, 2, 301), (32, 40, 1), (1, 1, 1), (5, 3, 64)]


def backward_from_output(dz: torch.Tensor, z: torch.Tensor, p: Any) -> torch.Tensor:
    if p.activation == "leaky_relu":
        return torch.where(z > 0, dz, dz * p.slope)
    if p.activation == "tanh":
        return torch.ops.aten.tanh_backward(dz, z)
    return torch.ops.aten.sigmoid_backward(dz, z)


def close(found: torch.Tensor, truth: torch.Tensor, own: torch.Tensor) -> None:
    assert_as_exact("result", found, own, truth, size=1.0, share=0.4)


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sms", [1, 60])
def test_forward_and_backward(emulator, problem, shape, channels_last, dtype, activation, sms):
    p = problem(*shape, dtype, channels_last, activation=activation, sms=sms)
    g = torch.Generator().manual_seed(3)
    x, dz = (torch.randn(p.shape, generator=g).to(dtype) for _ in range(2))
    bias = torch.randn(p.channels, generator=g)

    laid, laid_dz = p.lay(x), p.lay(dz)
    z = emulator.blank(laid)
    assert emulator.call("bias_forward", p, laid, bias, z).launches == 1
    truth = p.activated(x.double() + bias.double()[:, None])
    close(p.unlay(z), truth, p.activated(x + bias[:, None].to(dtype)))

    dx, dbias = emulator.blank(laid), emulator.blank(torch.empty(p.channels))
    launches = emulator.call("bias_backward", p, laid_dz, z, dx, dbias).launches
    assert launches in (1, 2)
    rounded = p.unlay(z)
    truth = backward_from_output(dz.double(), rounded.double(), p)
    close(p.unlay(dx), truth, backward_from_output(dz, rounded, p))
    total = truth.sum((0, 2))
    # The terms are summed in float32, each with the rounding of one product and of 1 - z * z.
    assert (
        (dbias.double() - total).abs()
        <= FLOOR[torch.float32] * (dz.double().abs().sum((0, 2)) + 1e-3)
    ).all()


def test_without_bias_and_without_dbias(emulator, problem):
    p = problem(4, 8, 600, torch.float32, sms=60)
    x, dz = p.lay(torch.randn(p.shape)), p.lay(torch.randn(p.shape))
    z, dx = emulator.blank(x), emulator.blank(x)
    emulator.call("bias_forward", p, x, None, z)
    assert torch.equal(z, F.leaky_relu(x, p.slope))
    assert emulator.call("bias_backward", p, dz, z, dx, None).launches == 1
    assert torch.equal(dx, torch.where(z > 0, dz, dz * p.slope))
