"""Runs on streamed data: the same as on resident data, and resumed exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import load, stream
from fastgan.engine import CheckpointError, Trainer

from .conftest import all_tensors, tiny_trainer

SETTINGS = {"steps": 12, "flip": True, "discriminator_steps": 2, "checkpoint_every": 4}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def assert_same(one: Trainer, other: Trainer) -> None:
    tensors = all_tensors(other)
    assert not [k for k, v in all_tensors(one).items() if not torch.equal(v, tensors[k])]


def test_a_streamed_run_is_the_resident_one_and_resumes_exactly(tmp_path, pictures, recorder):
    resident = tiny_trainer(load(pictures), **SETTINGS)
    resident.fit(tmp_path / "resident", reporter=recorder)
    whole = tiny_trainer(stream(pictures), **SETTINGS)
    result = whole.fit(tmp_path / "whole", reporter=recorder)
    assert_same(whole, resident)
    assert result.images_per_second > 0

    tiny_trainer(stream(pictures), **{**SETTINGS, "steps": 7}).fit(
        tmp_path / "parts", reporter=recorder
    )
    again = tiny_trainer(stream(pictures), **SETTINGS)
    again.fit(tmp_path / "parts", resume=True, reporter=recorder)
    assert_same(again, whole)


def test_other_files_are_other_data(tmp_path, pictures, recorder):
    tiny_trainer(stream(pictures), steps=2).fit(tmp_path / "run", reporter=recorder)
    (pictures / "0.png").rename(pictures / "0a.png")
    with pytest.raises(CheckpointError, match="data: "):
        tiny_trainer(stream(pictures), steps=4).fit(
            tmp_path / "run", resume=True, reporter=recorder
        )


def test_a_folder_that_is_lost_during_the_run_leaves_the_newest_checkpoint(
    tmp_path, pictures, recorder
):
    trainer = tiny_trainer(stream(pictures), **SETTINGS)

    def lose(step, _values):
        if step == 6:
            pictures.rename(pictures.with_name("moved"))

    recorder.update = lose
    with pytest.raises(FileNotFoundError, match=r"pictures/\d+\.png"):
        trainer.fit(tmp_path / "run", reporter=recorder)
    del recorder.update
    pictures.with_name("moved").rename(pictures)
    again = tiny_trainer(stream(pictures), **SETTINGS)
    again.fit(tmp_path / "run", resume=True, reporter=recorder)
    whole = tiny_trainer(load(pictures), **SETTINGS)
    whole.fit(tmp_path / "whole", reporter=recorder)
    assert_same(again, whole)
