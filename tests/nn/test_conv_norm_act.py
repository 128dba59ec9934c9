"""The convolution block modules and functions against the torch.nn modules they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dcgan64
import pytest
import torch
from tolerance import within
from torch import Tensor, nn

import fastgan.nn as fnn
from fastgan.nn.recording import recording
from fastgan.ops import conv_norm_act, conv_transpose_norm_act

CONV = {
    (1, False): (fnn.ConvNormAct1d, nn.Conv1d),
    (2, False): (fnn.ConvNormAct2d, nn.Conv2d),
    (3, False): (fnn.ConvNormAct3d, nn.Conv3d),
    (1, True): (fnn.ConvTransposeNormAct1d, nn.ConvTranspose1d),
    (2, True): (fnn.ConvTransposeNormAct2d, nn.ConvTranspose2d),
    (3, True): (fnn.ConvTransposeNormAct3d, nn.ConvTranspose3d),
}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def data(dims: int) -> Tensor:
    return torch.randn(4, 3, *(6, 5, 7)[:dims]).double()


@pytest.mark.parametrize("norm", ["batch", "instance", None])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_separate_modules(dims: int, transposed: bool, norm: str | None) -> None:
    own_class, conv_class = CONV[dims, transposed]
    geometry = (3, 5, 3, 2, 1)
    conv = conv_class(*geometry)
    norms: dict[str | None, Callable[[], list[nn.Module]]] = {
        "batch": lambda: [BATCH[dims](5)],
        "instance": lambda: [INSTANCE[dims](5, affine=True)],
        None: lambda: [],
    }
    plain = dcgan64.shake(nn.Sequential(conv, *norms[norm](), nn.LeakyReLU(0.2))).double()
    own = own_class(*geometry, norm=norm, negative_slope=0.2).double()
    own.load_state_dict(plain.state_dict())
    names = {"0": "conv", "1": "norm"}
    renamed = {f"{names[k[0]]}{k[1:]}": v for k, v in plain.state_dict().items()}
    assert list(own.state_dict()) == list(renamed)
    own.load_state_dict(renamed)
    x = data(dims)
    cotangent = torch.randn(conv(x).shape).double()
    found, expected = (dcgan64.trace(m, x, cotangent) for m in (own, plain))
    for (name, a), b in zip(found.items(), expected.values(), strict=True):
        torch.testing.assert_close(a, b, **within(torch.float64, 1000, 10), msg=name)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_functions_equal_modules(dims: int, transposed: bool, training: bool) -> None:
    conv = CONV[dims, transposed][1](3, 4, 3, 2, 1).double()
    norm = BATCH[dims](4, momentum=0.3).double()
    plain = nn.Sequential(conv, norm, nn.Tanh()).train(training)
    running = norm.running_mean.clone(), norm.running_var.clone()
    function: Any = conv_transpose_norm_act if transposed else conv_norm_act
    x = data(dims)
    y = function(
        x, conv.weight, conv.bias, *running, norm.weight, norm.bias, training, 0.3, stride=2,
        padding=1, activation="tanh",
    )  # fmt: skip
    torch.testing.assert_close(y, plain(x))
    torch.testing.assert_close(running, (norm.running_mean, norm.running_var))


def test_a_chain_of_modules_defers_its_norms() -> None:
    chain = fnn.FusedSequential(
        fnn.ConvNormAct2d(3, 8, 4, 2, 1), fnn.ConvTransposeNormAct2d(8, 4, 4, 2, 1)
    )
    with recording() as records:
        chain(torch.randn(4, 3, 8, 8))
    assert [r.block.names for r in records] == [
        ("0.conv",), ("0.norm", "1.conv"), ("1.norm",)
    ]  # fmt: skip


def test_segments() -> None:
    own = fnn.ConvNormAct2d(3, 4, 3, segments=2)
    twin = fnn.ConvNormAct2d(3, 4, 3)
    twin.load_state_dict(own.state_dict())
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(own(x), torch.cat([twin(part) for part in x.chunk(2)]))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: fnn.ConvNormAct2d(4, 4, 3, dilation=2), "dilation: expected 1"),
        (lambda: fnn.ConvTransposeNormAct2d(4, 4, 3, groups=2), "groups: expected 1, got 2"),
        (lambda: fnn.ConvNormAct2d(4, 4, 3, norm="layer"), "norm: 'layer' is not one of"),
        (lambda: fnn.ConvNormAct2d(4, 4, 3, activation="gelu"), "activation"),
        (lambda: fnn.ConvNormAct2d(4, 4, 3, norm=None, activation="gelu"), "activation"),
        (lambda: fnn.ConvNormAct2d(4, 4, 3)(torch.ones(2, 3, 8, 8)), "x: expected 4 channels"),
    ],
)
def test_errors(build: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()


def test_devices_and_dtypes_of_construction() -> None:
    block = fnn.ConvNormAct2d(3, 4, 3, device="meta", dtype=torch.float64)
    assert all(p.is_meta and p.dtype is torch.float64 for p in block.parameters())
