"""The products by TMA of float32 in TF32, behind conv_block's door, in Triton's interpreter, which
multiplies all digits: so it shows what was rounded, and what the matrix unit would cut off.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conv_case import ConvCase, run_block
from tma_shapes import SHAPES as COMMON
from tma_shapes import refused, shape_of
from torch import Tensor
from triton.runtime import interpreter

from fastgan.kernels import conv_block
from fastgan.kernels.conv_block.geometry import ConvConfig, Target
from fastgan.kernels.conv_block.tma import plan as tma_plan
from fastgan.kernels.conv_block.tma import products
from fastgan.kernels.core import precision
from fastgan.kernels.core.packed import eager_call, packed_weights
from tools.rehearse.interpreter import launches

SHIPPED = tma_plan.PRODUCT
KINDS = pytest.mark.parametrize("transposed", [False, True], ids=["direct", "transposed"])
# Of TF32 as of float16: so many digits, in which PyTorch can be asked on a CPU.
LIKE = torch.float16


@pytest.fixture(autouse=True)
def _on_tma(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that has TMA while TF32 is allowed, with small tiles: several boxes of positions,
    tiles of channels and steps of either, none of them full; the gather has the weight gradient.
    """
    monkeypatch.setattr(tma_plan, "has_tma", lambda device: True)
    monkeypatch.setattr(precision, "float32_precision", lambda device: "tf32")
    for name in ("conv_forward", "conv_data_gradient", "tma_weight_gradient"):
        monkeypatch.setattr(conv_block, name, refused)
    monkeypatch.setattr(tma_plan, "MAX_SLICES", 1)  # else small tiles are the largest, too
    plan_with(monkeypatch, (ConvConfig(32, 16, 32, 1, 2),))


def plan_with(monkeypatch: pytest.MonkeyPatch, configs: tuple[ConvConfig, ...]) -> None:
    monkeypatch.setattr(tma_plan, "PRODUCT", configs)
    tma_plan.product_plan.cache_clear()


SHAPES = COMMON | {
    "k5 s2 p2 transposed": (True, (3, 2), 5, 2, 2),
    "k4 s1 direct": (False, (5, 4), 4, 1, 0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    """Outputs, statistics and all gradients; tanh: a y on the other side of 0 would change
    LeakyReLU's gradient.
    """
    segments = (2, 2) if name.startswith("k4 s2") else (1, 1)
    c = ConvCase(shape_of(*SHAPES[name]), segments=segments, post=(1, 0.0), biased=True)
    with launches() as counted:
        got = run_block(c)
    assert counted["tma_conv_kernel"] == 2
    assert counted["weight_kernel"] == 1
    c.check(got, LIKE)


@KINDS
def test_every_configuration_that_ships(transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 32 channels one way and of 16 the other, columns that fill no tile."""
    shape = shape_of(transposed, (4, 2), 4, 2, 1, channels=(32, 48))
    c = ConvCase(shape, segments=(2, 1), post=(1, 0.0))
    for config in SHIPPED:
        plan_with(monkeypatch, (config,))
        steps = [tma_plan.product_configs(n, Target(), 4)[0].block_k for n in (32, 48)]
        assert steps == [32, 16]
        got = run_block(c, (True, False, False))
        c.check({key: value for key, value in got.items() if value.numel()}, LIKE)


@KINDS
def test_what_waits_for_no_norm(transposed: bool) -> None:
    """An activation alone before the convolution, nothing at all, and one after it."""
    shape = shape_of(transposed, (3, 4), 3, 1, 1)
    for pre, post in (((2, 0.0), (0, 1.0)), ((0, 1.0), (0, 0.2))):
        c = ConvCase(shape, segments=(0, 0), pre=pre, post=post, biased=True)
        c.check(run_block(c), LIKE)


SLICED = {
    "direct": (False, (4, 4), 4, 2, 1),
    "transposed": (True, (2, 3), 4, 2, 1),
    "phases of unequal taps": (True, (2, 2), 3, 2, 1),
}


@pytest.mark.parametrize("name", SLICED)
def test_few_positions_are_summed_in_slices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and data gradient, with all that rides along; the same bits each time."""
    limits = {"MAX_SLICES": 8, "MIN_STEPS": 2, "ADD_LAUNCH": 0.0, "ADD_VALUES": 1 << 40}
    for limit, value in limits.items():
        monkeypatch.setattr(tma_plan, limit, value)
    monkeypatch.setattr(products, "ADD_COLUMNS", 8)
    c = ConvCase(shape_of(*SLICED[name]), segments=(2, 1), post=(1, 0.0), biased=True)
    with launches() as counted:
        got = run_block(c, (True, False, False))
    assert counted["tma_add_slices_kernel"] == counted["tma_slice_kernel"] == 2
    c.check({key: value for key, value in got.items() if value.numel()}, LIKE)
    again = run_block(c, (True, False, False))
    assert all(torch.equal(got[key], again[key]) for key in got)


@KINDS
def test_operands_are_rounded_before_the_matrix_unit_cuts_them_off(transposed: bool) -> None:
    """z, dy and the weight, in all products: cut off they are the same bits."""
    c = ConvCase(shape_of(transposed, (4, 4), 4, 2, 1), post=(1, 0.0), biased=True)
    got = run_block(c)
    with cutting_off():
        cut = run_block(c)
    assert all(torch.equal(got[name], cut[name]) for name in got)
    # What a launch before wrote is read as it is: here x itself.
    c = ConvCase(shape_of(transposed, (4, 4), 4, 2, 1), segments=(0, 0), pre=(0, 1.0))
    got = run_block(c, (False, False, False))["y"]
    with cutting_off():
        assert not torch.equal(run_block(c, (False, False, False))["y"], got)


def cutting_off() -> Any:
    """Within, products are of float32 without its last 13 bits."""
    dot = interpreter.InterpreterBuilder.create_dot

    def cut(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (interpreter.TensorHandle(_cut(t.data), t.dtype) for t in (a, b))
        return dot(self, a, b, *rest)

    return patch.object(interpreter.InterpreterBuilder, "create_dot", cut)


def _cut(data: np.ndarray) -> np.ndarray:
    assert data.dtype == np.float32
    return (np.ascontiguousarray(data).view(np.int32) & -0x2000).view(np.float32)


@KINDS
def test_the_sum_of_dy_is_not_of_rounded_values(transposed: bool) -> None:
    """The bias' gradient is as exact as PyTorch's float32, where y is."""
    c = ConvCase(shape_of(transposed, (4, 4), 4, 2, 1), post=(1, 0.0), biased=True)
    c.inputs["weight"].zero_()
    got = run_block(c)
    c.check({name: got[name] for name in ("y", "g_bias")}, torch.float32)


@KINDS
def test_operands_of_any_layout_give_the_same_bits(transposed: bool) -> None:
    """A weight of either layout, rounded and at an odd address; tensors that are not channels-last,
    or at an address that TMA does not take.
    """
    c = ConvCase(shape_of(transposed, (4, 4), 4, 2, 1))
    weight = c.inputs["weight"].bfloat16().float()
    c.inputs["weight"] = weight.to(memory_format=torch.channels_last)
    want = run_block(c)
    for other in (weight, weight.bfloat16(), at_odd_address(weight)):
        c.inputs["weight"] = other
        got = run_block(c)
        assert got["g_weight"].dtype is other.dtype
        assert all(torch.equal(got[name], want[name]) for name in {*want} - {"g_weight"})
        assert torch.equal(got["g_weight"], want["g_weight"].to(other.dtype))
    c.inputs["weight"] = weight
    c.inputs["x"] = c.inputs["x"].contiguous()
    c.g_y = at_odd_address(c.g_y)
    got = run_block(c)
    assert all(torch.equal(got[name], want[name]) for name in got)


def at_odd_address(t: Tensor) -> Tensor:
    """t in channels-last memory that begins 4 bytes behind a multiple of 16."""
    rows = t.movedim(1, -1)
    return t.new_empty(t.numel() + 1)[1:].view(rows.shape).copy_(rows).movedim(-1, 1)


@KINDS
def test_a_weight_is_packed_once_a_direction(transposed: bool) -> None:
    """Also one in channels-last memory, which no product reads as it is."""
    c = ConvCase(shape_of(transposed, (4, 4), 4, 2, 1))
    c.inputs["weight"] = c.inputs["weight"].to(memory_format=torch.channels_last)
    with launches() as counted:
        alone = run_block(c)
    assert counted["pack_kernel"] == 2
    with packed_weights(check=True), eager_call(), launches() as counted:
        shared = [run_block(c), run_block(c)]
    assert counted["pack_kernel"] == 4  # the two copies, and those that check them
    with packed_weights(), eager_call(), launches() as counted:
        shared += [run_block(c), run_block(c)]
    assert counted["pack_kernel"] == 2
    assert all(torch.equal(got[name], alone[name]) for got in shared for name in alone)


def test_another_precision_is_another_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was decided by shape outlasts the setting, and PyTorch's float32 stays exact."""
    from fastgan.kernels.conv_block import forward

    monkeypatch.setattr(conv_block, "conv_forward", forward.conv_forward)
    monkeypatch.setattr(conv_block, "conv_data_gradient", forward.conv_data_gradient)
    c = ConvCase(shape_of(False, (4, 4), 4, 2, 1), post=(1, 0.0))
    for setting in ("tf32", "ieee", "tf32"):
        monkeypatch.setattr(precision, "float32_precision", lambda device, now=setting: now)
        with launches() as counted:
            got = run_block(c)
        exact = setting == "ieee"
        assert counted["tma_conv_kernel"] == (0 if exact else 2)
        assert counted["conv_kernel"] == (2 if exact else 0)
        c.check(got, None if exact else LIKE)


def test_not_finite_values_stay_what_they_are() -> None:
    """Rounding does not make a number of a NaN, or infinity of what is not."""
    c = ConvCase(shape_of(False, (4, 4), 4, 2, 1), segments=(0, 0))
    c.inputs["weight"][3, 5, 1, 2] = torch.nan
    c.inputs["weight"][4, 5, 1, 2] = torch.inf
    got = run_block(c, (False, False, False))["y"]
    bad = ~got.isfinite()
    assert bad[:, 3:5].any()
    assert not bad[:, :3].any()
    assert not bad[:, 5:].any()
