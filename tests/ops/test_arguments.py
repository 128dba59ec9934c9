"""Every public op refuses every wrong value of every argument, by name, and moves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import wrong
from torch import Tensor

from fastgan import ops
from fastgan.ops.conv_block import Deferred
from fastgan.ops.core import dispatch, native
from fastgan.ops.norm_act.sync import sync_norm_act
from fastgan.ops.norm_act_conv import Norm

X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
ROW = torch.rand(3, generator=torch.Generator().manual_seed(2)) + 0.5
CONV = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(3))
IMAGES = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8).to(
    memory_format=torch.channels_last
)

_OWN_NORM = ("running_mean", "running_var", "weight", "bias")
ACTIVATED: wrong.Table = {"activation": wrong.CHOICE, "negative_slope": wrong.REAL}
NORM: wrong.Table = {
    "x": wrong.input(X),
    **{name: wrong.parameter(ROW) for name in _OWN_NORM},
    "momentum": wrong.MOMENTUM,
    "eps": [*wrong.REAL, 0.0],
    **ACTIVATED,
}
BATCH: wrong.Table = {
    "segments": [*wrong.COUNT, 3], "order": wrong.CHOICE, "average_segments": wrong.FLAG,
}  # fmt: skip
CONVOLVED: wrong.Table = {
    "x": [*wrong.input(X), torch.ones(4, 3)],
    "weight": wrong.weight(CONV),
    "bias": [*wrong.wrong_tensors(ROW[:2]), ROW, ROW[:2, None], ROW[:2].to("meta")],
    "stride": wrong.STEPS,
    "padding": wrong.PADDING,
    **ACTIVATED,
}
_TRANSPOSED: wrong.Table = {**CONVOLVED, "weight": [None, "a", CONV, CONV[0]]}
_EXTRA: wrong.Table = {"output_padding": [*wrong.PADDING, 2]}
_OF_DEFERRED: wrong.Table = {
    f"deferred.{name}": values
    for name, values in {
        "mean": [None, *wrong.parameter(ROW[None]), torch.ones(3, 3), torch.ones(0, 3)],
        "var": [None, *wrong.parameter(ROW[None]), torch.ones(3, 3), torch.ones(0, 3)],
        "weight": wrong.parameter(ROW),
        "bias": wrong.parameter(ROW),
        "eps": wrong.REAL,
        **ACTIVATED,
    }.items()
}
_OF_NORM: wrong.Table = {
    **{f"norm.{name}": wrong.parameter(ROW) for name in ("weight", "bias")},
    **{name: wrong.parameter(ROW) for name in ("running_mean", "running_var")},
    "norm.momentum": wrong.MOMENTUM,
    "norm.eps": [*wrong.REAL, 0.0],
    "norm.training": wrong.FLAG,
    "norm.average_segments": wrong.FLAG,
    "norm.segments": wrong.COUNT,
    "segments": [3],
}
TABLES: dict[str, wrong.Table] = {
    "norm_act": {**NORM, **BATCH, "training": wrong.FLAG},
    "norm_act_eval": {**NORM, "eps": wrong.REAL, **{name: [None] for name in _OWN_NORM[:2]}},
    "instance_norm_act": {**NORM, "use_input_stats": wrong.FLAG, "order": wrong.CHOICE},
    "sync_norm_act": {**NORM, **BATCH, "process_group": ["a", 1, False]},
    "bias_act": {"x": wrong.input(X), "bias": wrong.parameter(ROW), **ACTIVATED},
    "norm_act_conv": {
        **CONVOLVED, **_EXTRA, **_OF_NORM, "transposed": wrong.FLAG, "keep_z": wrong.FLAG,
        "pre_activation": wrong.CHOICE, "pre_slope": wrong.REAL,
        "norm": ["a", 1.0, True, (), tuple(Norm()), torch.ones(3), [], False, 0],
    },
    "norm_act_conv_transpose": {**_TRANSPOSED, **_EXTRA},
    "conv_block": {
        **CONVOLVED, **_EXTRA, **_OF_DEFERRED, "transposed": wrong.FLAG,
        "segments": [*wrong.WHOLE, 3],
        "deferred": ["a", 1.0, True, (), tuple(Deferred()), torch.ones(3), [], False, 0],
    },
    "conv_norm_act": {
        **NORM, **CONVOLVED, "segments": [*wrong.COUNT, 3], "training": wrong.FLAG,
        **{name: wrong.parameter(ROW[:2]) for name in (*_OWN_NORM[:2], "norm_weight", "norm_bias")},
    },
    "conv_transpose_norm_act": {**_TRANSPOSED, **_EXTRA, "segments": wrong.COUNT},
    "gather_images": {
        "images": [None, *wrong.NO_TENSORS, IMAGES.int(), IMAGES.contiguous(), IMAGES[0],
                   IMAGES.to_sparse()],
        "index": [None, *wrong.NO_TENSORS, torch.ones(2), torch.ones(2).int(),
                  torch.ones(2).bool(), torch.ones(2, 1).long(), torch.ones(2).long().to("meta")],
        "flips": [*wrong.NO_TENSORS, torch.ones(2), torch.ones(2).long(), torch.ones(3).bool(),
                  torch.ones(2, 1).bool(), torch.ones(2).bool().to("meta")],
        "dtype": [None, "float32", torch.float64, torch.int32, torch.complex64, float,
                  torch.ones(1), np.float32],
    },
}  # fmt: skip


def _arguments(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The op, and arguments that are right."""
    norm: dict[str, Any] = {"x": X.clone(), "negative_slope": 0.2, "momentum": 0.1, "eps": 1e-5}
    norm |= {key: ROW.clone() for key in _OWN_NORM}
    conv: dict[str, Any] = {"x": X.clone(), "weight": CONV.clone(), "bias": ROW[:2].clone()}
    conv |= {"activation": "leaky_relu"}
    of_norm = *_OWN_NORM[:2], "norm_weight", "norm_bias"
    of_conv = {key: ROW[:2].clone() for key in of_norm} | {"training": True}
    transposed = conv | {"weight": CONV.transpose(0, 1).clone()}
    return {
        "norm_act": (ops.norm_act, norm | {"training": True}),
        "norm_act_eval": (ops.norm_act, norm | {"training": False}),
        "instance_norm_act": (ops.instance_norm_act, norm),
        "sync_norm_act": (sync_norm_act, norm),
        "bias_act": (ops.bias_act, {"x": X.clone(), "bias": ROW.clone()}),
        "norm_act_conv": (
            ops.norm_act_conv,
            conv | {"norm": Norm(*(ROW.clone() for _ in range(4))), "pre_activation": "leaky_relu"},
        ),
        "norm_act_conv_transpose": (ops.norm_act_conv, transposed | {"transposed": True}),
        "conv_block": (
            ops.conv_block,
            conv | {"deferred": Deferred(ROW[None], ROW[None], ROW, ROW, activation="leaky_relu")},
        ),
        "conv_norm_act": (ops.conv_norm_act, conv | of_conv),
        "conv_transpose_norm_act": (ops.conv_transpose_norm_act, transposed | of_conv),
        "gather_images": (
            ops.gather_images,
            {"images": IMAGES, "index": torch.tensor([0, 4]), "flips": torch.tensor([True, False])},
        ),
    }[name]


def _with(given: dict[str, Any], argument: str, value: Any) -> dict[str, Any]:
    whole, _, field = argument.rpartition(".")
    if not whole and argument not in given and "norm" in given:
        whole, field = "norm", argument  # the norm's running statistics are named as they are
        if field not in Norm._fields:
            whole, field = "", argument
    if whole:
        return given | {whole: given[whole]._replace(**{field: value})}
    return given | {argument: value}


@pytest.fixture(params=["reference", "C++", "Python", "operators"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every way of a call: past the dispatcher, with derivatives in C++ or in Python, or by it."""
    if request.param != "reference":
        request.getfixturevalue("native")
    if request.param == "C++" and native.why_no_autograd() is not None:
        pytest.skip(f"no derivatives in C++: {native.why_no_autograd()}")
    if request.param == "Python":
        monkeypatch.setattr(native, "why_no_autograd", lambda: "not asked for")
    if request.param == "operators":
        monkeypatch.setattr(dispatch, "is_eager", lambda *_: False)
    with dispatch.backend("reference" if request.param == "reference" else "auto"):
        yield request.param


@pytest.mark.parametrize("name", TABLES)
def test_what_is_right(name: str, route: str) -> None:
    op, given = _arguments(name)
    results = op(**given)
    for result in results if isinstance(results, tuple) else (results,):
        assert bool(result.isfinite().all())


@pytest.mark.parametrize(("name", "argument"), wrong.cases(TABLES))
def test_what_is_wrong(name: str, argument: str, route: str) -> None:
    op, given = _arguments(name)
    named = argument.rpartition(".")[2]
    wrong.assert_all_refused(
        named, TABLES[name][argument], lambda value: op(**_with(given, argument, value))
    )
    _, fresh = _arguments(name)
    for own, expected in zip(_tensors(given), _tensors(fresh), strict=True):
        assert torch.equal(own, expected), "an argument has changed"


def _tensors(given: dict[str, Any]) -> list[Tensor]:
    values = [*given.values(), *given.get("norm", ())]
    return [value for value in values if isinstance(value, Tensor)]


# What has a meaning is taken, whichever of Python's or numpy's types it comes in.

EQUAL: list[tuple[str, str, Any, Any]] = [
    ("norm_act", "momentum", 1, 1.0),
    ("norm_act", "momentum", 0, 0.0),
    ("norm_act", "momentum", np.float64(0.25), 0.25),
    ("norm_act", "eps", 1, 1.0),
    ("norm_act", "eps", np.float32(0.5), 0.5),
    ("norm_act", "segments", np.int64(2), 2),
    ("norm_act", "negative_slope", 2, 2.0),
    ("norm_act_eval", "eps", 0, 0.0),
    ("bias_act", "negative_slope", np.float32(0.5), 0.5),
    ("norm_act_conv", "stride", (2,), 2),
    ("norm_act_conv", "stride", [2, 1], (2, 1)),
    ("norm_act_conv", "padding", np.int64(1), 1),
    ("norm_act_conv", "padding", (np.int64(1), 2), (1, 2)),
    ("conv_block", "segments", np.int64(2), 2),
    ("conv_block", "stride", torch.Size([2, 1]), (2, 1)),
]


@pytest.mark.parametrize(("name", "argument", "given", "plain"), EQUAL)
def test_what_has_a_meaning(name: str, argument: str, given: Any, plain: Any, route: str) -> None:
    found = []
    for value in (given, plain):
        op, arguments = _arguments(name)
        results = op(**_with(arguments, argument, value))
        moved = [arguments[key] for key in _OWN_NORM[:2] if key in arguments]
        found.append([*(results if isinstance(results, tuple) else (results,)), *moved])
    for own, expected in zip(*found, strict=True):
        assert torch.equal(own, expected)


def test_the_slope_of_another_activation(route: str) -> None:
    """It is not used, and may be anything that is a number."""
    for activation in ("tanh", "relu"):
        z = ops.bias_act(X, ROW, activation=activation, negative_slope=-1)
        assert torch.equal(z, ops.bias_act(X, ROW, activation=activation))


@pytest.mark.parametrize("training", [True, False])
def test_eps_of_zero(training: bool, route: str) -> None:
    """As in torch.nn: only by running statistics."""
    assert torch.equal(
        ops.norm_act(X, ROW, ROW, eps=0.0, activation="identity"),
        ops.norm_act(X, ROW, ROW, eps=0, activation="identity"),
    )
    for norm in (torch.nn.functional.batch_norm, ops.norm_act):
        if training:
            with pytest.raises(ValueError, match="eps"):
                norm(X, ROW.clone(), ROW.clone(), training=True, eps=0.0)
        else:
            assert bool(norm(X, ROW, ROW, training=False, eps=0.0).isfinite().all())


# Memory that several arguments share.


def _norm(op: str) -> Callable[..., Tensor]:
    """A norm in training, of (x, running_mean, running_var, weight, bias)."""
    if op == "norm_act":
        return lambda x, *norm: ops.norm_act(x, *norm, training=True)
    if op == "instance_norm_act":
        return ops.instance_norm_act
    return lambda x, *norm: ops.norm_act_conv(x, torch.ones(2, 3, 1, 1), norm=Norm(*norm))


@pytest.mark.parametrize("op", ["norm_act", "instance_norm_act", "norm_act_conv"])
def test_running_statistics_that_share_memory(op: str, route: str) -> None:
    """Moving one would write over the other argument."""
    if route == "operators":
        pytest.skip("a traced tensor has no memory")
    norm, x, buffer = _norm(op), torch.randn(4, 3, 5, 5), torch.rand(300)
    row, other, third = buffer[:3], buffer[1:4], buffer[2:8:2]
    kept = buffer.clone()
    apart = torch.zeros(3), torch.ones(3)
    for wrong_norm, name in (
        ((row, row), "running_mean"),
        ((row, other), "running_mean"),
        ((other, row), "running_mean"),
        ((third, third), "running_mean"),
        ((row, apart[1], row), "running_mean"),
        ((apart[0], row, None, other), "running_var"),
        ((x.flatten()[5:8], apart[1]), "running_mean"),
        ((apart[0], x.flatten()[-3:]), "running_var"),
        ((torch.zeros(1).expand(3), apart[1]), "running_mean"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            norm(x, *wrong_norm)
    assert torch.equal(buffer, kept)
    # Side by side in one buffer, or by turns, they are apart.
    for right in ((buffer[:3], buffer[3:6]), (buffer[:6:2], buffer[1:6:2])):
        before = [r.clone() for r in right]
        expected = norm(x, *before)
        assert torch.equal(norm(x, *right), expected)
        assert all(map(torch.equal, right, before))
    # In evaluation nothing is written.
    torch.testing.assert_close(
        ops.norm_act(x, row, row), ops.norm_act(x, row.clone(), row.clone()), rtol=0, atol=0
    )


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_that_require_a_gradient(training: bool, route: str) -> None:
    """There is none, and torch.nn refuses it."""
    for i, name in enumerate(("running_mean", "running_var")):
        running = [ROW.clone(), ROW.clone()]
        running[i].requires_grad_()
        for norm in (torch.nn.functional.batch_norm, ops.norm_act):
            kind: tuple[type[Exception], ...] = (RuntimeError,)
            kind = (ValueError,) if norm is ops.norm_act else kind
            with pytest.raises(kind, match=name):
                norm(X, *running, training=training)
            with torch.no_grad():
                norm(X, *[r.detach().clone().requires_grad_() for r in running], training=training)


# Geometry and statistics that torch.nn refuses, too.


@pytest.mark.parametrize("name", ["norm_act_conv", "conv_block"])
def test_an_output_that_no_memory_holds(name: str, route: str) -> None:
    op, given = _arguments(name)
    for padding in (10**6, (0, 10**12), 10**12, 2**62, 2**63):
        with pytest.raises(ValueError, match="padding"):
            op(**given | {"padding": padding})
    given |= {"weight": CONV.transpose(0, 1).clone(), "transposed": True}
    for stride in (10**6, 2**62, 2**63):
        with pytest.raises(ValueError, match="stride"):
            op(**given | {"stride": stride})


def test_a_padding_beyond_the_kernel(route: str) -> None:
    """As torch.nn: its values are those of the bias."""
    y = ops.norm_act_conv(X, CONV, ROW[:2], padding=9)
    assert torch.equal(y[:, :, 0, 0], ROW[:2].expand(4, 2))
    assert y.shape == torch.nn.functional.conv2d(X, CONV, padding=9).shape


@pytest.mark.parametrize("segments", [1, 2])
def test_statistics_of_one_value_a_channel(segments: int, route: str) -> None:
    """torch.nn's batch norm refuses them after the convolution, and so does the block."""
    x = torch.randn(segments, 3, 3, 3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ops.conv_block(x, CONV, segments=segments)
    _, mean, var = ops.conv_block(torch.randn(2 * segments, 3, 3, 3), CONV, segments=segments)
    assert mean.shape == var.shape == (segments, 2)
    assert math.isfinite(float(var.sum()))
