"""Raw convolutions on the CPU against ATen's: DCGAN-64's first and last layers, and those that run
as matrix products.

Every pass times the candidates in turn within one run (see paired.py): ours, which is handed
channels-last tensors, and ATen's with contiguous and with channels-last ones. Forward includes the
layer's activation, for ATen in place. The ratio is against the faster of the two layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from paired import geometric_mean, interleave
from torch import Tensor

from fastgan.ops import _convolution
from fastgan.ops._convolution import Geometry, output_shape
from fastgan.ops.reference.activation import LEAKY_RELU, TANH

BATCH = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = ("forward", "backward_input", "backward_weight")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ROUNDS = 15


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

results: dict[tuple[str, str, str], float] = {}


def activate(y: Tensor, activation: int | None) -> Tensor:
    if activation is None:
        return y
    return y.tanh_() if activation == TANH else F.leaky_relu_(y, 0.2)


def aten(layer: Layer, pass_: str, x: Tensor, weight: Tensor, dy: Tensor) -> Callable[[], object]:
    stride, padding, extra, transposed = layer.geometry
    arguments = (stride, padding, (1, 1), transposed, extra, 1)
    if pass_ == "forward":
        return lambda: activate(
            torch.ops.aten.convolution(x, weight, None, *arguments), layer.activation
        )
    mask = [pass_ == "backward_input", pass_ == "backward_weight", False]
    return lambda: torch.ops.aten.convolution_backward(dy, x, weight, None, *arguments, mask)


def own(layer: Layer, pass_: str, x: Tensor, weight: Tensor, dy: Tensor) -> Callable[[], object]:
    if pass_ == "forward":
        code = LEAKY_RELU if layer.activation is None else layer.activation
        slope = 1.0 if layer.activation is None else 0.2
        return lambda: _convolution.forward(x, weight, None, layer.geometry, code, slope)
    return lambda: getattr(_convolution, pass_)(dy, x, weight, layer.geometry)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_against_aten(benchmark: Callable[..., object], name: str, dtype: str, pass_: str) -> None:
    layer = LAYERS[name]
    weight = (torch.randn(layer.weight) / 16).to(DTYPES[dtype])
    size = output_shape((BATCH, *layer.x), layer.weight, layer.geometry)
    x, dy = torch.randn(BATCH, *layer.x).to(DTYPES[dtype]), torch.randn(size).to(DTYPES[dtype])

    def given(layout: str) -> tuple[Tensor, Tensor, Tensor]:
        laid = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (x, dy))
        return next(laid), weight, next(laid)

    runs = {"own": own(layer, pass_, *given("channels_last"))}
    runs |= {layout: aten(layer, pass_, *given(layout)) for layout in LAYOUTS}
    times = interleave(runs, ROUNDS)
    benchmark.pedantic(runs["own"], rounds=5, warmup_rounds=1)
    rounds = zip(times["own"], times["contiguous"], times["channels_last"], strict=True)
    best = median(min(peers) / mine for mine, *peers in rounds)
    operations = 2 * BATCH * torch.Size(layer.weight).numel()
    operations *= torch.Size(layer.x[1:] if layer.geometry.transposed else size[2:]).numel()
    row = {
        "ratio": best,
        "milliseconds": median(times["own"]) * 1e3,
        "gflops": operations / median(times["own"]) / 1e9,
    }
    results[name, dtype, pass_] = best
    benchmark.extra_info.update(row)
    print(
        f"\n{name}, {dtype}, {pass_}: {row['milliseconds']:.2f} ms, {row['gflops']:.0f} GFLOP/s, "
        f"{best:.2f}x the best of ATen"
    )


def test_summary(benchmark: Callable[..., object]) -> None:
    """The geometric means over all cases of this run, and the cases where ATen is faster."""
    if len(results) < len(LAYERS) * len(DTYPES) * len(PASSES):
        pytest.skip("runs after all cases of test_against_aten")
    for dtype in DTYPES:
        value = geometric_mean(r for key, r in results.items() if key[1] == dtype)
        benchmark.extra_info[dtype] = value
        print(f"\n{dtype}: {value:.2f}")
    benchmark.pedantic(lambda: None, rounds=1)
    slower = [str(key) for key, value in results.items() if value < 1]
    benchmark.extra_info["slower than ATen"] = slower
    print(f"\nslower than ATen: {slower or 'none'}")
