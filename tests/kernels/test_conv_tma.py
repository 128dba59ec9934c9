"""What the TMA kernels' launchers decide on the host, and whether TMA takes what they launch."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from fastgan.kernels.conv_block import tma
from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.geometry import ConvGeometry, Target, conv_geometry
from fastgan.kernels.conv_block.tma import plan
from fastgan.kernels.core import precision
from fastgan.ops.conv import algorithms, aten
from fastgan.ops.conv import tma as of_tma
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import FORWARD, PASSES, describe

TARGETS = [Target(), Target(101376, 255)]


def layer(
    n: int, c_in: int, side: int, c_out: int, k: int = 4, s: int = 2, p: int = 1,
    transposed: bool = False, dtype: torch.dtype = torch.bfloat16,
) -> tuple[torch.Tensor, torch.Tensor, ConvGeometry]:  # fmt: skip
    x = torch.empty(n, side, side, c_in, dtype=dtype, device="meta").movedim(-1, 1)
    ends = (c_in, c_out) if transposed else (c_out, c_in)
    weight = torch.empty(*ends, k, k, dtype=dtype, device="meta")
    return x, weight, conv_geometry(x, weight, [s, s], [p, p], [0, 0], transposed)


@pytest.mark.parametrize("positions", [32, 64, 128])
def test_boxes_cover_their_images_with_little_surplus(positions: int) -> None:
    for images, h, w in product((1, 5, 64), (1, 4, 15, 16), (1, 5, 8, 33)):
        found = plan.boxes(positions, images, h, w)
        assert prod(found.size) == positions
        assert all(
            (t - 1) * b < n <= t * b
            for t, b, n in zip(found.tiles, found.size, (images, h, w), strict=True)
        )
    assert plan.boxes(128, 64, 16, 16) == plan.Boxes((1, 8, 16), (64, 2, 1))
    assert plan.boxes(128, 64, 4, 4).count == 8
    assert plan.boxes(128, 128, 5, 5).count <= plan.SURPLUS * 25


def test_positions_of_flat_boxes_follow_each_other() -> None:
    for size in ((1, 8, 8), (2, 4, 8), (4, 4, 4), (1, 1, 64), (64, 1, 1), (1, 4, 16)):
        for h, w in product((4, 8, 12, 16), (4, 8, 16, 64, 12)):
            images = 8
            tiles = tuple(-(-n // b) for n, b in zip((images, h, w), size, strict=True))
            found = plan.Boxes(size, (tiles[0], tiles[1], tiles[2]))
            in_order = [
                ((i * size[0] + a) * h + j * size[1] + b) * w + k * size[2] + c
                for i, j, k in product(*map(range, tiles))
                for a, b, c in product(*map(range, size))
                if i * size[0] + a < images
            ]
            fits = h % size[1] == 0 and w % size[2] == 0
            assert found.flat(h, w) == (fits and in_order == list(range(images * h * w)))


def test_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, geo = layer(2, 64, 8, 128)
    assert not tma.serves(geo, x)
    monkeypatch.setattr(plan, "has_tma", lambda device: True)
    assert tma.serves(geo, x)
    assert tma.serves(geo, x, of_weight=True)
    assert not tma.serves(geo, x.double())
    for channels in ((8, 64), (64, 100), (3, 64)):
        assert not tma.serves(layer(2, channels[0], 8, channels[1])[2], x)
    assert not tma.serves(layer(0, 64, 8, 128)[2], x)
    volume = torch.empty(2, 16, 4, 4, 4, dtype=torch.bfloat16, device="meta")
    weight = torch.empty(16, 16, 3, 3, 3, device="meta")
    of_volume = conv_geometry(volume, weight, [1] * 3, [1] * 3, [0] * 3, False)
    assert not plan.supports(of_volume, x.dtype, "ieee")
    assert not plan.supports(of_volume, torch.float32, "tf32")


def test_float32_is_served_in_tf32_but_for_the_weight_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The setting is asked for at each call: no choice by shape outlasts it."""
    x, _, geo = layer(2, 64, 8, 128, dtype=torch.float32)
    monkeypatch.setattr(plan, "has_tma", lambda device: True)
    for allowed in ("ieee", "tf32", "ieee", "tf32"):
        monkeypatch.setattr(precision, "float32_precision", lambda device, now=allowed: now)
        assert tma.serves(geo, x) == (allowed == "tf32")
        assert not tma.serves(geo, x, of_weight=True)
        assert not tma.serves(layer(2, 64, 8, 100, dtype=torch.float32)[2], x)


@pytest.mark.parametrize("transposed", [False, True], ids=["direct", "transposed"])
def test_the_table_says_what_runs_each_pass(
    transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tensors of a GPU with TMA: 16 bits, and float32 by the setting at the time."""
    monkeypatch.setattr(plan, "has_tma", lambda device: device.type == "cuda")
    geometry = Geometry((2, 2), (1, 1), (0, 0), transposed)
    for dtype, allowed, expected in (
        (torch.bfloat16, "ieee", (of_tma, of_tma, of_tma)),
        (torch.float32, "ieee", (aten, aten, aten)),
        (torch.float32, "tf32", (of_tma, of_tma, aten)),
        (torch.float32, "ieee", (aten, aten, aten)),
    ):
        monkeypatch.setattr(precision, "float32_precision", lambda device, now=allowed: now)
        x, weight, _ = layer(2, 64, 8, 128, transposed=transposed, dtype=dtype)
        problem = describe(FORWARD, x, weight, geometry)
        on_gpu = problem._replace(device="cuda", triton=True)
        for of, algorithm in zip(PASSES, expected, strict=True):
            assert algorithms.select(on_gpu._replace(of=of)) is algorithm
            assert of_tma.supports(on_gpu._replace(of=of)) == (algorithm is of_tma)
            assert algorithms.select(on_gpu._replace(of=of, triton=False)) is aten
        assert not of_tma.supports(problem)  # of the CPU


def test_the_tile_follows_the_shape() -> None:
    def tile(geo: ConvGeometry) -> tuple[int, int]:
        config = plan.product_plan(geo, 1, Target()).config
        return config.block_m, config.block_n

    assert tile(layer(1024, 128, 16, 256)[2]) == (128, 128)
    assert tile(layer(1024, 64, 32, 64)[2]) == (128, 64)
    # 64 programs of the large tile would leave half of the multiprocessors idle.
    assert tile(layer(128, 256, 8, 512)[2]) != (128, 128)
    assert plan.product_configs(80, Target())[0].block_k == 16
    assert plan.product_configs(96, Target())[0].block_k == 32


def test_layers_of_few_positions_are_summed_in_slices() -> None:
    def slices(geo: ConvGeometry) -> int:
        found = plan.product_plan(geo, 1, Target())
        assert (found.slices - 1) * found.slice_steps < found.steps
        assert found.slices == 1 or found.grid[0] <= plan.MULTIPROCESSORS
        return found.slices

    small, large = layer(4, 256, 8, 512)[2], layer(1024, 256, 8, 512)[2]
    assert slices(small) > 1
    assert slices(small.reversed()) > 1
    assert slices(large) == slices(large.reversed()) == 1
    assert slices(layer(16, 16, 8, 16)[2]) == 1


def test_a_convolutions_gradient_and_the_transposed_ones_forward_pass_are_two_launches() -> None:
    """They have one plan: a generator's layer and a discriminator's of the same sizes."""
    down = layer(8, 64, 16, 128)[2]
    options = torch.bfloat16, torch.device("cpu"), Activation(0, 0.2), 1
    for _ in range(2):
        forward = tma.product_of(down.reversed(), *options)
        gradient = tma.data_gradient_of(down, *options)
        assert forward._plan is gradient._plan
        assert forward._kind["EPILOGUE"] == "output"
        assert gradient._kind["EPILOGUE"] == "gradient"
    assert tma.product_of(down.reversed(), *options) is forward


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_configurations_fit(target: Target) -> None:
    of_half = plan.product_configs(64, target)
    for config in [*of_half, *plan.weight_configs(target)]:
        assert config.shared(2, 1) < target.shared
        assert config.stages >= 3
    # Of float32 a step is of as many bytes, and so of half as many channels.
    of_float32 = plan.product_configs(64, target, 4)
    assert of_float32 == [replace(config, block_k=config.block_k // 2) for config in of_half]
    assert all(config.shared(4, 1) < target.shared for config in of_float32)
    assert plan.product_configs(48, target, 4)[0].block_k == 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["direct", "transposed"])
@pytest.mark.parametrize(
    ("k", "s", "p"), [(4, 2, 1), (3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (4, 1, 0)]
)
def test_tma_takes_what_is_launched(
    k: int, s: int, p: int, transposed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every launch on meta tensors, of even and odd sizes: rank, boxes, strides, swizzle, grid."""
    from triton.runtime.jit import JITFunction

    launched = []

    def record(function: Any, *args: Any, grid: Any, warmup: Any, **kwargs: Any) -> None:
        launched.append((function.__name__, args, grid))

    monkeypatch.setattr(JITFunction, "run", record)
    for n, c_in, side, c_out in ((128, 64, 32, 128), (1024, 256, 8, 512), (7, 48, 9, 16)):
        x, weight, geo = layer(n, c_in, side, c_out, k, s, p, transposed, dtype)
        rows = torch.empty(1, 3, c_in, device="meta")
        y, *_ = tma.tma_forward(x, weight, None, geo, Activation(), 1)
        tma.tma_data_gradient(y, weight, geo, x, rows, Activation())
        if dtype.itemsize == 2:
            tma.tma_weight_gradient(x, y, weight, geo)
    products = [call for call in launched if call[0].startswith("tma_") and "add" not in call[0]]
    assert len(products) == (9 if dtype.itemsize == 2 else 6)
    for _, args, grid in products:
        assert grid[0] < 2**31
        for box in (a for a in args if hasattr(a, "block_shape")):
            size = box.base.element_size()
            assert len(box.shape) == len(box.block_shape) <= 5
            assert all(0 < b <= 256 for b in box.block_shape)
            assert all(0 < n < 2**31 for n in box.shape)
            assert all(n * size % 16 == 0 and n * size < 2**40 for n in box.strides[:-1])
            assert box.strides[-1] == 1
            assert box.block_shape[-1] * size in (32, 64, 128, 256)
            reach = sum((n - 1) * step for n, step in zip(box.shape, box.strides, strict=True))
            assert reach < box.base.numel()
