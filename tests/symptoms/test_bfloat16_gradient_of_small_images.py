"""Layers whose kernel or stride is larger than the image, in bfloat16 and float16 on a CPU.

PyTorch's gradient of their weights held whatever lay in memory. Right: outputs and gradients, also
those of gradients, are as close to float64's as float32's with every layer's result rounded.
"""

from __future__ import annotations

import copy

import pytest
import torch
from along import sizes
from tolerance import assert_as_exact
from torch import Tensor, nn
from unwritten import HALVES, Rounded, unwritten
from ways import Results, Way, backward, like

from fastgan.nn import FusedSequential

MODELS = {
    "stride": ((4, 3, 5, 5), lambda: [nn.Conv2d(3, 8, 4, stride=7), nn.LeakyReLU(0.2)]),
    "bottleneck": (
        (16, 8, 2, 2),
        lambda: [
            nn.Conv2d(8, 8, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(8, 3, 4, 7, output_padding=2),
            nn.Tanh(),
        ],
    ),
    "signal": ((4, 4, 3), lambda: [nn.Conv1d(4, 8, 5, padding=2), nn.Tanh()]),
}


def measured(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Results:
    x = like(model, images.to(dtype))
    y = model(x)
    results = backward(model, y.double().pow(3).sum(), x=x)
    (slope,) = torch.autograd.grad(model(x).double().pow(3).sum(), x, create_graph=True)
    again = backward(model, slope.double().square().sum(), x=x)
    return results | {"y": y} | {f"d{k}": g for k, g in again.items() if k.startswith("d ")}


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_written(way: Way, name: str, dtype: torch.dtype, last: bool) -> None:
    shape, layers = MODELS[name]
    images, model = 4 * torch.randn(shape), nn.Sequential(*layers()).to(dtype)
    if last and images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    exact = measured(copy.deepcopy(model).double(), images, dtype)
    theirs = measured(Rounded(copy.deepcopy(model), dtype), images, dtype)
    with unwritten():
        own = measured(way(copy.deepcopy(model)), images, dtype)
    natural = sizes({k: g for k, g in exact.items() if k.startswith(("d ", "dd "))})
    for key, value in exact.items():
        size = natural.get(key, 0.0)
        assert_as_exact(key, own[key], theirs[key], value, floor=dtype, size=size)


def test_of_a_compiled_model() -> None:
    layers = [nn.Conv2d(4, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 4, 4, 2, 1)]
    model = FusedSequential(*layers, keep_activations=True).bfloat16()
    x = torch.randn(2, 4, 2, 2).bfloat16().requires_grad_()
    with unwritten():
        y = torch.compile(model, backend="aot_eager")(x)
        gradients = torch.autograd.grad(y.sum(), [x, *model.parameters()])
    assert all(t.isfinite().all() for t in (y, *gradients))
