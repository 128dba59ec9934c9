"""A file of a streamed set that cannot be read used to end a run without a checkpoint.

What was trained is saved before the error ends the run, and once the file is mended the run goes on
to the weights of one that was never interrupted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import stream
from fastgan.engine import TrainConfig, Trainer, find_checkpoint
from fastgan.engine.log import SilentReporter
from fastgan.models import create_model

TINY = {"image_size": 8, "channels": 1, "width": 8}
NEW = {"steps": 10, "batch_size": 4, "checkpoint_every": 0, "sample_every": 0, "log_every": 100}


def trainer(folder: Path) -> Trainer:
    torch.manual_seed(0)
    generator = create_model("dcgan_generator", latent_dim=6, **TINY)
    discriminator = create_model("dcgan_discriminator", **TINY)
    config = TrainConfig(**NEW, sample_count=4, device="cpu")
    return Trainer(generator, discriminator, stream(folder, strict=True, workers=1), config)


def test_the_run_is_saved_and_goes_on(tmp_path):
    folder, quiet = tmp_path / "photos", SilentReporter()
    folder.mkdir()
    for i in range(80):
        Image.fromarray(np.full((8, 8), 3 * i, np.uint8)).save(folder / f"{i:03d}.png")
    whole = trainer(folder)
    whole.fit(tmp_path / "whole", reporter=quiet)

    struck = trainer(folder)
    epoch, place = struck.loader.order.place(6)
    photo = folder / f"{int(struck.loader.order.draw(epoch)[0][place][0]):03d}.png"
    content = photo.read_bytes()
    photo.write_bytes(b"\0" * len(content))
    with pytest.raises(ValueError, match=photo.name):
        struck.fit(tmp_path / "run", reporter=quiet)
    assert find_checkpoint(tmp_path / "run").step == struck.step == 6

    photo.write_bytes(content)
    again = trainer(folder)
    again.fit(tmp_path / "run", resume=True, reporter=quiet)
    expected = whole.generator.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.generator.state_dict().items())
