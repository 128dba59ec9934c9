"""A tiny GAN and tiny data, so that an engine test takes a second."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgan.data import ImageDataset
from fastgan.engine import GANObjective, TrainConfig, Trainer
from fastgan.engine.checkpoint import own_hash
from fastgan.engine.log import SilentReporter
from fastgan.models import create_model

TINY = {"image_size": 8, "channels": 1, "width": 8}


class Recorder(SilentReporter):
    """Keeps what a person would have been told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.values: list[tuple[int, dict[str, float]]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, step: int, values: dict[str, float] | None) -> None:
        if values is not None:
            self.values.append((step, values))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def tiny_data(count: int = 40, seed: int = 0) -> ImageDataset:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=rng)
    return ImageDataset(images=images, labels=None, classes=None, name="tiny", skipped=0)


def tiny_trainer(
    data: ImageDataset | None = None,
    dropout: float = 0.25,
    norm: str = "batch",
    parts: dict[str, Any] | None = None,
    **settings,
) -> Trainer:
    """settings: of TrainConfig, and update_rule; parts: further arguments of Trainer."""
    rule = {k: settings.pop(k) for k in ("update_rule",) if k in settings}
    parts = ({"objective": GANObjective(**rule)} if rule else {}) | (parts or {})
    defaults = {"steps": 6, "batch_size": 8, "log_every": 2, "sample_every": 0, "sample_count": 4}
    config = TrainConfig(**{**defaults, "checkpoint_every": 2, **settings})
    torch.manual_seed(config.seed)
    return Trainer(
        create_model("dcgan_generator", latent_dim=6, norm=norm, **TINY),
        create_model("dcgan_discriminator", dropout=dropout, norm=norm, **TINY),
        data or tiny_data(),
        config,
        **parts,
    )


def all_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor of the run that its future depends on."""
    tensors = {f"g.{k}": v for k, v in trainer.generator.state_dict().items()}
    tensors |= {f"d.{k}": v for k, v in trainer.discriminator.state_dict().items()}
    if trainer.ema:
        tensors |= {f"ema.{k}": v for k, v in trainer.ema.average.state_dict().items()}
    for name in ("optimizer_g", "optimizer_d"):
        for index, entries in getattr(trainer, name).state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{k}": v for k, v in entries.items()}
    return tensors | {"noise": trainer.noise.get_state()}


def forge(checkpoint: Path, manifest: dict[str, Any] | None = None) -> None:
    """Make files that were changed, and a manifest, pass for whole: every hash is made anew."""
    path = checkpoint / "checkpoint.json"
    manifest = json.loads(path.read_text()) if manifest is None else dict(manifest)
    for name, file in manifest["files"].items():
        if (checkpoint / name).is_file():
            content = (checkpoint / name).read_bytes()
            file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps({**manifest, "sha256": own_hash(manifest)}))
