"""Raw convolutions on the CPU against ATen's: DCGAN-64's first and last layers, and those that run
as matrix products.

Ours is handed channels-last images, ATen's either layout; weights have torch.nn's order. Forward
includes the layer's activation, for ATen in place.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.conftest import Compared
from bench.harness.case import FORWARD, Case
from bench.harness.cost import Cost, of_passes
from bench.harness.peers import PEERS
from bench.harness.workload import Call, Implementation, Workload
from fastgan.ops import conv
from fastgan.ops.conv.geometry import Geometry, aten_arguments, output_shape
from fastgan.ops.conv.problem import describe
from fastgan.ops.core.activation import LEAKY_RELU, TANH

BATCH = 64
DTYPES = ["float32", "bfloat16"]
BACKWARD_INPUT, BACKWARD_WEIGHT = "gradient of x", "gradient of weight"
PARTS = [FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT]
Function = Callable[[Tensor, Tensor, Tensor], Tensor]


class Layer(NamedTuple):
    x: tuple[int, int, int]
    weight: tuple[int, int, int, int]
    geometry: Geometry
    activation: int | None = None


def halving(transposed: bool) -> Geometry:
    return Geometry((2, 2), (1, 1), (0, 0), transposed)


def whole(transposed: bool) -> Geometry:
    return Geometry((1, 1), (0, 0), (0, 0), transposed)


LAYERS = {
    "from RGB": Layer((3, 64, 64), (64, 3, 4, 4), halving(False), LEAKY_RELU),
    "to RGB": Layer((64, 32, 32), (64, 3, 4, 4), halving(True), TANH),
    "to RGB 3x3": Layer((32, 64, 64), (3, 32, 3, 3), Geometry((1, 1), (1, 1), (0, 0), False), TANH),
    "8x8 to 4x4": Layer((256, 8, 8), (512, 256, 4, 4), halving(False)),
    "4x4 to 8x8": Layer((512, 4, 4), (512, 256, 4, 4), halving(True)),
    "latent to 4x4": Layer((100, 1, 1), (100, 512, 4, 4), whole(True)),
    "4x4 to logit": Layer((512, 4, 4), (1, 512, 4, 4), whole(False)),
    "middle": Layer((64, 32, 32), (128, 64, 4, 4), halving(False)),
}


def aten(layer: Layer, part: str) -> Function:
    def forward(x: Tensor, weight: Tensor, dy: Tensor) -> Tensor:
        y = torch.ops.aten.convolution(x, weight, None, *aten_arguments(*layer.geometry))
        if layer.activation is None:
            return y
        return y.tanh_() if layer.activation == TANH else F.leaky_relu_(y, 0.2)

    def backward(x: Tensor, weight: Tensor, dy: Tensor) -> Tensor:
        mask = [part == BACKWARD_INPUT, part == BACKWARD_WEIGHT, False]
        arguments = aten_arguments(*layer.geometry)
        found = torch.ops.aten.convolution_backward(dy, x, weight, None, *arguments, mask)
        return found[mask.index(True)]

    return forward if part == FORWARD else backward


def own(layer: Layer, part: str) -> Function:
    code = LEAKY_RELU if layer.activation is None else layer.activation
    slope = 1.0 if layer.activation is None else 0.2

    def forward(x: Tensor, weight: Tensor, dy: Tensor) -> Tensor:
        return conv.forward(x, weight, None, layer.geometry, code, slope)

    def backward(x: Tensor, weight: Tensor, dy: Tensor) -> Tensor:
        of = "input" if part == BACKWARD_INPUT else "weight"
        return getattr(conv, f"backward_{of}")(dy, x, weight, layer.geometry)

    return forward if part == FORWARD else backward


def cost(layer: Layer, part: str, dtype: torch.dtype) -> Cost:
    x, weight = (
        torch.empty(s, dtype=dtype, device="meta") for s in ((BATCH, *layer.x), layer.weight)
    )
    problem = describe(FORWARD, x, weight, layer.geometry)
    of_y = prod(problem.y) * dtype.itemsize
    passes = of_passes(problem.operations, x.nbytes, of_y, weight.nbytes)
    return passes[PARTS.index(part)]


def workload(case: Case) -> Workload:
    layer = LAYERS[case.op]
    size = output_shape((BATCH, *layer.x), layer.weight, layer.geometry)

    def draw() -> list[Tensor]:
        weight = torch.randn(layer.weight) / 16
        return [torch.randn(BATCH, *layer.x), weight, torch.randn(size)]

    fused = Call(own(layer, case.part))
    ways = {
        "fused": Implementation(lambda _: fused, "channels last", own=True),
        "eager": Implementation(PEERS["eager"], "contiguous"),
        "eager (channels last)": Implementation(PEERS["eager"], "channels last"),
    }
    costs = cost(layer, case.part, getattr(torch, case.dtype))
    peer = Call(aten(layer, case.part))
    return Workload(case, peer, draw, ways, costs, input_gradients=False)


def cases() -> list[object]:
    found = []
    for name, dtype, part in product(LAYERS, DTYPES, PARTS):
        shape = "×".join(map(str, (BATCH, *LAYERS[name].x)))
        case = Case(name, shape, dtype, "channels last", part)
        quick = name == "to RGB" and (dtype, part) == ("float32", FORWARD)
        marks = [] if quick else [pytest.mark.full]
        found.append(pytest.param(case, marks=marks, id=str(case)))
    return found


@pytest.mark.parametrize("case", cases())
def test_against_aten(case: Case, compared: Compared) -> None:
    compared(case, workload)
