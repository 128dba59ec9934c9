"""`fastgan augment`: samples as more data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.cli import main
from fastgan.data import load
from fastgan.engine import load_generator, sample_images
from fastgan.engine.log import SilentReporter
from fastgan.recipes import get_recipe, train

SHORT = {"steps": 1, "batch_size": 4, "limit": 40, "sample_count": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("cdcgan", "digits"):
        recipe = get_recipe(name)
        small = {n: getattr(recipe, n).given({"width": 8}) for n in ("generator", "discriminator")}
        recipe = dataclasses.replace(recipe, **small)
        train(recipe, out=folder / name, reporter=SilentReporter(), **SHORT)
    return {name: folder / name for name in ("cdcgan", "digits")}


def test_folders_of_classes_are_a_data_set(runs, tmp_path, capsys):
    out = tmp_path / "more"
    line = ["augment", str(runs["cdcgan"]), "--per-class=3", "--out", str(out)]
    assert main(line) == 0
    assert capsys.readouterr().out.strip() == str(out)
    data = load(out)
    assert data.shape == (30, 1, 28, 28)
    assert data.classes == tuple("0123456789")
    labels = torch.arange(10).repeat_interleave(3)
    expected = sample_images(load_generator(runs["cdcgan"]), 30, labels=labels)
    assert data.labels.equal(labels)
    assert (data.images - (expected + 1) * 127.5).abs().max() <= 0.51
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["images"] == {str(label): 3 for label in range(10)}
    assert (facts["step"], facts["seed"], facts["drawn"]) == (1, 0, 30)
    assert main(line) == 2
    assert "stands already" in capsys.readouterr().err


def test_the_discriminator_filters(runs, tmp_path):
    out = tmp_path / "some"
    line = ["augment", str(runs["cdcgan"]), "--per-class=2", "--classes", "3", "5"]
    assert main([*line, "--rejection=0.5", "--out", str(out)]) == 0
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["drawn"] > 4
    assert sorted(p.name for p in out.iterdir()) == ["3", "5", "manifest.json"]
    with Image.open(out / "5" / "1.png") as picture:
        assert np.asarray(picture).shape == (28, 28)


def test_what_does_not_fit_is_told(runs, tmp_path, capsys):
    def told(run: str, *flags: str) -> str:
        assert main(["augment", str(runs[run]), *flags]) == 2
        return capsys.readouterr().err

    out = f"--out={tmp_path / 'new'}"
    assert "draws no classes: give it a run of cdcgan, acgan or" in told("digits", out)
    assert "classes must be at most 9, got 10" in told("cdcgan", out, "--classes", "10")
    assert "per_class must be at least 1, got 0" in told("cdcgan", out, "--per-class=0")
    assert not (tmp_path / "new").exists()
    few = train("cdcgan", out=tmp_path / "few", reporter=SilentReporter(), **SHORT | {"limit": 20})
    runs = {**runs, "few": few.out}
    unseen = told("few", out)
    assert "had no image of class 1, 2, 4, 8, so that" in unseen
    assert "--classes 0 3 5 6 7 9" in unseen
    assert main(["augment", str(few.out), out, "--per-class=1", "--classes", "0", "9"]) == 0
    assert json.loads((tmp_path / "new" / "manifest.json").read_text())["images"] == {
        "0": 1,
        "9": 1,
    }
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert "is not empty: --out names a new folder" in told("cdcgan", f"--out={tmp_path / 'full'}")
