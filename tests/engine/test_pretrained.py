"""The generator that ships with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import fastgan
from fastgan.cli import main
from fastgan.engine import CheckpointError, find_checkpoint, load_discriminator, sample_images
from fastgan.engine.checkpoint import PRETRAINED
from fastgan.metrics.pretrained import get_network


def test_it_draws_the_digits_that_are_asked_for():
    labels = torch.arange(10).repeat(20)
    images = sample_images(fastgan.load_generator("digits"), 200, labels=labels)
    _, logits = get_network("lenet").module(images)
    # As recorded, within two standard deviations of 200 samples.
    recorded = find_checkpoint(PRETRAINED / "digits").manifest["trained"]["scores"]["accuracy"]
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(recorded, abs=0.05)


def test_it_is_small_and_says_how_it_was_made():
    folder = PRETRAINED / "digits"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    trained = find_checkpoint(folder).manifest["trained"]
    assert trained["scores"]["accuracy"] > 0.9
    assert trained["setting"]["data"] == "mnist"
    assert trained["scores"]["classes"] == 10


def test_the_command_draws_it_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "digits", "-n", "4", "--labels", "7"]) == 0
    assert capsys.readouterr().out == "grid.png\n"
    with Image.open("grid.png") as picture:
        assert picture.size == (124, 124)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    with pytest.raises(FileNotFoundError, match="digits is neither a checkpoint nor a run"):
        find_checkpoint(Path("digits"))


def test_other_names_and_what_it_lacks_are_told(tmp_path, monkeypatch):
    (tmp_path / ".digit").mkdir()  # what is hidden is no answer
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint or run at digit; digits ships with"):
        fastgan.load_generator("digit")
    with pytest.raises(CheckpointError, match=r"digits has no discriminator\.safetensors"):
        load_discriminator("digits")
