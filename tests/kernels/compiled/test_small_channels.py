"""Triton's convolutions from and to an image of few channels on a GPU, all three passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from convolutions import channels_last, check, chosen, passes, small_channel_case
from devices import COMPILED
from torch import Tensor

from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core.activation import IDENTITY, LEAKY_RELU, TANH

pytestmark = COMPILED

DEVICE = "cuda"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
HALVED = Geometry((2, 2), (1, 1), (0, 0), False)
DOUBLED = HALVED._replace(transposed=True)
SAME = Geometry((1, 1), (1, 1), (0, 0), False)
# x and weight.
LAYERS = {
    "from RGB": ((128, 3, 64, 64), (64, 3, 4, 4), HALVED),
    "to RGB": ((128, 64, 32, 32), (64, 3, 4, 4), DOUBLED),
    "from grey, odd": ((7, 1, 33, 45), (136, 1, 4, 4), HALVED),
    "to grey, odd": ((7, 136, 15, 23), (136, 1, 4, 4), DOUBLED),
    "k3 s1 to RGB": ((16, 96, 37, 21), (3, 96, 3, 3), SAME),
    "k7 s1 from RGB": ((4, 3, 61, 40), (64, 3, 7, 7), SAME._replace(padding=(3, 3))),
}


@pytest.fixture(autouse=True)
def _by_triton() -> Iterator[None]:
    with force(small_channels=False, small_channels_triton=True, product=True):
        yield


@pytest.fixture(params=["ieee", "tf32"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of float32, here and in what the results are compared with."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = request.param
    yield request.param
    torch.backends.cudnn.conv.fp32_precision = before


def tensors(
    shape: tuple[int, ...], weight: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    scale = (weight[0] * weight[1] * weight[2] * weight[3]) ** -0.25
    x = torch.randn(shape, device=DEVICE).to(dtype)
    return channels_last(x), (torch.randn(weight, device=DEVICE) * scale).to(dtype)


@DTYPES
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer: str, dtype: torch.dtype, precision: str) -> None:
    if precision == "tf32" and dtype is not torch.float32:
        pytest.skip("float32 alone has two precisions")
    shape, weight_shape, geometry = LAYERS[layer]
    x, weight = tensors(shape, weight_shape, dtype)
    assert set(chosen(x, weight, geometry)) == {"small_channels_triton"}
    check(x, weight, None, geometry, TANH, 0.0)


@DTYPES
@pytest.mark.parametrize("seed", range(24))
def test_shapes(seed: int, dtype: torch.dtype) -> None:
    shape, weight_shape, geometry = small_channel_case(seed)
    x, weight = tensors(shape, weight_shape, dtype)
    channels = weight_shape[1 if geometry.transposed else 0]
    check(x, weight, torch.randn(channels, device=DEVICE), geometry, LEAKY_RELU, 0.2)


@DTYPES
def test_layers_of_one_position(dtype: torch.dtype) -> None:
    """DCGAN-64's projection and its discriminator's last layer, by plain products."""
    whole = Geometry((1, 1), (0, 0), (0, 0), True)
    x, weight = tensors((128, 100, 1, 1), (100, 512, 4, 4), dtype)
    assert set(chosen(x, weight, whole)) == {"product"}
    check(x, weight, None, whole, *IDENTITY)
    x, weight = tensors((128, 512, 4, 4), (1, 512, 4, 4), dtype)
    check(x, weight, torch.randn(1, device=DEVICE), whole._replace(transposed=False), *IDENTITY)


def test_runs_repeat_bit_for_bit_and_in_a_graph() -> None:
    x, weight = tensors((32, 3, 64, 64), (64, 3, 4, 4), torch.bfloat16)
    dy = channels_last(torch.randn(32, 64, 32, 32, device=DEVICE).bfloat16())
    first = passes(x, weight, dy, HALVED)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = passes(x, weight, dy, HALVED)
    graph.replay()
    torch.cuda.synchronize()
    for again in (passes(x, weight, dy, HALVED), captured):
        assert all(map(torch.equal, again, first))
