"""Steps whose spectral norms are estimated together, as on GPUs, here on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tolerance import within

from fastgan.engine import TrainConfig, Trainer
from fastgan.models import create_model
from fastgan.nn.spectral import SpectralNorms

from .conftest import Recorder, all_tensors, tiny_data

SHAPE = {"image_size": 8, "channels": 1, "width": 8}


def trainer(steps: int = 4, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    defaults = {"batch_size": 8, "log_every": 2, "sample_every": 0, "checkpoint_every": 2}
    return Trainer(
        create_model("resnet_generator", latent_dim=6, spectral=True, **SHAPE),
        create_model("resnet_discriminator", attention=4, **SHAPE),
        tiny_data(),
        TrainConfig(steps=steps, loss="hinge", **{**defaults, **settings}),
    )


@pytest.fixture
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has norms estimated together; a number for each pass."""
    monkeypatch.setattr(SpectralNorms, "devices", ("cpu",))
    passes: list[int] = []
    estimated = SpectralNorms._estimated
    monkeypatch.setattr(
        SpectralNorms,
        "_estimated",
        lambda self, found: (passes.append(len(found)), estimated(self, found))[1],
    )
    return passes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_updates_and_two_are_four(
    precision: str, tmp_path: Path, recorder: Recorder, on_cpus: list[int]
) -> None:
    options = {"precision": precision, "regularizer": "r1", "reg_every": 2}
    whole = trainer(**options)
    whole.fit(tmp_path / "whole", reporter=recorder)
    first = trainer(2, **options)
    first.fit(tmp_path / "run", reporter=recorder)
    second = trainer(**options)
    second.fit(tmp_path / "run", resume=True, reporter=recorder)
    expected, found = all_tensors(whole), all_tensors(second)
    assert any(name.endswith("_u") for name in expected)
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    assert on_cpus


def test_a_step_is_that_of_norms_one_by_one(
    on_cpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, apart = trainer(), trainer()
    torch.manual_seed(1)
    together.train_step()
    assert on_cpus == [5, 11, 11, 11]  # the generator's pass, and three of the discriminator
    monkeypatch.setattr(SpectralNorms, "devices", ())
    torch.manual_seed(1)
    apart.train_step()
    found, expected = all_tensors(together), all_tensors(apart)
    compared = [name for name in expected if name.endswith(("exp_avg", "_u", "_v"))]
    assert len(compared) > 40
    for name in compared:
        torch.testing.assert_close(
            found[name], expected[name], **within(torch.float32, 1000, 100), msg=name
        )
