"""ADA: the pipeline's identities and distributions, and the control of p."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan.augment import ADA, Chain, DiffAugment, InstanceNoise, get_augmentation
from fastgan.regularizers import r1

PARTS = ("blit", "geometry", "color", "filter", "noise", "cutout")
ALL = dict.fromkeys(PARTS, True)


def _only(part: str, p: float = 1.0) -> ADA:
    return ADA(target=None, p=p, **{name: name == part for name in PARTS})


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 2, 6, 9), (4, 3, 8, 8), (4, 5, 7, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_at_p_zero_images_pass_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = torch.randn(shape, dtype=dtype)
    passed = ADA(**ALL)(images)
    assert torch.equal(passed, images)
    assert passed.dtype == dtype


@pytest.mark.parametrize("part", PARTS)
def test_p_is_the_chance_of_a_change(part: str) -> None:
    images = torch.randn(1500, 3, 6, 6)
    changed = (_only(part, p=0.25)(images) != images).flatten(1).any(1).float().mean().item()
    untouched = {
        # Flips: one of two. Turns: three of four. Moves: round(U(-¾, ¾)) is 0 in four of nine.
        "blit": (1 - 0.25 / 2) * (1 - 0.25 * 3 / 4) * (1 - 0.25 * 5 / 9),
        "geometry": 0.75**4,  # p is the chance of either rotation
        "color": 0.75**4 * (1 - 0.25 / 2),
        "filter": 0.75**4,
        "noise": 0.75,
        "cutout": 0.75,
    }[part]
    assert changed == pytest.approx(1 - untouched, abs=0.04)


def test_blit_draws_each_orientation_alike() -> None:
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 7, 8], image[0, 0, 7, 7] = 1, 2  # an arrow at the centre
    blitted = _only("blit")(image.expand(4000, -1, -1, -1))
    # The arrow's direction tells the turn, its head's place the move.
    _, _, y1, x1 = (blitted == 1).nonzero(as_tuple=True)
    _, _, y2, x2 = (blitted == 2).nonzero(as_tuple=True)
    direction = (y2 - y1) * 2 + (x2 - x1)
    for way in (-2, -1, 1, 2):
        assert (direction == way).float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert (y1 - 7).abs().max() <= 3  # a turn by one and a move by two, an eighth of 16
    assert (y1 + x1 + y2 + x2).float().std() > 1


def test_images_that_are_not_square_are_turned_by_half_turns_only() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4).expand(400, -1, -1, -1)
    blitted = _only("blit")(image)  # an eighth of 4 pixels rounds to none or one
    rows = [sorted(row.tolist()) for row in image[0, 0]]
    still = [b for b in blitted[:, 0] if len(b.unique()) == 12]
    assert len(still) > 20
    assert all(sorted(row.tolist()) in rows for b in still for row in b)


def test_geometry_draws_as_the_paper() -> None:
    # Ramps show the inverse map: their slopes are its linear part, their middle its constant.
    x = (torch.arange(32.0) + 0.5 - 16).expand(32, 32)
    ramps = torch.stack([x, x.T]).double().expand(600, -1, -1, -1)
    warped = _only("geometry")(ramps)
    middle = warped[:, :, 15:17, 15:17]
    dx = (middle[..., 1] - middle[..., 0]).mean(-1)
    dy = (middle[..., 1, :] - middle[..., 0, :]).mean(-1)
    linear = torch.stack([dx, dy], -1)
    constant = middle.mean((2, 3))
    # Moves by N(0, (32 / 8)²); those that bring an edge near the middle are left out.
    shift = -torch.linalg.solve(linear, constant)
    calm = (constant.abs() < 6).all(1)
    assert 0.3 < calm.double().mean() < 0.95
    determinant = torch.linalg.det(linear[calm])
    assert (determinant > 0).all()
    # The determinant is scale⁻², log2 scale ~ N(0, 0.2²)
    log_scale = -determinant.log2() / 2
    assert log_scale.mean().item() == pytest.approx(0, abs=0.05)
    assert log_scale.std().item() == pytest.approx(0.2, abs=0.03)
    # The singular values' ratio is stretch², log2 stretch ~ N(0, 0.2²)
    values = torch.linalg.svdvals(linear[calm])
    log_stretch = (values[:, 0] / values[:, 1]).log2() / 2
    assert log_stretch.square().mean().sqrt().item() == pytest.approx(0.2, abs=0.03)
    # Two rotations by any angle
    angle = torch.atan2(
        linear[calm, 1, 0] - linear[calm, 0, 1], linear[calm].diagonal(0, 1, 2).sum(1)
    )
    assert torch.stack([angle.cos().mean(), angle.sin().mean()]).abs().max() < 0.2
    assert shift[calm].std() > 2


def test_brightness_and_contrast_draw_as_the_paper() -> None:
    images = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(5000, 2, 1, 2)
    colored = _only("color")(images)
    gain = colored[:, 0, 0, 1] - colored[:, 0, 0, 0]
    offset = colored[:, 0, 0, 0] / gain
    assert torch.equal(colored[:, 0], colored[:, 1])
    assert offset.mean().item() == pytest.approx(0, abs=0.01)
    assert offset.std().item() == pytest.approx(0.2, rel=0.05)
    assert gain.log2().mean().item() == pytest.approx(0, abs=0.03)
    assert gain.log2().std().item() == pytest.approx(0.5, rel=0.05)


def test_luma_hue_and_saturation_draw_as_the_paper() -> None:
    black, red = torch.zeros(3), torch.tensor([1.0, 0, 0])
    images = torch.stack([black, red], -1).view(1, 3, 1, 2).expand(5000, -1, -1, -1)
    colored = _only("color")(images)
    red = (colored[..., 1] - colored[..., 0]).squeeze(2)
    luma = red.mean(1, keepdim=True)
    chroma = red - luma
    assert (luma < 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    saturation = chroma.norm(dim=1) / (luma[:, 0].abs() * math.sqrt(6))
    assert saturation.log2().mean().item() == pytest.approx(0, abs=0.06)
    assert saturation.log2().std().item() == pytest.approx(1, rel=0.05)
    unit = chroma / chroma.norm(dim=1, keepdim=True)
    assert unit.mean(0).abs().max() < 0.05  # any hue


def test_noise_and_cutout_draw_as_the_paper() -> None:
    images = torch.ones(3000, 1, 8, 8)
    strength = (_only("noise")(images) - 1).square().mean((1, 2, 3))
    assert strength.mean().item() == pytest.approx(0.01, rel=0.1)  # E (0.1 |N(0, 1)|)²
    hidden = (_only("cutout")(images) == 0).float()
    assert hidden.mean((0, 1))[3:5, 3:5].min() == pytest.approx(0.25, abs=0.04)
    assert hidden.sum((1, 2, 3)).max() == 0.25 * 64  # half of either side


def test_p_follows_the_signs_of_real_logits() -> None:
    ada = ADA(target=0.5, kimg=0.1, interval=2)
    confident, unsure = torch.tensor([1.0, 2, 3, -1, 5, 6, 7, 8]), torch.tensor([1.0, -1])
    ada.update(confident)
    assert ada.p == 0  # not yet due
    ada.update(confident)  # r = 3/4
    assert ada.p.item() == pytest.approx(16 / 100)
    ada.update(confident)
    ada.update(unsure)  # r = 3/8
    assert ada.p.item() == pytest.approx(6 / 100)
    ada.update(unsure)
    ada.update(unsure.repeat(100, 1))  # patches count by their mean, images by their number
    assert ada.p == 0  # and not below
    for _ in range(20):
        ada.update(confident)
    assert ada.p == 1  # and not above
    assert ada.signs == ada.updates == ada.images == 0


def test_without_a_target_p_stays() -> None:
    ada = ADA(target=None, p=0.3)
    for _ in range(8):
        ada.update(torch.ones(100_000))
    assert ada.p.item() == pytest.approx(0.3)


def test_state_is_its_future() -> None:
    first = ADA(kimg=0.05)
    for _ in range(6):  # in the middle of an interval
        first.update(torch.ones(8))
    second = ADA(kimg=0.05)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert set(first.state_dict()) == {"p", "signs", "updates", "images"}
    images = torch.randn(8, 3, 8, 8)
    results = []
    for ada in (first, second):
        torch.manual_seed(1)
        for _ in range(3):
            ada.update(torch.ones(8))
        results.append((ada.p.clone(), ada(images)))
    assert all(map(torch.equal, *results))
    assert results[0][0] > 0


def test_gradients() -> None:
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    ada = ADA(p=0.9, **ALL)

    def augmented(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return ada(x).square()

    assert torch.autograd.gradcheck(augmented, (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(augmented, (images,), fast_mode=True)


def test_nothing_waits_for_the_device(no_host_sync: Any) -> None:
    ada, images = ADA(p=0.5, **ALL), torch.randn(4, 3, 8, 8, requires_grad=True)
    weight = torch.randn(3 * 64, requires_grad=True)
    with no_host_sync():
        logits = ada(images).flatten(1) @ weight
        logits.sum().backward()
        r1(lambda x: (ada(x).flatten(1) @ weight).square(), images).backward()
        ada.update(logits)
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()


def test_autocast_does_not_round_images() -> None:
    ada, images = ADA(p=0.8, **ALL), torch.randn(4, 3, 8, 8)
    results = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(ada(images))
    assert torch.equal(*results)


def test_a_chain_is_one_after_the_other() -> None:
    chain = Chain(DiffAugment("color"), InstanceNoise(steps=2), ADA(p=0.5, interval=1, kimg=0.01))
    images = torch.randn(4, 3, 8, 8)
    torch.manual_seed(5)
    expected = images
    for part in chain.augmentations:
        expected = part(expected)
    torch.manual_seed(5)
    assert torch.equal(chain(images), expected)
    chain.update(torch.ones(4))
    assert chain.augmentations[1].updates == 1
    assert chain.augmentations[2].p == pytest.approx(0.9)
    with pytest.raises(TypeError, match=r"augmentations\[1\] must be an Augmentation, got ReLU"):
        Chain(DiffAugment(), torch.nn.ReLU())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'adaa'; did you mean 'ada'"):
        get_augmentation("adaa")
    with pytest.raises(ValueError, match="there are ada, diffaugment, instance_noise"):
        get_augmentation("none")
    with pytest.raises(ValueError, match=r"target must lie in \(-1, 1\) or be None, got 1"):
        ADA(target=1)
    with pytest.raises(ValueError, match="kimg must be a positive number, got 0"):
        ADA(kimg=0)
    with pytest.raises(ValueError, match="interval must be at least 1, got 0"):
        ADA(interval=0)
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got 1.5"):
        ADA(p=1.5)
    with pytest.raises(ValueError, match=r"images must have shape \[N, C, H, W\]"):
        ADA()(torch.zeros(3, 4))
