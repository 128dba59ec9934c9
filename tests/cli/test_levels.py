"""`fastgan levels`, and `fastgan eval` and `sample` of a run of levels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from fastgan.cli import levels, main
from fastgan.data.levels import TILES
from fastgan.engine.log import SilentReporter
from fastgan.recipes import get_recipe, train

SHORT = {"steps": 1, "batch_size": 4, "limit": 4, "sample_count": 4, "device": "cpu"}
SIDE = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    recipe = get_recipe("tile-gan")
    small = {"width": 8}
    recipe = dataclasses.replace(
        recipe,
        generator=recipe.generator.given(small),
        discriminator=recipe.discriminator.given(small),
    )
    folder = tmp_path_factory.mktemp("levels")
    text = "\n\n".join(f"{'#' * (n + 4)}\n#@{' ' * n}$.#\n{'#' * (n + 4)}" for n in range(1, 5))
    (folder / "all.txt").write_text(text)
    out = folder / "run"
    given = {"data": str(folder / "all.txt"), "image_size": str(SIDE)}
    train(recipe, out=out, reporter=SilentReporter(), **given, **SHORT)
    return out


def test_levels_are_written_as_text(run, tmp_path, capsys):
    out = tmp_path / "levels.txt"
    assert main(["levels", str(run), "-n", "3", "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    blocks = out.read_text().split("\n\n")
    assert [b for b in blocks if b.startswith("Level")] == ["Level 1", "Level 2", "Level 3"]
    rows = [row for row in out.read_text().splitlines() if row and not row.startswith("Level")]
    assert set("".join(rows)) <= set(TILES)
    assert main(["levels", str(run), "-o", str(out)]) == 2
    assert "stands already" in capsys.readouterr().err


def test_only_levels_that_can_be_played_are_kept(run, tmp_path, capsys, monkeypatch):
    few = ["levels", str(run), "--playable", "-n", "2", "--tries", "2"]
    assert main([*few, "-o", str(tmp_path / "none.txt")]) == 2
    assert "0 of 4 drawn were solved, and 2 were asked for" in capsys.readouterr().err
    assert not (tmp_path / "none.txt").exists()
    asked = []
    monkeypatch.setattr(
        levels, "playable", lambda rows, states: asked.append(states) or "solved" * (len(asked) > 1)
    )
    assert main([*few, "--states", "7", "-o", str(tmp_path / "two.txt")]) == 0
    assert "2 of 3 levels were solved" in capsys.readouterr().err
    assert asked == [7, 7, 7]


def test_a_run_of_levels_is_measured_and_drawn(run, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert main(["eval", str(run), "--samples=20", "-o", str(out)]) == 0
    scores = {score["metric"]: score["value"] for score in json.loads(out.read_text())}
    assert scores["playable_real"] == 1
    assert scores["playable"] == scores["copied"] == 0
    assert scores["kl2"] > scores["kl2_shuffled"] > 0
    assert main(["eval", str(run), "--samples=20", "--metrics=kl2,kl3"]) == 0
    assert capsys.readouterr().out.count("kl2 ") == 2
    assert main(["eval", str(run), "--samples=20", "--metrics=fid"]) == 2
    assert "unknown metric 'fid': there are kl2, kl2_floor" in capsys.readouterr().err
    picture = tmp_path / "grid.png"
    assert main(["sample", str(run), "-n", "1", "-o", str(picture)]) == 0
    with Image.open(picture) as grid:
        assert grid.size == (8 * (SIDE + 4), 8 * (SIDE + 4))


def test_a_run_of_something_else_is_told(tmp_path, capsys):
    out = tmp_path / "run"
    line = ["train", "mlp-gan", f"--out={out}", "--steps=1", "--limit=8", "--batch-size=4"]
    assert main([*line, "--sample-count=1", "--device=cpu"]) == 0
    capsys.readouterr()
    assert main(["levels", str(out)]) == 2
    assert "draws no tiles: give it a run of tile-gan" in capsys.readouterr().err
