"""The fused convolution on a GPU: every configuration, real layers, streams, graphs, 64 bits.

Both designs: the gather, by its launchers, and the products by TMA, by conv_block's door, where the
GPU has it. tanh stands before and after real layers: of their many values some lie so near 0 that
their rounding decides LeakyReLU's gradient.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiled_conv import KINDS, check, large_blocks
from conv_case import ConvCase, Shape, run_block
from devices import COMPILED, need_memory, part_of, sweep
from torch import Tensor

pytestmark = COMPILED

DEVICE = "cuda"
TANH = (1, 0.0)
OF_KINDS = pytest.mark.parametrize(("dtype", "precision"), KINDS, ids=str)
DIRECTIONS = pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])


def layer(
    transposed: bool, x: tuple[int, ...], c_out: int, k: int = 4, s: int = 2, p: int = 1
) -> Shape:
    dims = len(x) - 2
    return (transposed, x, c_out, *([n] * dims for n in (k, s, p, 0)))


# DCGAN-64 at batch 64, its projection, its output layers and its images among them.
LAYERS = {
    "from RGB": layer(False, (64, 3, 64, 64), 64),
    "64 to 128": layer(False, (64, 64, 32, 32), 128),
    "128 to 256": layer(False, (64, 128, 16, 16), 256),
    "256 to 512": layer(False, (64, 256, 8, 8), 512),
    "to one": layer(False, (64, 512, 4, 4), 1, 4, 1, 0),
    "projection": layer(True, (64, 100, 1, 1), 512, 4, 1, 0),
    "512 to 256": layer(True, (64, 512, 4, 4), 256),
    "256 to 128": layer(True, (64, 256, 8, 8), 128),
    "128 to 64": layer(True, (64, 128, 16, 16), 64),
    "to RGB": layer(True, (64, 64, 32, 32), 3),
    "k3 s1 p1": layer(False, (16, 64, 33, 31), 96, 3, 1, 1),
    "k5 s2 p2": layer(False, (16, 48, 31, 17), 80, 5, 2, 2),
    "1-D": layer(False, (8, 24, 500), 48, 41, 4, 20),
    "3-D": layer(True, (4, 16, 9, 8, 7), 32),
}


@OF_KINDS
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, dtype: torch.dtype, precision: str) -> None:
    """In the configurations that ship."""
    c = ConvCase(LAYERS[name], dtype, (2, 1), TANH, TANH, True, device=DEVICE)
    check(c, precision)


@OF_KINDS
@pytest.mark.parametrize("name", LAYERS)
def test_layers_by_the_block(
    name: str, dtype: torch.dtype, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By TMA where it serves, all gradients: what a layer's forward and backward run."""
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", precision)
    c = ConvCase(LAYERS[name], dtype, (1, 2), TANH, TANH, True, device=DEVICE)
    c.check(run_block(c))


@DIRECTIONS
def test_kinks_and_what_waits_for_no_norm(transposed: bool) -> None:
    """On few values, none of them at a kink of LeakyReLU or ReLU."""
    shape = layer(transposed, (4, 32, 6, 5), 48, 3, 1, 1)
    for pre, post in (((0, 0.2), (0, 1.0)), ((0, 0.0), TANH), ((2, 0.0), TANH)):
        for segments in ((0, 0), (2, 2)):
            c = ConvCase(shape, torch.bfloat16, segments, pre, post, True, device=DEVICE)
            c.check(c.launch())
            c.check(run_block(c))


@sweep
@OF_KINDS
@DIRECTIONS
def test_every_configuration(
    transposed: bool, dtype: torch.dtype, precision: str, part: int
) -> None:
    """Those of this device, each for both passes; wide channels and such as take no vectors."""
    from fastgan.kernels.conv_block.geometry import configs, device_target

    target = device_target(torch.device(DEVICE))
    for narrow, channels in ((False, (136, 80)), (True, (37, 33))):
        one, two = (configs(dtype, precision, n, target, narrow) for n in (1, 2))
        for config, back in part_of(zip(one, two, strict=True), part, needed=not narrow):
            shape = layer(transposed, (6, channels[0], 9, 13), channels[1], 3, 2, 1)
            for segments, pre in (((2, 3), (0, 0.2)), ((0, 0), (0, 1.0))):
                c = ConvCase(shape, dtype, segments, pre, TANH, device=DEVICE)
                try:
                    check(c, precision, config, back)
                except AssertionError as error:
                    raise AssertionError(f"{config}, {back}: {error}") from error


@sweep
@DIRECTIONS
def test_every_configuration_of_tma(
    transposed: bool, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastgan.kernels.conv_block.tma import plan

    _need_tma(plan)
    for name in part_of(("PRODUCT", "WEIGHT"), part):
        for config in getattr(plan, name):
            monkeypatch.setattr(plan, name, (config,))
            for channels in ((144, 80), (64, 272)):
                _forget(plan)
                shape = layer(transposed, (6, channels[0], 9, 13), channels[1])
                c = ConvCase(shape, torch.bfloat16, (2, 3), TANH, TANH, device=DEVICE)
                try:
                    c.check(run_block(c))
                except AssertionError as error:
                    raise AssertionError(f"{config}: {error}") from error
        monkeypatch.undo()
    _forget(plan)


def _need_tma(plan: Any) -> None:
    if not plan.has_tma(torch.device(DEVICE)):
        pytest.skip("a GPU before Hopper has no TMA")


def _forget(plan: Any) -> None:
    plan.product_plan.cache_clear()
    plan.weight_plan.cache_clear()


def small(transposed: bool, device: str = DEVICE) -> ConvCase:
    shape = layer(transposed, (8, 64, 8, 8), 48)
    return ConvCase(shape, torch.bfloat16, (2, 2), (0, 0.2), TANH, device=device)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(found[name].cpu(), wanted[name].cpu()) for name in wanted)


@DIRECTIONS
def test_runs_repeat_bit_for_bit(transposed: bool) -> None:
    c = small(transposed)
    for run in (c.launch, lambda: run_block(c)):
        first = run()
        assert all(same(run(), first) for _ in range(5))


@DIRECTIONS
def test_a_side_stream(transposed: bool) -> None:
    """Its input is written there, late: work on another stream would read what stood before."""
    c = small(transposed)
    for run in (c.launch, lambda: run_block(c)):
        want, x = run(), c.inputs["x"].clone()
        c.inputs["x"].fill_(float("nan"))
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(50_000_000)
            c.inputs["x"].copy_(x)
            got = run()
        side.synchronize()
        assert same(got, want)


@DIRECTIONS
def test_another_device_than_the_current_one(transposed: bool) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    first, second = small(transposed), small(transposed, "cuda:1")
    want, got = run_block(first), run_block(second)
    assert {t.device.index for t in got.values()} == {1}
    assert same(got, want)


@DIRECTIONS
def test_a_cuda_graph_captures_every_launch(transposed: bool) -> None:
    c = small(transposed)
    for run in (c.launch, lambda: run_block(c)):
        want = run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = run()
        graph.replay()
        torch.cuda.synchronize()
        assert same(got, want)


@pytest.mark.parametrize("by_door", [False, True], ids=["gather", "block"])
def test_more_than_2_to_the_31_values(by_door: bool) -> None:
    """Only the last image counts; it lies where 32-bit offsets would have wrapped around."""
    need_memory(32)
    large_blocks(DEVICE, 520, 256, by_door)
