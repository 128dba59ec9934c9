"""PSNR and SSIM against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from fastgan.metrics import Reconstruction, sharpness, video_luma


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


def test_inside_a_mask_only_its_pixels_count():
    images, again = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 2:9, 3:8] = 1
    near = Reconstruction()
    near.update(images, torch.where(mask > 0, again, images), mask)
    inside = (slice(None), slice(None), slice(2, 9), slice(3, 8))
    error = (images[inside] - again[inside]).square().mean().item() / 4
    assert near.psnr() == pytest.approx(-10 * math.log10(error), rel=1e-6)
    far, whole = Reconstruction(), measured([(images, again)])
    far.update(images, again, torch.ones_like(mask))
    assert far.ssim() == pytest.approx(whole.ssim(), rel=1e-6)
    near.update(images, images, mask)
    assert near.ssim() > far.ssim()


def test_video_luma_is_16_to_235_and_flat_images_have_no_sharpness():
    ends = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    luma = (video_luma(ends) + 1) * 127.5
    torch.testing.assert_close(luma[:, 0, 0, 0], torch.tensor([16.0, 235.0]), atol=1e-3, rtol=0)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    images = torch.stack([board.expand(3, 8, 8), torch.zeros(3, 8, 8)])
    assert sharpness(images).tolist() == [4 * 255.0, 0.0]
