"""Colour changes against the composition of their matrices."""

from __future__ import annotations

import math

import torch

from fastgan.augment._color import recolor

AXIS = torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64)


def _turned(angle: float) -> torch.Tensor:
    """Rotation about the axis of greys, as the exponential of its generator."""
    x, y, z = (angle * AXIS).tolist()
    rows = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    return torch.linalg.matrix_exp(torch.tensor(rows, dtype=torch.float64))


def test_as_the_five_changes_one_after_the_other() -> None:
    images = torch.randn(6, 3, 4, 5, dtype=torch.float64)
    offset, gain = torch.randn(6).double(), torch.randn(6).double().exp2()
    luma = torch.tensor([1.0, -1, 1, -1, 1, -1]).double()
    hue, saturation = 3 * torch.randn(6).double(), torch.randn(6).double().exp2()
    actual = recolor(images, offset, gain, luma, hue, saturation)
    grey = torch.outer(AXIS, AXIS)
    eye = torch.eye(3, dtype=torch.float64)
    for i, image in enumerate(images):
        expected = (image + offset[i]) * gain[i]
        if luma[i] < 0:
            expected = torch.einsum("ij,jhw->ihw", eye - 2 * grey, expected)
        expected = torch.einsum("ij,jhw->ihw", _turned(hue[i].item()), expected)
        spread = grey + saturation[i] * (eye - grey)
        torch.testing.assert_close(actual[i], torch.einsum("ij,jhw->ihw", spread, expected))
