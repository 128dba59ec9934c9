"""Pictures of generators: what stands where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastgan.engine import pictures, save_grid
from fastgan.models import Autoencoder, Generator, create_model

from .conftest import TINY


class Mean(Generator):
    """Flat images of the mean of z, or of the label."""

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__(latent_dim=4, image_size=2, channels=1)
        self.num_classes = num_classes
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        values = z.mean(1) if labels is None else labels / 10
        return (values * self.weight).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_a_row_for_each_class():
    images, columns = pictures.by_class(Mean(num_classes=3), 4)
    assert columns == 4
    assert images[:, 0, 0, 0].tolist() == pytest.approx([0.0] * 4 + [0.1] * 4 + [0.2] * 4)
    with pytest.raises(ValueError, match="classes: Mean draws none"):
        pictures.by_class(Mean())
    with pytest.raises(ValueError, match="columns must be at least 1"):
        pictures.by_class(Mean(3), 0)


def test_slerp_turns_at_a_constant_rate():
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    share = torch.tensor([0.0, 0.5, 1.0])
    middle = 3 / math.sqrt(2)
    expected = torch.tensor([[[2, 0], [middle, middle], [0, 4]]])
    torch.testing.assert_close(pictures.slerp(start, end, share), expected)
    parallel = pictures.slerp(start, 3 * start, share)
    torch.testing.assert_close(parallel, torch.tensor([[[2.0, 0], [4, 0], [6, 0]]]))
    zero = pictures.slerp(start, torch.zeros(1, 2), share)
    torch.testing.assert_close(zero, torch.tensor([[[2.0, 0], [1, 0], [0, 0]]]))


def test_points_between_normal_vectors_are_as_long_as_those():
    start, end = torch.randn(2, 50, 100)
    lengths = torch.linalg.vector_norm(pictures.slerp(start, end, torch.linspace(0, 1, 5)), dim=2)
    torch.testing.assert_close(lengths.mean(0), torch.full((5,), 10.0), rtol=0.05, atol=0)


def test_interpolation_begins_and_ends_at_samples():
    images, columns = pictures.interpolation(Mean(), rows=3, columns=5, seed=1)
    assert (len(images), columns) == (15, 5)
    ends = images.view(3, 5, -1)[:, [0, -1], 0]
    noise = pictures.draw_noise(Mean(), 6, 1).mean(1)
    torch.testing.assert_close(ends.T.flatten(), noise)
    with pytest.raises(ValueError, match="rows must be at least 1 and columns 2, got 3 and 1"):
        pictures.interpolation(Mean(), 3, 1)
    with_classes, _ = pictures.interpolation(Mean(num_classes=2), 3, 2)
    assert with_classes[:, 0, 0, 0].tolist() == pytest.approx([0, 0, 0.1, 0.1, 0, 0])


def test_pairs_are_image_and_reconstruction():
    model = create_model("autoencoder", latent_dim=3, **TINY).eval()
    assert isinstance(model, Autoencoder)
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    pairs, columns = pictures.reconstruction_pairs(model, images)
    assert columns == 4
    assert torch.equal(pairs[::2], images)
    torch.testing.assert_close(pairs[1::2], model.reconstruct(images))
    with pytest.raises(ValueError, match="Mean has no encoder"):
        pictures.reconstruction_pairs(Mean(), images)


@pytest.mark.parametrize("rows", [3, 4096])
def test_nearest_real_images_are_nearest_first(rows):
    reals = torch.randint(0, 256, (20, 1, 2, 2), dtype=torch.uint8)
    samples = reals[[7, 2]].float() / 127.5 - 1 + 1e-3
    found = pictures.nearest(samples, reals, 4, rows)
    distances = torch.cdist(samples.flatten(1), reals.flatten(1).float() / 127.5 - 1)
    assert found[:, 0].tolist() == [7, 2]
    expected = distances.sort(1).values[:, :4]
    torch.testing.assert_close(distances.gather(1, found), expected)


def test_a_row_of_neighbours_for_each_sample():
    reals = torch.randint(0, 256, (20, 1, 2, 2), dtype=torch.uint8)
    images, columns = pictures.nearest_real(Mean(), reals, 3, 4)
    assert (images.shape, columns) == ((15, 1, 2, 2), 5)
    assert torch.equal(images[::5], pictures.sample_images(Mean(), 3).expand(-1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"at least 4 images of \[1, 2, 2\], got \[20, 3, 2, 2\]"):
        pictures.nearest_real(Mean(), reals.expand(-1, 3, 2, 2), 3, 4)
    with pytest.raises(ValueError, match="at least 40 images"):
        pictures.nearest_real(Mean(), reals, 3, 40)


def test_the_grids_of_a_run_become_a_gif(tmp_path):
    run = tmp_path / "run"
    for step, value in ((10, -1.0), (2, 1.0), (300, 0.0)):
        save_grid(torch.full((4, 1, 2, 2), value), run / "samples" / f"step-{step:08d}.png")
    path = pictures.evolution(run, tmp_path / "out" / "evolution.gif")
    with Image.open(path) as film:
        assert film.n_frames == 3
        middles = []
        for frame in range(3):
            film.seek(frame)
            middles.append(int(np.asarray(film.convert("L"))[3, 3]))
    assert middles == [255, 0, 128]
    with pytest.raises(FileNotFoundError, match="has no sample grids"):
        pictures.evolution(tmp_path, tmp_path / "none.gif")
    save_grid(torch.zeros(1, 1, 9, 9), run / "samples" / "step-00000400.png")
    with pytest.raises(ValueError, match="have different sizes"):
        pictures.evolution(run, path)
