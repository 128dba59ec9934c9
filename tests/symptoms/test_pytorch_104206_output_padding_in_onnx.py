"""output_padding of a transposed convolution is kept in ONNX, alone and before a folded norm."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx
from torch import nn

from fastgan.fusion import export

pytestmark = NEEDS_ONNX

CASES = {
    "1d": ([nn.ConvTranspose1d(3, 4, 3, 2, 1, output_padding=1), nn.BatchNorm1d(4)], (3, 5)),
    "2d": (
        [nn.ConvTranspose2d(3, 4, 3, (2, 3), 1, output_padding=(1, 2)), nn.BatchNorm2d(4)],
        (3, 5, 4),
    ),
    "2d alone": ([nn.ConvTranspose2d(3, 4, 4, 3, output_padding=2), nn.ReLU()], (3, 4, 4)),
    "groups": (
        [nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), nn.BatchNorm2d(6)],
        (4, 4, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_size_and_the_values_are_torchs(name: str, tmp_path: Path):
    layers, shape = CASES[name]
    model = nn.Sequential(*copy.deepcopy(layers)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(3, *shape)
    assert_onnx(export(model, (x,), tmp_path / "model.onnx"), model, x)
