"""PSNR and SSIM against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from fastgan.metrics import Reconstruction


def measured(pairs) -> Reconstruction:
    near = Reconstruction()
    for images, again in pairs:
        near.update(images, again)
    return near


def test_psnr_is_of_the_mean_error_of_all_images():
    images = torch.zeros(4, 1, 16, 16)
    errors = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1, 1)
    near = measured((images[i : i + 2], images[i : i + 2] + errors[i : i + 2]) for i in (0, 2))
    expected = 10 * math.log10(2**2 / errors.square().mean().item())  # of a range of 2
    assert near.psnr() == pytest.approx(expected, rel=1e-6)


def test_ssim_is_the_papers():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (24, 24))
    y = (x + 0.1 * rng.normal(size=x.shape)).clip(0, 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=3.5, mode="mirror")

    c1, c2 = 0.01**2, 0.03**2
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    top = (2 * mx * my + c1) * (2 * vxy + c2)
    expected = (top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    images, again = (torch.from_numpy(2 * v - 1)[None, None] for v in (x, y))
    assert measured([(images, again)]).ssim() == pytest.approx(expected, rel=1e-6)
    assert measured([(images, images)]).ssim() == pytest.approx(1)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="images and again must have one shape"):
        Reconstruction().update(torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16))
