"""The weight gradient on a GPU: every configuration, real layers, determinism, 64-bit offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conv_weight_case import NONE, WeightCase
from devices import COMPILED, part_of, sweep

pytestmark = COMPILED

KINDS = [
    (torch.bfloat16, "ieee"),
    (torch.float16, "ieee"),
    (torch.float32, "tf32"),
    (torch.float32, "ieee"),
]
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


@pytest.fixture(autouse=True)
def _exact_float32() -> Any:
    """What the results are compared with, PyTorch's own float32, is not TF32."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


def layer(
    x_shape: tuple[int, ...], c_out: int, transposed: bool, dtype: torch.dtype, **more: Any
) -> WeightCase:
    return WeightCase(
        transposed, x_shape, c_out, (4, 4), (2, 2), (1, 1), dtype=dtype, device="cuda", **more
    )


def check(case: WeightCase, precision: str, config: Any = None) -> None:
    """TF32 is held to the rule with PyTorch's own TF32."""
    got = case.launch(config, precision)
    torch.backends.cudnn.conv.fp32_precision = precision
    case.check(got)
    torch.backends.cudnn.conv.fp32_precision = "ieee"


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
    from fastgan.kernels.conv_block.forward import Activation
    from fastgan.kernels.conv_block.geometry import conv_geometry
    from fastgan.kernels.conv_block.weight import conv_weight_gradient

    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    shape = (520, 64, 256, 256)
    options = {"device": "cuda", "dtype": torch.bfloat16, "memory_format": torch.channels_last}
    x, g = torch.empty(shape, **options).zero_(), torch.empty(shape, **options).zero_()
    x[-1].normal_()
    g[-1].normal_()
    weight = torch.empty(64, 64, 1, 1, **options)
    geo = conv_geometry(x, weight, [1, 1], [0, 0], [0, 0], False)
    none = Activation()
    g_weight, g_bias = conv_weight_gradient(
        x, None, none, g, None, None, none, weight, geo, True, True
    )
    want = g[-1].double().flatten(1) @ x[-1].double().flatten(1).T
    torch.testing.assert_close(g_weight[:, :, 0, 0].double(), want, rtol=2**-7, atol=1e-2)
    torch.testing.assert_close(g_bias.double(), g[-1].double().sum((1, 2)), rtol=1e-4, atol=1e-3)
