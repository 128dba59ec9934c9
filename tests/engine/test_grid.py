from __future__ import annotations

import pytest
import torch
from PIL import Image

from fastgan.engine import make_grid, save_grid


def test_images_stand_row_by_row_with_padding():
    images = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 3)
    grid = make_grid(images, columns=2, padding=1)
    assert grid.shape == (1 + 2 * 3, 1 + 2 * 4, 3)
    assert grid[1, 1].tolist() == [0] * 3
    assert grid[1, 5].tolist() == [128] * 3
    assert grid[4, 1].tolist() == [255] * 3
    assert grid[4, 5].tolist() == [0] * 3  # an empty cell
    assert grid[0].sum() == 0
    assert grid[:, 4].sum() == 0


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (64, 8)])
def test_the_default_grid_is_square(count, columns):
    assert make_grid(torch.zeros(count, 1, 1, 1), padding=0).shape[1] == columns


def test_colours_are_kept_and_values_outside_are_clamped():
    image = torch.tensor([-9.0, 0.0, 9.0]).view(1, 3, 1, 1)
    assert make_grid(image, padding=0)[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (1, 2, 2)])
def test_bad_shapes_are_errors(shape):
    with pytest.raises(ValueError, match="images must be"):
        make_grid(torch.zeros(shape))


def test_a_png_is_written_whole(tmp_path):
    path = save_grid(torch.zeros(4, 1, 2, 2), tmp_path / "new" / "grid.png", scale=3)
    with Image.open(path) as image:
        assert image.size == (30, 30)
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]
