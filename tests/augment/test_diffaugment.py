"""DiffAugment: what each part does to every image, and how its strengths are distributed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgan.augment import DiffAugment, get_augmentation
from fastgan.augment.diffaugment import brightness, contrast, cutout, saturation, translation


def _is_uniform(values: torch.Tensor, low: float, high: float) -> bool:
    """By the first two moments and the ends, to five standard errors of some thousand values."""
    unit = (values - low) / (high - low)
    rough = 5 * len(values) ** -0.5
    moments = abs(unit.mean() - 0.5) < 0.3 * rough and abs(unit.var() - 1 / 12) < 0.1 * rough
    return bool(moments and 0 <= unit.min() < 0.01 and 0.99 < unit.max() <= 1)


def test_brightness_adds_a_number_to_an_image() -> None:
    images = torch.randn(4000, 2, 3, 3, dtype=torch.float64)
    added = brightness(images) - images
    torch.testing.assert_close(added, added[:, :1, :1, :1].expand_as(added))
    assert _is_uniform(added[:, 0, 0, 0], -0.5, 0.5)


def test_contrast_scales_about_the_mean_of_an_image() -> None:
    images = torch.randn(4000, 2, 3, 3, dtype=torch.float64)
    mean = images.mean((1, 2, 3), keepdim=True)
    factor = (contrast(images) - mean) / (images - mean)
    torch.testing.assert_close(factor, factor[:, :1, :1, :1].expand_as(factor))
    assert _is_uniform(factor[:, 0, 0, 0], 0.5, 1.5)


def test_saturation_scales_about_the_mean_of_a_pixel() -> None:
    images = torch.randn(4000, 3, 2, 2, dtype=torch.float64)
    mean = images.mean(1, keepdim=True)
    factor = (saturation(images) - mean) / (images - mean)
    torch.testing.assert_close(factor, factor[:, :1, :1, :1].expand_as(factor))
    assert _is_uniform(factor[:, 0, 0, 0], 0.0, 2.0)
    grey = images[:, :1]
    assert torch.equal(saturation(grey), grey)


def test_translation_goes_everywhere_it_may() -> None:
    images = torch.zeros(2000, 1, 16, 24)
    images[:, :, 8, 12] = 1
    moved = translation(images)
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(2000))
    _, _, row, column = moved.nonzero(as_tuple=True)
    assert row.unique().tolist() == list(range(6, 11))  # 16 / 8
    assert column.unique().tolist() == list(range(9, 16))  # 24 / 8
    assert row.bincount()[6:].min() > 2000 / 5 * 0.8
    assert torch.corrcoef(torch.stack([row, column]).double())[0, 1].abs() < 0.1
    assert torch.equal(translation(images, ratio=0.0), images)


@pytest.mark.parametrize(("ratio", "size"), [(0.5, (8, 6)), (0.3, (5, 4)), (0.0, (0, 0))])
def test_cutout_zeroes_one_rectangle(ratio: float, size: tuple[int, int]) -> None:
    images = torch.ones(2000, 2, 16, 12)
    hidden = cutout(images, ratio) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
    assert torch.equal(hidden[:, 0], rows[:, :, None] & columns[:, None])
    for lines, whole in ((rows, size[0]), (columns, size[1])):
        count = lines.sum(1)
        changes = (lines[:, 1:] != lines[:, :-1]).sum(1)
        assert changes.max() <= 2  # one run of lines
        assert count.max() == whole
        # Anywhere, so over an edge at times; its centre is inside, so half of it is as well.
        assert whole // 2 <= count.min() <= whole // 2 + 1
    if ratio:
        assert hidden.flatten(2).any(0)[0].all()  # each pixel at some time


def test_policy() -> None:
    images = torch.rand(4, 3, 8, 8) + 1
    assert torch.equal(DiffAugment("")(images), images)
    moved = DiffAugment("translation,cutout", translation=0.25, cutout=0.25)(images)
    kept = moved != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.isin(moved[kept], images).all()
    assert repr(DiffAugment("color, cutout")) == "DiffAugment(color,cutout)"
    assert isinstance(get_augmentation("diffaugment", policy="color"), DiffAugment)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_channels_and_dtype(channels: int, dtype: torch.dtype, no_host_sync: Any) -> None:
    images = torch.randn(3, channels, 6, 9, dtype=dtype, requires_grad=True)
    with no_host_sync():
        changed = DiffAugment()(images)
        changed.sum().backward()
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_draws_follow_the_seed() -> None:
    images, augment = torch.randn(4, 3, 8, 8), DiffAugment()
    first, other = augment(images), augment(images)
    torch.manual_seed(0)
    torch.randn(4, 3, 8, 8)
    assert torch.equal(augment(images), first)
    assert not torch.equal(other, first)


def test_gradients() -> None:
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def augmented(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return DiffAugment()(x).square()

    assert torch.autograd.gradcheck(augmented, (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(augmented, (images,), fast_mode=True)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="policy: unknown part 'colour'; there are color, tr"):
        DiffAugment("colour")
    with pytest.raises(ValueError, match=r"translation must lie in \[0, 1\], got 2"):
        DiffAugment(translation=2)
    with pytest.raises(ValueError, match=r"cutout must lie in \[0, 1\], got -1"):
        DiffAugment(cutout=-1)
    augment = DiffAugment()
    with pytest.raises(ValueError, match=r"images must have shape \[N, C, H, W\] and not be empty"):
        augment(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"not be empty, got \[0, 3, 8, 8\]"):
        augment(torch.zeros(0, 3, 8, 8))
    with pytest.raises(TypeError, match=r"images must be floating point, got torch\.uint8"):
        augment(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
