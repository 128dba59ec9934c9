"""The weight gradient on a GPU: every configuration, real layers, determinism, 64-bit offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiled_conv import KINDS, check, large_weight_gradient
from conv_weight_case import NONE, WeightCase
from devices import COMPILED, need_memory, part_of, sweep

pytestmark = COMPILED

DIRECTIONS = pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
# (x, C_out, transposed): the layers of DCGAN-64 at batch 64.
LAYERS = [
    ((64, 3, 64, 64), 64, False),
    ((64, 64, 32, 32), 128, False),
    ((64, 128, 16, 16), 256, False),
    ((64, 256, 8, 8), 512, False),
    ((64, 512, 4, 4), 256, True),
    ((64, 256, 8, 8), 128, True),
    ((64, 128, 16, 16), 64, True),
    ((64, 64, 32, 32), 3, True),
]


def layer(
    x_shape: tuple[int, ...], c_out: int, transposed: bool, dtype: torch.dtype, **more: Any
) -> WeightCase:
    return WeightCase(
        transposed, x_shape, c_out, (4, 4), (2, 2), (1, 1), dtype=dtype, device="cuda", **more
    )


@sweep
@pytest.mark.parametrize(("dtype", "precision"), KINDS, ids=str)
@DIRECTIONS
def test_every_configuration(
    transposed: bool, dtype: torch.dtype, precision: str, part: int
) -> None:
    """Those of this device, with every pair of prologues they are compiled with."""
    from fastgan.kernels.conv_block.geometry import device_target
    from fastgan.kernels.conv_block.weight import configs

    plain = {"rows": (0, 0), "pre": NONE, "post": NONE}
    every = configs(dtype, precision, device_target(torch.device("cuda")))
    for config in part_of(every, part):
        for x_shape, c_out in (((6, 128, 9, 13), 136), ((6, 40, 10, 8), 33)):
            for more in (
                {"rows": (2, 3)},
                plain,
                plain | {"rows": (1, 0)},
                plain | {"rows": (0, 1)},
            ):
                case = layer(x_shape, c_out, transposed, dtype, **more)
                try:
                    check(case, precision, config)
                except AssertionError as error:
                    raise AssertionError(f"{config}: {error}") from error


@pytest.mark.parametrize(("dtype", "precision"), KINDS, ids=str)
@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_layers(shape: Any, dtype: torch.dtype, precision: str) -> None:
    for last, rows in ((False, (1, 2)), (True, (2, 1))):
        check(layer(*shape, dtype, last=last, rows=rows), precision)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@DIRECTIONS
def test_one_and_three_dimensions(transposed: bool, dtype: torch.dtype) -> None:
    one = WeightCase(
        transposed, (8, 24, 500), 48, (41,), (4,), (20,), (0,), dtype=dtype, device="cuda"
    )
    three = WeightCase(
        transposed, (4, 16, 9, 8, 7), 32, (4,) * 3, (2,) * 3, (1,) * 3, (0,) * 3, dtype=dtype,
        device="cuda",
    )  # fmt: skip
    for case in (one, three):
        check(case, "ieee")


@DIRECTIONS
def test_runs_repeat_bit_for_bit(transposed: bool) -> None:
    case = layer((64, 64, 32, 32), 128, transposed, torch.bfloat16, rows=(2, 2))
    first = case.launch()
    for _ in range(5):
        again = case.launch()
        assert all(torch.equal(first[name], again[name]) for name in first)


@DIRECTIONS
def test_a_cuda_graph_captures_every_launch(transposed: bool) -> None:
    case = layer((16, 64, 8, 8), 32, transposed, torch.bfloat16, rows=(2, 4))
    want = case.launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = case.launch()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_more_than_2_to_the_31_values() -> None:
    """Only the last image counts; it lies where 32-bit offsets would have wrapped around."""
    need_memory(24)
    large_weight_gradient("cuda", 520, 256)
