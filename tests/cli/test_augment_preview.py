from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastgan.cli import main
from fastgan.data import load

CELL = 2 * (28 + 2)  # a digit and its padding, on a screen


def preview(tmp_path, *arguments: str) -> np.ndarray:
    out = tmp_path / "grid.png"
    given = ["augment-preview", "mnist5k", "--rows=2", "--columns=3", "-o", str(out), "--force"]
    assert main([*given, *arguments]) == 0
    return np.asarray(Image.open(out))


def rows_of(picture: np.ndarray) -> np.ndarray:
    """The grid's rows below each other, without what pads the picture."""
    return picture[4:].reshape(-1, CELL, picture.shape[1], 3)[:, :56]


def test_originals_stand_first_and_augmented_ones_below(tmp_path):
    rows = rows_of(preview(tmp_path))
    assert rows.shape == (3, 56, 3 * CELL + 4, 3)
    first = load("mnist5k", limit=3).images[1, 0].numpy()
    assert (rows[0, ::2, CELL + 4 : 2 * CELL : 2, 0] == first).all()
    assert (rows[1] != rows[0]).any()
    assert (rows[2] != rows[1]).any()


@pytest.mark.parametrize("arguments", [["--augment=ada", "--p=0.8"], ["--augment=instance_noise"]])
def test_a_seed_gives_the_same_picture_and_another_seed_another(tmp_path, arguments):
    pictures = [preview(tmp_path, *arguments, f"--seed={seed}") for seed in (0, 0, 1)]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()


def test_ada_at_p_0_changes_nothing(tmp_path):
    rows = rows_of(preview(tmp_path, "--augment=ada", "--p=0"))
    assert (rows == rows[:1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augment=adda"], "unknown augmentation 'adda'; did you mean 'ada'?"),
        (["--p=0.5"], "p is the probability of ada; diffaugment has none"),
        (["--augment=ada", "--p=1.5"], "p must lie in [0, 1], got 1.5"),
        (["--rows=0"], "rows must be at least 1, got 0"),
        (["--rows=1000000000"], "there may be 300000000 in all"),
        (["--seed=-1"], "seed must be at least 0"),
    ],
)
def test_what_cannot_be_shown_is_said_and_nothing_is_written(tmp_path, capsys, arguments, message):
    out = tmp_path / "grid.png"
    assert main(["augment-preview", "mnist5k", "-o", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_source_that_is_not_there_and_a_file_that_stands_are_errors(tmp_path, capsys):
    assert main(["augment-preview", str(tmp_path / "no")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("fastgan: error: source ")
    assert "neither a path that exists" in told
    (tmp_path / "grid.png").write_text("precious")
    assert main(["augment-preview", "mnist5k", "-o", str(tmp_path / "grid.png")]) == 2
    assert "stands already: --force" in capsys.readouterr().err
