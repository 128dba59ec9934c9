"""`fastgan eval` and `fastgan sample` of runs of volumes and films."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.cli import main
from fastgan.data import normalised
from fastgan.data.showers import make_showers
from fastgan.engine.log import SilentReporter
from fastgan.recipes import train
from fastgan.recipes.volume_gan import shapes_of

from .tiny_recipe import tiny

SHORT = {"steps": 1, "batch_size": 4, "sample_count": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    given = {"volume-gan": {}, "shapes": {"data": "shapes"}, "video-gan": {}}
    for name, data in given.items():
        recipe = tiny("video-gan" if name == "video-gan" else "volume-gan")
        train(recipe, out=folder / name, reporter=SilentReporter(), **SHORT, **data)
    return {name: folder / name for name in given}


def scores_of(run: Path, out: Path, samples: int) -> dict[str, float]:
    assert main(["eval", str(run), f"--samples={samples}", "-o", str(out)]) == 0
    return {score["metric"]: score["value"] for score in json.loads(out.read_text())}


def test_showers_are_measured_against_new_ones(runs, tmp_path):
    scores = scores_of(runs["volume-gan"], tmp_path / "s.json", 60)
    for name in ("response", "depth", "width", "along", "across"):
        assert 0 < scores[f"{name}_floor"] < scores[name], name
    assert scores["auc"] > 0.9
    assert 0.2 < scores["auc_floor"] < 0.8
    # Cells of other showers leave the mean profile nearly as it is, and the response not.
    assert scores["response_mixed"] > 2 * scores["response_floor"]


def test_other_volumes_are_told_apart(runs, tmp_path):
    scores = scores_of(runs["shapes"], tmp_path / "s.json", 30)
    assert scores.keys() == {"auc", "auc_floor"}


def test_films_are_measured_and_shown(runs, tmp_path, capsys):
    scores = scores_of(runs["video-gan"], tmp_path / "s.json", 30)
    assert scores["change_still"] > scores["change_floor"]
    assert scores["speed_shuffled"] > scores["speed_floor"]
    assert scores["brightness_still"] < 1e-9
    film = tmp_path / "film.gif"
    assert main(["sample", str(runs["video-gan"]), "-n", "2", "-o", str(film)]) == 0
    with Image.open(film) as pictures:
        assert pictures.n_frames == 16
        assert pictures.size == (2 * (2 * 34 + 2), 2 * (34 + 2))
    grid = tmp_path / "grid.png"
    assert main(["sample", str(runs["video-gan"]), "-n", "1", "-o", str(grid)]) == 0
    with Image.open(grid) as picture:
        assert picture.size == (8 * 32 + 4, 32 + 4)


def test_shapes_of_showers_that_are_known():
    data = make_showers(3, (8, 8, 8))
    items = torch.full_like(data.images, -1.0)
    items[:, 0, 2, 4, 4] = 0.5
    items[:, 0, 4, 4, 4] = 0.5
    found = shapes_of(items, data.labels)
    assert found["depth"].tolist() == pytest.approx([3] * 3)
    assert found["width"].tolist() == pytest.approx([0.5**0.5] * 3)
    assert found["response"].tolist() == pytest.approx([2 * (0.75 * 0.5) ** 2] * 3)
    assert found["along"][0].tolist() == pytest.approx([0, 0, 0.5, 0, 0.5, 0, 0, 0])
    assert found["across"][0, 0] == pytest.approx(1)
    real = shapes_of(normalised(data.images, data.value_range), data.labels)
    assert real["along"].sum(1).tolist() == pytest.approx([1] * 3)
