"""The products by TMA in Triton's interpreter, behind conv_block's door, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conv_case import GRADIENTS, NORM, ConvCase, run_block
from tma_shapes import SHAPES as COMMON
from tma_shapes import refused, shape_of
from torch import Tensor

from fastgan.kernels import conv_block
from fastgan.kernels.conv_block.geometry import ConvConfig
from fastgan.kernels.conv_block.tma import plan as tma_plan
from fastgan.kernels.conv_block.tma import products

# Several boxes of positions, tiles of channels and steps of either, none of them full.
SMALL = (ConvConfig(32, 16, 16, 1, 2),)
SHIPPED = {"PRODUCT": tma_plan.PRODUCT, "WEIGHT": tma_plan.WEIGHT}
KINDS = pytest.mark.parametrize("transposed", [False, True], ids=["direct", "transposed"])


@pytest.fixture(autouse=True)
def _on_tma(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that has TMA, with small tiles, and nothing gathered but a bias's gradient."""

    monkeypatch.setattr(tma_plan, "has_tma", lambda device: True)
    for name in ("PRODUCT", "WEIGHT"):
        monkeypatch.setattr(tma_plan, name, SMALL)
    for name in ("conv_forward", "conv_data_gradient"):
        monkeypatch.setattr(conv_block, name, refused)
    weights = conv_block.conv_weight_gradient
    monkeypatch.setattr(
        conv_block, "conv_weight_gradient",
        lambda *args: refused() if args[-2] else weights(*args),
    )  # fmt: skip
    forget_plans()


def forget_plans() -> None:
    tma_plan.product_plan.cache_clear()
    tma_plan.weight_plan.cache_clear()


SHAPES = COMMON | {
    "k3 s2 p1": (False, (3, 4), 3, 2, 1),
    "k3 s2 p1 transposed": (True, (3, 2), 3, 2, 1),
    "k5 s1 p2": (True, (4, 3), 5, 1, 2),
    "k1 s2 transposed": (True, (3, 2), 1, 2, 0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    """tanh: a y on the other side of 0 would change LeakyReLU's gradient."""
    segments = (2, 2) if name.startswith("k4 s2") else (1, 1)
    shape = shape_of(*SHAPES[name])
    c = ConvCase(shape, torch.float16, segments=segments, post=(1, 0.0), biased=True)
    c.check(run_block(c))


@KINDS
def test_every_configuration_that_ships(transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16. Steps of 64 channels one way and of 16 the other, columns that fill no tile."""
    shape = shape_of(transposed, (4, 2), 4, 2, 1, channels=(64, 80))
    c = ConvCase(shape, torch.bfloat16, segments=(2, 1), post=(1, 0.0))
    for product, weight in zip(SHIPPED["PRODUCT"], SHIPPED["WEIGHT"], strict=True):
        monkeypatch.setattr(tma_plan, "PRODUCT", (product,))
        monkeypatch.setattr(tma_plan, "WEIGHT", (weight,))
        forget_plans()
        c.check(run_block(c))


@KINDS
def test_what_waits_for_no_norm(transposed: bool) -> None:
    """An activation alone before the convolution, nothing at all, and one after it."""
    shape = shape_of(transposed, (3, 4), 3, 1, 1)
    for pre, post in (((2, 0.0), (0, 1.0)), ((0, 1.0), (0, 0.2))):
        c = ConvCase(shape, torch.float16, segments=(0, 0), pre=pre, post=post, biased=True)
        c.check(run_block(c))


@KINDS
def test_only_what_is_needed_is_launched(transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(transposed, (4, 4), 4, 2, 1)
    c = ConvCase(shape, torch.float16, segments=(1, 1), biased=True)
    full = run_block(c)
    of_x = {"g_x", *(f"g_{name}" for name in NORM)}
    for needed, kept in enumerate((of_x, {"g_weight"}, {"g_bias"})):
        with monkeypatch.context() as patch:
            for i, name in enumerate(("tma_data_gradient", "tma_weight_gradient")):
                if i != needed:
                    patch.setattr(conv_block, name, refused)
            got = run_block(c, (needed == 0, needed == 1, needed == 2))
        for name in GRADIENTS:
            if name in kept:
                assert torch.equal(got[name], full[name])
            else:
                assert got[name].shape == (0,)


@KINDS
def test_operands_of_any_layout_give_the_same_bits(transposed: bool) -> None:
    """A weight read in place, copied and rounded; tensors at odd addresses and not channels-last;
    a weight's gradient in one slice and in several.
    """
    shape = shape_of(transposed, (4, 4), 4, 2, 1)
    c = ConvCase(shape, torch.float16, segments=(1, 1))
    weight = c.inputs["weight"]
    c.inputs["weight"] = weight.to(memory_format=torch.channels_last)
    want = run_block(c)
    exact = {"y", "g_x"}
    for other in (weight.contiguous(), weight.float(), at_odd_address(c.inputs["weight"])):
        c.inputs["weight"] = other
        got = run_block(c)
        assert got["g_weight"].dtype is other.dtype
        assert got["g_weight"].stride() == other.stride()
        assert all(torch.equal(got[name], want[name]) for name in exact)
        assert torch.equal(got["g_weight"].half(), want["g_weight"])
    c.inputs["weight"] = weight
    c.inputs["x"] = c.inputs["x"].contiguous()
    c.g_y = at_odd_address(c.g_y)
    got = run_block(c)
    assert all(torch.equal(got[name], want[name]) for name in got)


SLICED = {
    "direct": (False, (4, 4), 4, 2, 1),
    "transposed": (True, (2, 3), 4, 2, 1),
    "phases of unequal taps": (True, (2, 2), 3, 2, 1),
}


@pytest.mark.parametrize("name", SLICED)
def test_few_positions_are_summed_in_slices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and data gradient, with all that rides along; the same bits each time."""
    monkeypatch.setattr(tma_plan, "MIN_STEPS", 2)
    monkeypatch.setattr(tma_plan, "ADD_LAUNCH", 0.0)
    monkeypatch.setattr(tma_plan, "ADD_VALUES", 1 << 40)
    sliced = []
    original = products.tma_add_slices_kernel

    class Counting:
        def __getitem__(self, grid: tuple[int]) -> Any:
            sliced.append(grid)
            return original[grid]

    monkeypatch.setattr(products, "tma_add_slices_kernel", Counting())
    monkeypatch.setattr(products, "ADD_COLUMNS", 8)
    c = ConvCase(
        shape_of(*SLICED[name]), torch.float16, segments=(2, 1), post=(1, 0.0), biased=True
    )
    got = run_block(c, (True, False, False))
    assert len(sliced) == 2
    c.check({key: value for key, value in got.items() if value.numel()})
    again = run_block(c, (True, False, False))
    assert all(torch.equal(got[key], again[key]) for key in got)


@KINDS
def test_a_value_that_nothing_reads_may_be_anything(transposed: bool) -> None:
    """Boxes that overhang their image meet it with the 0 of no position, and 0 times inf is NaN."""
    shape = shape_of(transposed, (3, 3) if transposed else (7, 7), 2, 2, 0, extra=int(transposed))
    c = ConvCase(shape, torch.float16, segments=(0, 0))
    unread = c.g_y if transposed else c.inputs["x"]
    unread[:, :, :, 6] = 0
    unread[:, :, 6] = 0
    want = run_block(c, (False, True, False))["g_weight"]
    unread[:, :, :, 6] = torch.inf
    unread[:, :, 6] = torch.nan
    assert torch.equal(run_block(c, (False, True, False))["g_weight"], want)
    assert want.any()


def at_odd_address(t: Tensor) -> Tensor:
    """t in memory that begins 2 bytes behind a multiple of 16."""
    rows = t.movedim(1, -1)
    return t.new_empty(t.numel() + 1)[1:].view(rows.shape).copy_(rows).movedim(-1, 1)


def test_a_constant_output_has_variance_zero() -> None:
    c = ConvCase(shape_of(False, (4, 5), 4, 2, 1), torch.float16, biased=True)
    c.inputs["weight"].zero_()
    got = run_block(c)
    assert (got["y_var"] == 0).all()
    assert torch.equal(got["y_mean"][0], c.inputs["bias"].half().float())


def test_segments_that_do_not_divide_the_batch() -> None:
    c = ConvCase(shape_of(False, (4, 4), 4, 2, 1), torch.float16)
    c.segments = (1, 3)
    with pytest.raises(ValueError, match="segments: 3 does not divide the batch of 2"):
        run_block(c)
