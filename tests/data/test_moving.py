"""Films of moving digits."""

from __future__ import annotations

import pytest
import torch

from fastgan.data import normalised, open_volumes
from fastgan.data.moving import SPEEDS, make_moving_digits
from fastgan.recipes.video_gan import motion_of


def test_digits_move_evenly_and_stay_inside():
    data = open_volumes("moving-digits", (12, 24, 32), 40, seed=3)
    assert data.shape == (40, 1, 12, 24, 32)
    assert data.labels is None
    films = data.images[:, 0].double()
    # Nothing of a digit is lost at the sides, and only its place changes.
    light = films.sum((2, 3))
    assert (light == light[:, :1]).all()
    motion = motion_of(normalised(data.images, data.value_range))
    # Places are rounded to pixels; a bounce within a frame shortens the way.
    assert motion["speed"].max() < SPEEDS[1] + 0.5
    assert motion["speed"].median() > SPEEDS[0]
    assert motion["change"].min() > 0


def test_a_seed_makes_the_same_films():
    prints = [make_moving_digits(3, (2, 16, 16), seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    with pytest.raises(ValueError, match="shape must be at least 8, got 4"):
        make_moving_digits(3, (2, 16, 4))


def test_motion_of_films_that_are_known():
    films = torch.full((2, 1, 3, 8, 8), -1.0)
    for t in range(3):
        films[0, 0, t, 2, 2 * t] = 1
        films[1, 0, t, 4, 4] = 1
    found = {name: values.tolist() for name, values in motion_of(films).items()}
    assert found["speed"] == pytest.approx([2, 0])
    assert found["change"] == pytest.approx([100 * 2 / 64, 0])
    assert found["brightness"] == pytest.approx([100 / 64] * 2)
