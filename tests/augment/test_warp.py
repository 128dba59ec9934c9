"""Affine resampling against functions that are known everywhere."""

from __future__ import annotations

import math

import pytest
import torch
from tolerance import within
from torch import Tensor

from fastgan.augment._pixels import blit
from fastgan.augment._warp import SYM6, warp

TAPS = torch.tensor(SYM6, dtype=torch.float64)


def _affine(angle: float, scale: float, stretch: float, dx: float, dy: float) -> Tensor:
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    rows = [[cos * stretch, -sin * stretch, dx], [sin / stretch, cos / stretch, dy]]
    return torch.tensor(rows, dtype=torch.float64)


MAPS = torch.stack(
    [
        _affine(0.0, 1.0, 1.0, 0.3, -1.7),
        _affine(0.4, 1.0, 1.0, 0.0, 0.0),
        _affine(-1.9, 1.3, 0.9, 2.0, 1.0),
        _affine(3.0, 0.8, 1.2, -1.0, 0.5),
    ]
)


def _centred(height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y of the pixels, from the image's centre."""
    x = torch.arange(width, dtype=torch.float64) + 0.5 - width / 2
    y = torch.arange(height, dtype=torch.float64) + 0.5 - height / 2
    return x.expand(height, width), y.view(-1, 1).expand(height, width)


def _mapped(inverse: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    m = inverse[..., None, None]
    return (
        m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2],
        m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2],
    )


def test_the_filter_is_the_orthogonal_one_with_six_vanishing_moments() -> None:
    index = torch.arange(12, dtype=torch.float64)
    torch.testing.assert_close(TAPS.sum().item(), math.sqrt(2))
    for shift in range(6):
        product = (TAPS[2 * shift :] * TAPS[: 12 - 2 * shift]).sum().item()
        assert product == pytest.approx(float(shift == 0), abs=1e-11)
    for moment in range(6):
        alternating = ((-1) ** index * index**moment * TAPS).sum().item()
        assert alternating == pytest.approx(0, abs=1e-11 * 11.0**moment)


def test_the_identity_gives_every_pixel_back() -> None:
    images = torch.randn(3, 2, 9, 14, dtype=torch.float64)
    identity = torch.eye(2, 3, dtype=torch.float64).expand(3, 2, 3)
    torch.testing.assert_close(
        warp(images, identity, TAPS), images, **within(torch.float64, 0, 100)
    )


def test_a_ramp_stays_a_ramp() -> None:
    height, width = 48, 56
    x, y = _centred(height, width)
    ramp = 0.3 * x - 0.7 * y + 2
    from_x, from_y = _mapped(MAPS, x, y)
    warped = warp(ramp.expand(len(MAPS), 1, height, width), MAPS, TAPS)[:, 0]
    # Where all that the filters see lies inside the image.
    inside = (from_x.abs() < width / 2 - 9) & (from_y.abs() < height / 2 - 9)
    inside &= (x.abs() < width / 2 - 3) & (y.abs() < height / 2 - 3)
    assert inside.flatten(1).sum(1).min() > 300
    expected = 0.3 * from_x - 0.7 * from_y + 2
    torch.testing.assert_close(warped[inside], expected[inside], **within(torch.float64, 0, 1000))


def test_a_mirrored_wave_goes_on_beyond_the_edges() -> None:
    # The mirror image continues a cosine that has a crest on either edge.
    height, width = 24, 32
    x, y = _centred(height, width)

    def wave(x: Tensor, y: Tensor) -> Tensor:
        in_x = torch.cos(math.pi * (x / width + 0.5))
        return in_x * torch.cos(math.pi * (y / height + 0.5))

    far = torch.cat([MAPS, _affine(0.7, 1.0, 1.0, 1.5 * width, -2.2 * height)[None]])
    warped = warp(wave(x, y).expand(len(far), 1, height, width), far, TAPS)[:, 0]
    # Bilinear interpolation at half a pixel errs by an eighth of the second derivative times a
    # quarter; the downsampling weighs these errors with its taps.
    bound = ((math.pi / width) ** 2 + (math.pi / height) ** 2) / 32
    bound *= (TAPS.abs().sum().item() / math.sqrt(2)) ** 2
    expected = wave(*_mapped(far, x, y))
    torch.testing.assert_close(warped, expected, rtol=0, atol=bound)


def test_whole_pixels_are_moved_as_by_blit() -> None:
    images = torch.randn(2, 3, 30, 26, dtype=torch.float64)
    right, down = torch.tensor([3, -2]), torch.tensor([-1, 4])
    inverse = torch.eye(2, 3, dtype=torch.float64).repeat(2, 1, 1)
    inverse[:, 0, 2], inverse[:, 1, 2] = -right, -down
    none = torch.zeros(2, dtype=torch.int64)
    expected = blit(images, none.bool(), none, down, right)
    inner = (..., slice(9, -9), slice(9, -9))
    torch.testing.assert_close(
        warp(images, inverse, TAPS)[inner], expected[inner], **within(torch.float64, 0, 1000)
    )


def test_gradients() -> None:
    images = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    squared = lambda x: warp(x, MAPS[1:3], TAPS).square()  # noqa: E731
    assert torch.autograd.gradcheck(squared, (images,))
    assert torch.autograd.gradgradcheck(squared, (images,))


def test_transforms_see_a_linear_map() -> None:
    """jvp gives the map of the tangent, to any depth, and grad its adjoint; vmap maps each."""
    x, v = (torch.randn(4, 3, 8, 8, dtype=torch.float64) for _ in range(2))
    y, pushed = torch.func.jvp(lambda x: warp(x, MAPS, TAPS), (x,), (v,))
    torch.testing.assert_close(pushed, warp(v, MAPS, TAPS))
    u = torch.randn_like(y)
    (pulled,) = torch.func.vjp(lambda x: warp(x, MAPS, TAPS), x)[1](u)
    torch.testing.assert_close((pulled * v).sum(), (pushed * u).sum())
    second = torch.func.hessian(lambda t: warp(x + t * v, MAPS, TAPS).pow(2).sum())
    torch.testing.assert_close(second(torch.zeros(()).double()), 2 * pushed.pow(2).sum())
    each = torch.func.vmap(lambda x: warp(x, MAPS, TAPS))(torch.stack([x, v]))
    torch.testing.assert_close(each, torch.stack([y, pushed]))
