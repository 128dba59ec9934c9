"""What the tests of compiled convolutions check: at a precision, and past 2^31 values.

The large cases are run small in Triton's interpreter too, so that on a GPU it is the kernels that
fail, and not the tests.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conv_case import ConvCase
from conv_weight_case import NONE, WeightCase
from tolerance import assert_as_exact, assert_rounded_once
from torch import Tensor

KINDS = [
    (torch.bfloat16, "ieee"),
    (torch.float16, "ieee"),
    (torch.float32, "tf32"),
    (torch.float32, "ieee"),
]


def check(case: ConvCase | WeightCase, precision: str, *configs: Any) -> None:
    """Float32 is held to the rule with PyTorch's own of the precision, TF32 with its TF32."""
    got = case.launch(*configs, precision=precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn.conv, "fp32_precision", precision)
        case.check(got)


def large_blocks(device: str, images: int, side: int, by_door: bool) -> None:
    """Forward and data gradient of a 1x1 convolution, of 64 channels; only the last image counts.

    Args:
        by_door: by conv_block's door instead of the launchers of the gather.
    """
    from fastgan.kernels import conv_block
    from fastgan.kernels.conv_block.forward import Activation, conv_data_gradient, conv_forward
    from fastgan.kernels.conv_block.geometry import conv_geometry

    x = _last_image_alone(device, images, side)
    weight = (torch.randn(64, 64, 1, 1, device=device) / 8).bfloat16()
    spec = ([1, 1], [0, 0], [0, 0], False)
    if by_door:
        no_norm = (None, None, None, None, 1e-5)
        given = (*no_norm, *NONE, *spec, *NONE, 0)
        y, _, _ = conv_block.conv_block_forward(x, weight, None, *given)
        grads = conv_block.conv_block_backward(
            x, None, None, x, y, None, weight, *given, True, False, False
        )
        g_x = grads[0]
    else:
        geo = conv_geometry(x, weight, *spec)
        y, _, _ = conv_forward(x, None, Activation(), weight, None, geo, Activation(), 0)
        g_x, _, _ = conv_data_gradient(x, y, None, Activation(), weight, geo, x, None, Activation())
    last, matrix = x[-1].double().flatten(1), weight[:, :, 0, 0].double()
    for name, found, exact in (("y", y, matrix @ last), ("g_x", g_x, matrix.T @ last)):
        assert_rounded_once(name, found[-1].flatten(1), exact)
        assert (found[0] == 0).all()


def large_weight_gradient(device: str, images: int, side: int) -> None:
    """Of a 1x1 convolution of 64 channels; only the last image counts."""
    from fastgan.kernels.conv_block.forward import Activation
    from fastgan.kernels.conv_block.geometry import conv_geometry
    from fastgan.kernels.conv_block.weight import conv_weight_gradient

    x, g = (_last_image_alone(device, images, side) for _ in range(2))
    weight = torch.empty(64, 64, 1, 1, device=device, dtype=torch.bfloat16)
    geo = conv_geometry(x, weight, [1, 1], [0, 0], [0, 0], False)
    none = Activation()
    g_weight, g_bias = conv_weight_gradient(
        x, None, none, g, None, None, none, weight, geo, True, True
    )
    rows, columns = g[-1].flatten(1), x[-1].flatten(1)
    assert_rounded_once("g_weight", g_weight[:, :, 0, 0], rows.double() @ columns.double().T)
    # Sums that may cancel: their size is that of their terms.
    size = float(rows.double().square().sum(1).sqrt().max())
    exact = rows.double().sum(1)
    assert_as_exact("g_bias", g_bias, rows.float().sum(1), exact, floor=torch.float32, size=size)


def _last_image_alone(device: str, images: int, side: int) -> Tensor:
    options = {"device": device, "dtype": torch.bfloat16, "memory_format": torch.channels_last}
    x = torch.empty(images, 64, side, side, **options).zero_()
    x[-1].normal_()
    return x
