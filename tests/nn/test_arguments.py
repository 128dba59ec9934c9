"""Every module refuses wrong values of its constructor's arguments, and of its input, by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import wrong
from tolerance import assert_as_exact
from torch import nn

import fastgan.nn as fnn

_PLACED: wrong.Table = {
    "device": ["nowhere", "cuda:x", 1.5, True, [], torch.ones(1)],
    "dtype": ["float32", float, torch.int32, torch.complex64, torch.bool, 1, torch.ones(1)],
}
_ACTIVATED: wrong.Table = {"activation": wrong.CHOICE, "negative_slope": wrong.REAL}
_NORM: wrong.Table = {
    **_PLACED, **_ACTIVATED,
    "num_features": wrong.WHOLE,
    "eps": wrong.REAL,
    "momentum": [value for value in wrong.MOMENTUM if value is not None],
    "order": wrong.CHOICE,
}  # fmt: skip
_CONV: wrong.Table = {
    **_PLACED, **_ACTIVATED,
    "in_channels": wrong.COUNT,
    "out_channels": wrong.COUNT,
    "kernel_size": wrong.STEPS,
    "stride": wrong.STEPS,
    "padding": wrong.STEPS[:-2],
    "dilation": [*wrong.STEPS, 2, (1, 2)],
    "groups": [*wrong.COUNT, 3],
    "padding_mode": [None, 1, "nothing"],
    "norm": [1, True, "nothing", "", ["batch"], nn.BatchNorm2d],
    "eps": wrong.REAL,
    "momentum": [value for value in wrong.MOMENTUM if value is not None],
    "segments": wrong.COUNT,
    "nothing": [1],
}  # fmt: skip
TABLES: dict[str, wrong.Table] = {
    **{f"BatchNormAct{d}d": {
        **_NORM, "segments": wrong.COUNT, "sync": wrong.FLAG, "process_group": ["a", 1, False],
    } for d in (1, 2, 3)},
    **{f"InstanceNormAct{d}d": _NORM for d in (1, 2, 3)},
    "BiasAct": {
        **_PLACED, **_ACTIVATED, "num_features": wrong.COUNT,
        "bias": [None, "tanh", 1, 0, 1.0, torch.ones(1)],
    },
    **{f"ConvNormAct{d}d": _CONV for d in (1, 2, 3)},
    **{f"ConvTransposeNormAct{d}d": {
        **_CONV, "padding": wrong.PADDING, "output_padding": wrong.PADDING,
    } for d in (1, 2, 3)},
    "FusedSequential": {"keep_activations": wrong.FLAG},
}  # fmt: skip


def _arguments(name: str) -> dict[str, Any]:
    if name.startswith("Conv"):
        return {"in_channels": 3, "out_channels": 2, "kernel_size": 3}
    return {} if name == "FusedSequential" else {"num_features": 3}


def _input(name: str) -> torch.Tensor:
    dims = int(name[-2]) if name.endswith("d") else 2
    return torch.randn(4, 3, *(5,) * dims)


@pytest.mark.parametrize(("name", "argument"), wrong.cases(TABLES))
def test_constructors(name: str, argument: str) -> None:
    kind, given = getattr(fnn, name), _arguments(name)
    if name.startswith("Conv") and name.endswith("1d"):  # a pair is no size of one dimension
        given |= {"kernel_size": 2}
    values = list(TABLES[name][argument])
    wrong.assert_all_refused(argument, values, lambda value: kind(**given | {argument: value}))


@pytest.mark.parametrize("name", TABLES)
def test_inputs(name: str) -> None:
    module, x = getattr(fnn, name)(**_arguments(name)), _input(name)
    module(x)
    values = [None, *wrong.NO_TENSORS]
    wrong.assert_all_refused("input", values, module)


@pytest.mark.parametrize("name", [name for name in TABLES if "Norm" in name])
def test_attributes_that_are_changed_later(name: str) -> None:
    """A call says it, then."""
    module, x = getattr(fnn, name)(**_arguments(name)), _input(name)
    norm = module.norm if hasattr(module, "norm") else module
    for attribute, value in (
        ("eps", "a"),
        ("eps", -1.0),
        ("negative_slope", None),
        ("momentum", 2),
    ):
        kept = getattr(norm, attribute)
        setattr(norm, attribute, value)
        wrong.assert_all_refused(attribute, [x], module)
        setattr(norm, attribute, kept)
    module(x)


def test_counts_of_segments() -> None:
    module = fnn.BatchNormAct2d(3)

    def enter(count: Any) -> None:
        with fnn.segments(module, count):
            pass

    wrong.assert_all_refused("count", wrong.COUNT, enter)
    wrong.assert_all_refused(
        "process_group", ["a", 1], lambda group: fnn.convert_sync_batchnorm(module, group)
    )


# Layers of torch.nn whose numbers the ops do not take run as they are.

LAYERS: dict[str, list[nn.Module]] = {
    "momentum 2": [nn.BatchNorm2d(3, momentum=2.0)],
    "instance norm, eps 0": [nn.InstanceNorm2d(3, eps=0.0)],
    "slope inf": [nn.BatchNorm2d(3), nn.LeakyReLU(float("inf"))],
    "slope True": [nn.BatchNorm2d(3), nn.LeakyReLU(True)],  # meant for inplace, and the identity
    "slope a tensor": [nn.BatchNorm2d(3), nn.LeakyReLU(torch.tensor(0.5))],  # type: ignore[arg-type]
    "slope negative": [nn.Conv2d(3, 2, 3), nn.LeakyReLU(-0.5)],
    "one number for all": [nn.Conv2d(3, 2, 3, stride=(2,), padding=(1,))],  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_torch(name: str) -> None:
    layers, x = LAYERS[name], torch.randn(4, 3, 5, 5)
    fused = fnn.FusedSequential(*layers)
    plain = nn.Sequential(*layers)
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    exact = copy.deepcopy(plain).double()
    found = {"output": fused(x), **{k: v.clone() for k, v in plain.state_dict().items()}}
    plain.load_state_dict(state)
    theirs = {"output": plain(x), **plain.state_dict()}
    wide = {"output": exact(x.double()), **exact.state_dict()}
    for key, value in found.items():
        if value.is_floating_point():
            assert_as_exact(key, value, theirs[key], wide[key])
        else:
            assert torch.equal(value, theirs[key])
