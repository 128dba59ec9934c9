"""The modules against the torch.nn modules they replace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerance import within
from torch import Tensor, nn

import fastgan.nn as fnn

BATCH = {
    1: (fnn.BatchNormAct1d, nn.BatchNorm1d),
    2: (fnn.BatchNormAct2d, nn.BatchNorm2d),
    3: (fnn.BatchNormAct3d, nn.BatchNorm3d),
}
INSTANCE = {
    1: (fnn.InstanceNormAct1d, nn.InstanceNorm1d),
    2: (fnn.InstanceNormAct2d, nn.InstanceNorm2d),
    3: (fnn.InstanceNormAct3d, nn.InstanceNorm3d),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"eps": 1e-3, "momentum": 0.3},
]


def data(dims: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(6, 4, *(5, 4, 3)[:dims]) * 2 + seed


def randomise(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.normal_(p)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batch_norm_act(dims: int, options: dict[str, Any]) -> None:
    own_class, base_class = BATCH[dims]
    base = base_class(4, **options)
    randomise(base)
    own = own_class(4, **options, negative_slope=0.2)
    assert list(own.state_dict()) == list(base.state_dict())
    own.load_state_dict(base.state_dict())
    layers = nn.Sequential(base, nn.LeakyReLU(0.2))
    for seed in range(3):
        torch.testing.assert_close(own(data(dims, seed)), layers(data(dims, seed)))
    torch.testing.assert_close(own.state_dict(), base.state_dict())
    own.eval(), layers.eval()
    torch.testing.assert_close(own(data(dims, 7)), layers(data(dims, 7)))
    torch.testing.assert_close(own.state_dict(), base.state_dict())
    base.load_state_dict(own.state_dict())


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"affine": True}, {"affine": True, "track_running_stats": True}], ids=str
)
def test_instance_norm_act(dims: int, options: dict[str, Any]) -> None:
    own_class, base_class = INSTANCE[dims]
    base = base_class(4, **options)
    randomise(base)
    own = own_class(4, **options, negative_slope=0.2)
    own.load_state_dict(base.state_dict())
    layers = nn.Sequential(base, nn.LeakyReLU(0.2))
    for seed in range(3):
        torch.testing.assert_close(own(data(dims, seed)), layers(data(dims, seed)))
    x = data(dims, 5)
    torch.testing.assert_close(own(x[0]), layers(x[0]))
    own.eval(), layers.eval()
    torch.testing.assert_close(own(x), layers(x))
    torch.testing.assert_close(own.state_dict(), base.state_dict())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_segments_equal_as_many_calls(momentum: float | None) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), fnn.BatchNormAct2d(4, momentum=momentum))
    twin = nn.Sequential(nn.Conv2d(4, 4, 1), fnn.BatchNormAct2d(4, momentum=momentum))
    twin.load_state_dict(model.state_dict())
    for seed in range(2):
        x = torch.cat([data(2, seed), data(2, seed + 5)])
        with fnn.segments(model, 2):
            together = model(x)
        torch.testing.assert_close(together, torch.cat([twin(part) for part in x.chunk(2)]))
    assert model[1].segments == 1
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_segments_must_be_positive() -> None:
    with pytest.raises(ValueError, match="count"), fnn.segments(fnn.BatchNormAct2d(3), 0):
        pass


def test_half_precision_parameters() -> None:
    own = fnn.BatchNormAct2d(4, negative_slope=0.2).bfloat16()
    layers = nn.Sequential(nn.BatchNorm2d(4), nn.LeakyReLU(0.2)).bfloat16()
    x = data(2, 1).bfloat16()
    torch.testing.assert_close(own(x), layers(x), **within(torch.bfloat16, 2, 2))
    assert own.running_mean.dtype is torch.bfloat16
    torch.testing.assert_close(
        own.state_dict(), layers[0].state_dict(), **within(torch.bfloat16, 2, 2)
    )


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity", "leaky_relu"])
def test_bias_act(activation: str) -> None:
    own = fnn.BiasAct(4, activation=activation, negative_slope=0.3)
    assert list(own.state_dict()) == ["bias"]
    assert torch.equal(own.bias, torch.zeros(4))
    nn.init.normal_(own.bias)
    x = data(2, 0)
    y = x + own.bias.reshape(-1, 1, 1)
    layers = {
        "relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "identity": nn.Identity(),
        "leaky_relu": nn.LeakyReLU(0.3),
    }  # fmt: skip
    torch.testing.assert_close(own(x), layers[activation](y))
    assert fnn.BiasAct(4, bias=False).bias is None
    torch.testing.assert_close(
        fnn.BiasAct(4, bias=False, activation=activation, negative_slope=0.3)(x),
        layers[activation](x),
    )


def test_reprs_say_what_was_asked_for() -> None:
    assert "activation=leaky_relu, negative_slope=0.2" in repr(
        fnn.BatchNormAct2d(3, negative_slope=0.2)
    )
    text = repr(fnn.InstanceNormAct1d(3, activation="tanh", order="act_norm"))
    assert "activation=tanh, order=act_norm" in text
    assert "negative_slope" not in text
    assert repr(fnn.BiasAct(3, activation="tanh")) == "BiasAct(3, bias=True, activation=tanh)"


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: fnn.BatchNormAct2d(3, activation="gelu"), "activation"),
        (lambda: fnn.BatchNormAct2d(3, negative_slope=-1), "negative_slope"),
        (lambda: fnn.InstanceNormAct2d(3, order="no"), "order"),
        (lambda: fnn.BiasAct(0), "num_features"),
        (lambda: fnn.BiasAct(3, activation="x"), "activation"),
        (lambda: fnn.BiasAct(3)(torch.ones(2, 4)), "input: expected 3 channels"),
        (lambda: fnn.BatchNormAct2d(3)(torch.ones(2, 3)), "expected 4D input"),
        (lambda: fnn.BatchNormAct2d(3)(torch.ones(2, 4, 2, 2)), "weight: expected shape"),
        (lambda: fnn.InstanceNormAct2d(3)(torch.ones(2, 3)), "expected 3D or 4D input"),
    ],
)
def test_errors(build: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()


def test_devices_and_dtypes_of_construction() -> None:
    module = fnn.BatchNormAct2d(3, device="meta", dtype=torch.float64)
    assert module.weight.is_meta
    assert module.weight.dtype is torch.float64
    assert fnn.BiasAct(3, device="meta").bias.is_meta
