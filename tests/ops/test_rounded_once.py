"""Sums are rounded once, with the bias: in half precision the error of many values, not only the
largest, is at most twice that of PyTorch's own layers.

Biases are as large as the sums and of opposite sign, so that what a sum lost by a rounding of its
own would be most of the output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from convolutions import DTYPES, channels_last, torch_convolution
from tolerance import assert_as_exact, assert_as_exact_on_average
from torch import Tensor, nn

import fastgan
from fastgan.nn import FusedSequential
from fastgan.ops import (
    backend,
    conv_block,
    convolution_form,
    norm_act_conv,
)
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core.activation import act
from fastgan.ops.core.tensors import activation_code

HALF = [torch.bfloat16, torch.float16]
ACTIVATIONS = ["identity", "leaky_relu", "tanh", "sigmoid"]
OWN = ["small_channels", "winograd", "bf16", "im2col"]

# (C_in, C_out, size of x, geometry), every kernel of 4 x 4.
CASES = {
    "halving": (32, 48, (8, 6), Geometry((2, 2), (1, 1), (0, 0), False)),
    "doubling": (32, 48, (4, 6), Geometry((2, 2), (1, 1), (0, 0), True)),
    "to image": (32, 3, (6, 5), Geometry((2, 2), (1, 1), (0, 0), True)),
    "from image": (3, 32, (8, 8), Geometry((2, 2), (1, 1), (0, 0), False)),
    "from one": (32, 48, (1, 1), Geometry((1, 1), (0, 0), (0, 0), True)),
    "to one": (32, 16, (4, 4), Geometry((1, 1), (0, 0), (0, 0), False)),
    "apart": (16, 32, (3, 2), Geometry((4, 4), (0, 1), (1, 2), True)),
}
STRIDE_2 = ["halving", "doubling"]
# What runs the convolutions, and which.
RUNS = {
    "auto": list(CASES),
    "small_channels": ["to image", "from image"],
    "bf16": [*STRIDE_2, "apart"],
    "winograd": STRIDE_2,
    "im2col": [*STRIDE_2, "from one", "to one", "apart"],
    "aten": STRIDE_2,
    "reference": STRIDE_2,
    "conv_block": STRIDE_2,
}
DTYPES_OF = {"auto": DTYPES, "bf16": [torch.bfloat16]}
COMBINATIONS = [
    (runs, case, dtype)
    for runs, cases in RUNS.items()
    for case in cases
    for dtype in DTYPES_OF.get(runs, DTYPES[:3])
]


def tensors(
    case: str, dtype: torch.dtype, biased: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """x, weight, bias and the gradient of y, whose numbers a dtype holds."""
    c_in, c_out, size, geometry = CASES[case]
    x = channels_last(float(biased) + 0.3 * torch.randn(8, c_in, *size)).to(dtype)
    order = (c_in, c_out) if geometry.transposed else (c_out, c_in)
    weight = ((float(biased) + torch.randn(*order, 4, 4)) / c_in**0.5).to(dtype)
    y = torch_convolution(x.double(), weight.double(), None, geometry)
    bias = -y.mean((0, 2, 3)).to(dtype) if biased else None
    return x, weight, bias, torch.randn(y.shape).to(dtype)


def hold(name: str, own: Tensor, theirs: Tensor, exact: Tensor, slack: float) -> None:
    assert_as_exact(name, own, theirs, exact, slack=slack)
    if exact.dtype is not own.dtype:  # what is exact in float64 is PyTorch's own
        assert_as_exact_on_average(name, own, theirs, exact)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("runs", "case", "dtype"), COMBINATIONS)
def test_convolutions(
    runs: str,
    case: str,
    dtype: torch.dtype,
    activation: str,
    biased: bool,
    request: pytest.FixtureRequest,
) -> None:
    if runs in OWN:
        request.getfixturevalue("native")
    code, slope = activation_code(activation, 0.2)
    geometry = CASES[case][-1]
    x, weight, bias, dy = tensors(case, dtype, biased)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return act(torch_convolution(x, weight, bias, geometry), code, slope)

    def own(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        spec = {"activation": activation, "negative_slope": slope, **geometry._asdict()}
        if runs == "conv_block":
            return conv_block(x, weight, bias, **spec)[0]
        with backend("reference" if runs == "reference" else "auto"):
            return norm_act_conv(x, weight, bias, **spec)

    def results(function: Callable[..., Tensor], to: torch.dtype) -> list[Tensor]:
        given = [t.to(to).requires_grad_() for t in (x, weight, bias) if t is not None]
        y = function(*given)
        return [y, *torch.autograd.grad(y, given, dy.to(to))]

    forced = {name: name == runs for name in OWN} if runs in (*OWN, "aten") else {}
    with force(**forced):
        found = results(own, dtype), results(theirs, dtype), results(theirs, torch.float64)
    slack = 0.0
    if dtype is torch.float32 and activation in ("tanh", "sigmoid"):
        # The largest error of a sum, which PyTorch's may make where the activation is flat.
        sums = [
            torch_convolution(x.to(d), weight.to(d), None, geometry) for d in (dtype, torch.float64)
        ]
        slack = float((sums[0] - sums[1]).detach().abs().max())
    for name, *values in zip(["y", "dx", "dweight", "dbias"], *found, strict=False):
        hold(name, *values, slack if name == "y" else 0.0)


def layers(activation: nn.Module) -> nn.Sequential:
    """Whose biases and statistics cancel what the convolutions sum up."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), activation,
        nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), activation,
        nn.ConvTranspose2d(64, 32, 4, 2, 1), activation,
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.InstanceNorm2d(32), activation,
        nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    with torch.no_grad():
        x = inputs()
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight += 0.3 * layer.weight.std()
                if layer.bias is not None:
                    layer.bias.zero_()
                    layer.bias -= layer(x).mean((0, 2, 3))
            x = layer(x)
    return model


def inputs() -> Tensor:
    return 1 + 0.3 * torch.randn(8, 3, 16, 16)


def values(model: nn.Module, x: Tensor, penalised: bool) -> list[Tensor]:
    """The output and the gradients, of a penalty on the input's gradient if there is to be one.

    None over few values, which are exact by luck.
    """
    x = x.to(next(model.parameters()).dtype).requires_grad_()
    y = model(x)
    dy = torch.linspace(-1, 1, y.numel()).to(y.dtype).reshape(y.shape)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=penalised, retain_graph=True)
    (dx.square().sum() if penalised else (y * dy).sum()).backward()
    found = [y, dx, *(p.grad for p in model.parameters() if p.grad is not None)]
    return [t for t in found if t.numel() >= 32]


FORMS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "recompute": lambda model: FusedSequential(*model),
    "fused": lambda model: FusedSequential(*model),
    "auto": lambda model: fastgan.fuse(model, prefer="memory"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_outputs_of_chains(dtype: torch.dtype, form: str) -> None:
    model, x = layers(nn.LeakyReLU(0.2)).to(dtype), inputs().to(dtype)
    exact, theirs = copy.deepcopy(model).double()(x.double()), copy.deepcopy(model)(x)
    with convolution_form(form):
        assert_as_exact_on_average("y", FORMS[form](model)(x), theirs, exact)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "penalised"),
    [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, False)],
)
def test_gradients_of_chains(dtype: torch.dtype, penalised: bool, form: str) -> None:
    """Without kinks: on which side of one a value falls is luck, and moves all gradients.

    PyTorch's own second order overflows in float16.
    """
    model, x = layers(nn.Tanh()).to(dtype), inputs().to(dtype)
    exact = values(copy.deepcopy(model).double(), x, penalised)
    theirs = values(copy.deepcopy(model), x, penalised)
    with convolution_form(form):
        own = values(FORMS[form](model), x, penalised)
    for i, found in enumerate(zip(own, theirs, exact, strict=True)):
        assert_as_exact_on_average(f"value {i}", *found)
