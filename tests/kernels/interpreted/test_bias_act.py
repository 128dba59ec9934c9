"""bias_act in Triton's interpreter against float64, every output poisoned with NaN beforehand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from kernel_case import Case, check_bias_act

from fastgan.kernels import bias_act
from fastgan.kernels.core.geometry import Config

TILED = Config(128, 8, 1)
WHOLE = Config(128, 8, 1, stages=2, single=True)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("activation", [0, 1, 2], ids=["leaky_relu", "tanh", "sigmoid"])
def test_activations(channels_last: bool, activation: int) -> None:
    for config, with_bias in product((TILED, WHOLE, None), (True, False)):
        c = Case((4, 5, 3, 7), channels_last=channels_last, activation=activation, scale=3.0)
        check_bias_act(c, config, with_bias)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_slopes(slope: float) -> None:
    """0 is ReLU and 1 the identity."""
    check_bias_act(Case((4, 5, 3, 3), slope=slope), TILED)


@pytest.mark.parametrize(
    "shape",
    [(33, 7), (16, 3, 4, 4), (16, 1, 4, 4), (5, 2, 1), (6, 12, 5), (8, 9, 2, 2), (2, 5, 3, 4, 5)],
    ids=str,
)
def test_shapes(shape: tuple[int, ...]) -> None:
    for channels_last, config in product((True, False), (TILED, WHOLE, None)):
        check_bias_act(Case(shape, channels_last=channels_last), config)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_configuration(dtype: torch.dtype) -> None:
    # warps and stages mean nothing to the interpreter
    candidates = {(c.tile, c.columns, c.single): c for c in bias_act.configs(dtype)}
    for config in candidates.values():
        check_bias_act(Case((6, 20, 7, 7), dtype, activation=1), config)


def test_tanh_is_as_exact_as_torchs() -> None:
    """Relative error, also where tanh(y) is about y and where it is about 1."""
    y = torch.cat([torch.logspace(-30, 2, 4001), -torch.logspace(-30, 2, 4001)])
    y = torch.cat([y, torch.tensor([0.0, -0.0, 0.625, -0.625])])[None]
    z = bias_act.bias_act(y, None, 1, 0.0)
    truth = torch.tanh(y.double())
    assert (z - truth).abs().le(4 * 2**-23 * truth.abs()).all()


def test_extreme_values_propagate_as_in_torch() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[inf, -inf, nan, 1e30, -1e30, 200.0, -200.0, 0.0]])
    for activation, act in ((0, None), (1, torch.tanh), (2, torch.sigmoid)):
        z = bias_act.bias_act(x, None, activation, 0.2)
        want = torch.nn.functional.leaky_relu(x, 0.2) if act is None else act(x)
        torch.testing.assert_close(z, want, equal_nan=True)
        dx, _ = bias_act.bias_act_backward(torch.ones_like(x), z, activation, 0.2, False)
        leaf = x.clone().requires_grad_()
        out = torch.nn.functional.leaky_relu(leaf, 0.2) if act is None else act(leaf)
        (want_dx,) = torch.autograd.grad(out.sum(), leaf)
        torch.testing.assert_close(dx, want_dx, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    assert bias_act.bias_act(x, torch.zeros(shape[1]), 0, 0.2).shape == x.shape
    dx, dbias = bias_act.bias_act_backward(x, x, 0, 0.2, True)
    assert dx.shape == x.shape
    assert dbias.tolist() == [0.0] * shape[1]


def test_errors() -> None:
    c = Case((4, 3, 4, 4))
    with pytest.raises(TypeError, match="x: expected float32, bfloat16 or float16"):
        bias_act.bias_act(c.x.double(), None, 0, 0.2)
    with pytest.raises(ValueError, match="dz: expected z's shape"):
        bias_act.bias_act_backward(c.dz.contiguous(), c.x, 0, 0.2, True)
