"""Pictures that move."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.engine import pictures
from fastgan.engine.film import save_film
from fastgan.engine.grid import make_grid
from fastgan.engine.latents import closed_walk, draw_noise

from .test_inversion import Linear


def _frames(count: int = 4, side: int = 9) -> list[np.ndarray]:
    values = np.linspace(0, 255, count).astype(np.uint8)
    return [np.full((side, side, 3), value) for value in values]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_frames_come_back(suffix, tmp_path):
    path = save_film(_frames(), tmp_path / "new" / f"film.{suffix}", 0.1)
    with Image.open(path) as film:
        found = []
        for frame in range(film.n_frames):
            film.seek(frame)
            found.append(int(np.asarray(film.convert("L"))[4, 4]))
    assert found == pytest.approx([0, 85, 170, 255], abs=4)  # WebP is lossy


@pytest.mark.skipif(
    importlib.util.find_spec("av") is None or importlib.util.find_spec("imageio") is None,
    reason="needs fastgan[video]",
)
def test_mp4(tmp_path):
    import imageio.v3

    path = save_film(_frames(side=33), tmp_path / "film.mp4", 0.1)
    again = imageio.v3.imread(path, plugin="pyav")
    assert again.shape == (4, 32, 32, 3)
    assert again[:, 16, 16, 0].tolist() == pytest.approx([0, 85, 170, 255], abs=8)


def test_what_a_film_refuses(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a film is one of \.gif, \.webp, \.png, \.mp4"):
        save_film(_frames(), tmp_path / "film.avi", 0.1)
    with pytest.raises(ValueError, match="frames, all of one size"):
        save_film(_frames() + _frames(side=8), tmp_path / "film.gif", 0.1)
    with pytest.raises(ValueError, match="frames, all of one size"):
        save_film([], tmp_path / "film.gif", 0.1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastgan\[video\]'"):
        save_film(_frames(), tmp_path / "film.mp4", 0.1)
    assert not list(tmp_path.iterdir())


def test_a_walk_passes_its_points_and_closes():
    points = torch.randn(3, 2, 5)
    way = closed_walk(points, 4)
    assert way.shape == (12, 2, 5)
    torch.testing.assert_close(way[::4], points)
    steps = (way - way.roll(1, 0)).norm(dim=2)
    assert steps.max() < 4 * steps.mean()


def test_a_walk_is_a_film_of_grids(tmp_path):
    generator = Linear()
    path = pictures.walk(
        generator, tmp_path / "walk.png", rows=1, columns=2, points=2, frames=3, seed=4
    )
    first = generator(draw_noise(generator, 4, 4)[:2]).detach()
    with Image.open(path) as film:
        assert film.n_frames == 6
        shown = torch.from_numpy(np.asarray(film.convert("RGB")).copy())
    scale = shown.shape[0] // 6
    assert torch.equal(shown[::scale, ::scale], make_grid(first, 2))


def test_what_a_walk_refuses(tmp_path):
    for wrong, message in (
        ({"points": 1}, "points must be at least 2, got 1"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"seconds": 0.0}, "seconds must lie in"),
        ({"truncation": -1.0}, "truncation must be a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            pictures.walk(Linear(), tmp_path / "walk.gif", **wrong)
