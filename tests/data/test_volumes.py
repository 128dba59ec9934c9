"""Generated showers and shapes, and volumes of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastgan.data import DataError, normalised, open_volumes
from fastgan.data.showers import ENERGIES, PEAK, QUANTUM, cells_of, energies_of, make_showers
from fastgan.data.volumes import make_shapes


def test_showers_have_the_energies_and_the_shape_that_they_are_made_of():
    data = make_showers(400, (12, 8, 10))
    assert data.shape == (400, 1, 12, 8, 10)
    energies = energies_of(data.labels)
    assert ENERGIES[0] <= energies.min() < 1.2
    assert 80 < energies.max() <= ENERGIES[1]
    # Log-uniform: half lie below the geometric mean.
    assert 0.4 < (energies < 10).double().mean() < 0.6
    cells = cells_of(normalised(data.images, data.value_range), data.labels)
    response = cells.sum((1, 2, 3)) / energies
    assert 0.8 < response.mean() < 1
    assert response.max() < 1.2
    depths = (cells.sum((2, 3)) @ torch.arange(12).double()) / cells.sum((1, 2, 3))
    # Deeper by a layer or more from the lowest to the highest decade, as log E.
    assert depths[energies > 30].mean() > depths[energies < 3].mean() + 1
    across = cells.sum((0, 1))
    assert across[3:5, 4:6].sum() > 0.4 * across.sum()
    assert (cells[cells > 0] >= QUANTUM * (1 - 1e-4)).all()
    assert data.images.max() < PEAK


def test_a_seed_makes_the_same_showers():
    first, again, other = (make_showers(8, (8, 8, 8), seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert open_volumes("showers", (8, 8, 8), 8, 1, limit=3).images.equal(first.images[[0, 2, 5]])


def test_cells_are_the_inverse_of_items():
    items = torch.tensor([0.3, 1e-4]).view(1, 1, 1, 1, 2)
    cells = cells_of(items / PEAK * 2 - 1, torch.tensor([[1.0]]))
    assert cells.flatten().tolist() == pytest.approx([0.09 * ENERGIES[1], 0.0], rel=1e-5)


def test_shapes_are_as_large_as_their_condition():
    data = make_shapes(200, (12, 12, 14))
    assert set(data.images.unique().tolist()) == {0, 255}
    filled = (data.images > 0).double().sum((1, 2, 3, 4))
    small, large = data.labels[:, 0] < -0.7, data.labels[:, 0] > 0.7
    assert filled.min() >= 1
    assert filled[large].mean() > 4 * filled[small].mean()


def test_volumes_of_files(tmp_path):
    volumes = np.random.default_rng(0).random((5, 4, 5, 6))
    np.savez(tmp_path / "all.npz", volumes=volumes, conditions=np.arange(5))
    data = open_volumes(str(tmp_path / "all.npz"), (4, 5, 6))
    assert data.shape == (5, 1, 4, 5, 6)
    assert data.labels.flatten().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert data.value_range == (0, 1)
    (tmp_path / "each").mkdir()
    for i in (0, 1):
        np.savez(tmp_path / "each" / f"{i}.npz", volume=volumes[i], condition=i)
    data = open_volumes(str(tmp_path / "each"), (4, 5, 6))
    assert np.array_equal(data.images[:, 0], volumes[:2].astype(np.float32))
    np.savez(tmp_path / "each" / "2.npz", volume=volumes[0, :3], condition=1)
    with pytest.raises(DataError, match=r"2.npz: volume \[3, 5, 6\] with 1 conditions: expected"):
        open_volumes(str(tmp_path / "each"), (4, 5, 6))


def test_bad_files_are_told(tmp_path):
    def told(message: str, **arrays) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError, match=message):
            open_volumes(str(tmp_path / "a.npz"), (4, 4, 4))

    good = np.zeros((2, 4, 4, 4))
    told(r"a.npz: no array 'conditions': it has volumes", volumes=good)
    told(r"volumes \[2, 4, 4, 4\] with conditions \[3\]", volumes=good, conditions=np.ones(3))
    told(r"expected \[N, 4, 4, 4\]", volumes=good[:, :3], conditions=np.ones(2))
    told(r"conditions must be finite", volumes=good, conditions=np.array([1, np.nan]))
    told(r"damaged NumPy file", volumes=np.array([None]), conditions=np.ones(1))
    with pytest.raises(FileNotFoundError, match="no volumes there"):
        open_volumes(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no .npz with a volume"):
        open_volumes(str(tmp_path / "empty"))
