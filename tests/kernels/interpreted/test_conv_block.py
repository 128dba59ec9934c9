"""Triton's conv_block in the interpreter: all of forward and backward against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiled_conv import large_blocks, large_weight_gradient
from conv_case import ConvCase, Shape, channels_last
from tolerance import assert_as_exact, within
from torch import Tensor

from fastgan.kernels import conv_block
from fastgan.ops import backend
from fastgan.ops import conv_block as op
from fastgan.ops.conv_block import Deferred

HALVED: Shape = (False, (4, 5, 6, 5), 3, [4, 3], [2, 1], [1, 1], [0, 0])
DOUBLED: Shape = (True, (4, 5, 2, 3), 3, [4, 3], [2, 1], [1, 1], [0, 0])
KINDS = pytest.mark.parametrize("shape", [HALVED, DOUBLED], ids=["direct", "transposed"])
NORM = ("mean", "var", "gamma", "beta")
RESULTS = ("g_x", "g_weight", "g_bias", "g_mean", "g_var", "g_gamma", "g_beta")


def run(c: ConvCase, needs: tuple[bool, bool, bool] = (True, True, True)) -> dict[str, Tensor]:
    """Every result of the two raw functions, empty ones included."""
    inputs = c.inputs
    norm = (*(inputs.get(name) for name in NORM), c.eps)
    spec = (*c.pre, *c.geometry, *c.post, c.segments[1])
    x, weight = inputs["x"], inputs["weight"]
    y, y_mean, y_var = conv_block.conv_block_forward(x, weight, inputs.get("bias"), *norm, *spec)
    g_mean, g_var = (c.g_mean, c.g_var) if c.segments[1] else (None, None)
    grads = conv_block.conv_block_backward(
        c.g_y, g_mean, g_var, x, y, y_mean, weight, *norm, *spec, *needs
    )
    found = {"y": y, "y_mean": y_mean, "y_var": y_var}
    return found | dict(zip(RESULTS, grads, strict=True))


def wanted(c: ConvCase, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what the case has no input or statistics for: that has to be empty."""
    absent = {f"g_{name}" for name in NORM if name not in c.inputs}
    if not c.segments[1]:
        absent |= {"y_mean", "y_var"}
    assert all(found[name].shape == (0,) for name in absent)
    absent |= set() if c.biased else {"g_bias"}
    return {name: t for name, t in found.items() if name not in absent}


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_with_norms_on_both_sides(shape: Shape, dtype: torch.dtype) -> None:
    # tanh: a bfloat16 y on the other side of 0 would change LeakyReLU's gradient, in torch as here.
    c = ConvCase(shape, dtype, segments=(2, 2), post=(1, 0.0), biased=True)
    c.check(wanted(c, run(c)))


@KINDS
def test_a_float32_weight_is_rounded_as_it_is_packed(shape: Shape) -> None:
    """And its gradient stays as it was summed: that of the rounded weight before its rounding."""
    c = ConvCase(shape, torch.bfloat16, segments=(2, 2), post=(1, 0.0), biased=True)
    wide = torch.randn_like(c.inputs["weight"], dtype=torch.float32) / 4
    c.inputs["weight"] = wide.bfloat16()
    rounded = run(c)
    c.inputs["weight"] = wide
    got = run(c)
    assert got["g_weight"].dtype is torch.float32
    assert not torch.equal(got["g_weight"], rounded["g_weight"].float())
    got["g_weight"] = got["g_weight"].bfloat16()
    assert all(torch.equal(got[name], rounded[name]) for name in rounded)


@KINDS
def test_a_block_without_norms(shape: Shape) -> None:
    for pre, post in (((0, 1.0), (0, 0.2)), ((2, 0.0), (2, 0.0))):
        c = ConvCase(shape, segments=(0, 0), pre=pre, post=post, biased=True)
        c.check(wanted(c, run(c)))


def test_one_gradient_of_the_statistics_alone() -> None:
    c = ConvCase(HALVED)
    y, mean, _ = conv_block.conv_block_forward(
        c.inputs["x"], c.inputs["weight"], None, *[None] * 4, 0.0, 0, 1.0, *c.geometry, 0, 1.0, 1
    )
    zeros = torch.zeros_like(c.g_mean)
    for given in ((c.g_mean, None), (None, c.g_var)):
        full = [zeros if g is None else g for g in given]
        got, want = (
            conv_block.conv_block_backward(
                c.g_y, *pair, c.inputs["x"], y, mean, c.inputs["weight"], *[None] * 4, 0.0, 0, 1.0,
                *c.geometry, 0, 1.0, 1, True, False, False,
            )[0]
            for pair in (given, full)
        )  # fmt: skip
        assert torch.equal(got, want)


@pytest.mark.parametrize("needed", range(3), ids=["x", "weight", "bias"])
def test_only_what_is_needed_is_launched(needed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    c = ConvCase(DOUBLED, segments=(2, 2), biased=True)
    full = run(c)

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("not asked for")

    unneeded = "conv_weight_gradient" if needed == 0 else "conv_data_gradient"
    monkeypatch.setattr(conv_block, unneeded, refused)
    got = run(c, (needed == 0, needed == 1, needed == 2))
    kept = {0: {"g_x", *(f"g_{n}" for n in NORM)}, 1: {"g_weight"}, 2: {"g_bias"}}[needed]
    for name in RESULTS:
        if name in kept:
            torch.testing.assert_close(got[name], full[name], **within(torch.float32, 10, 1))
        else:
            assert got[name].shape == (0,)


@KINDS
def test_memory_of_any_strides(shape: Shape) -> None:
    c = ConvCase(shape, segments=(2, 2), biased=True)
    c.g_y = channels_last(c.g_y[:, :, :1].expand_as(c.g_y))
    want = run(c)
    c.g_y = c.g_y[:, :, :1].expand_as(c.g_y)
    c.g_mean = torch.stack([c.g_mean, c.g_mean], 2)[..., 0]
    for name in ("x", "weight"):
        c.inputs[name] = c.inputs[name].contiguous()
    for name in ("bias", *NORM):
        c.inputs[name] = torch.stack([c.inputs[name]] * 2, -1)[..., 0]
    got = run(c)
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert got["g_weight"].stride() == c.inputs["weight"].stride()


def test_two_blocks_under_autograd() -> None:
    """A generator's and a discriminator's layer in a row, by the public op, norm statistics and
    all: the gradient of the first's weight comes back through the second's mean and var.
    """
    torch.manual_seed(0)
    leaves = [torch.randn(4, 3, 2, 2), torch.randn(3, 5, 4, 4), torch.randn(4, 5, 3, 3)]
    leaves += [torch.rand(5) + 0.5, torch.randn(5)]
    g = torch.randn(4, 4, 4, 4)

    def gradients(name: str, dtype: torch.dtype) -> list[Tensor]:
        x, first, second, gamma, beta = (t.to(dtype).requires_grad_() for t in leaves)
        with backend(name):
            y, mean, var = op(x, first, stride=2, padding=1, transposed=True, segments=2)
            norm = Deferred(mean, var, gamma, beta, 1e-5, "leaky_relu", 0.2)
            z, *_ = op(y, second, None, norm, padding=1, activation="tanh")
        return [z, *torch.autograd.grad(z, [x, first, second, gamma, beta], g.to(dtype))]

    own, theirs, exact = (
        gradients(name, dtype)
        for name, dtype in (
            ("triton", torch.float32), ("reference", torch.float32), ("reference", torch.float64)
        )
    )  # fmt: skip
    for i, values in enumerate(zip(own, theirs, exact, strict=True)):
        assert_as_exact(str(i), *values)


def test_what_a_gpu_alone_can_hold_passes_where_it_is_small() -> None:
    for by_door in (False, True):
        large_blocks("cpu", 3, 8, by_door)
    large_weight_gradient("cpu", 3, 8)
