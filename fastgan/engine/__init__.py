"""The training engine: configuration, the step, the loop, checkpoints."""

from __future__ import annotations

import sys
from typing import Any

from fastgan.engine.callbacks import Callback
from fastgan.engine.capture import CapturedStep, CaptureError, capture
from fastgan.engine.checkpoint import Checkpoint, CheckpointError, find_checkpoint
from fastgan.engine.checkpoint_manager import CheckpointManager
from fastgan.engine.config import TrainConfig, TrainResult
from fastgan.engine.distributed import DistributedGroup, launched
from fastgan.engine.ema import Ema
from fastgan.engine.gan import GAN, Batch
from fastgan.engine.grid import make_grid, save_grid
from fastgan.engine.heartbeat import LostRankError
from fastgan.engine.inversion import Inversion, invert
from fastgan.engine.latents import truncated
from fastgan.engine.loop import NonFiniteError
from fastgan.engine.objectives import (
    AutoencoderObjective,
    GANObjective,
    VAEGANObjective,
    VAEObjective,
    VocoderObjective,
)
from fastgan.engine.rejection import rejection_sample
from fastgan.engine.sampling import load_discriminator, load_generator, sample_images
from fastgan.engine.start import freeze_first, init_from
from fastgan.engine.statistics import batch_statistics, standing_statistics
from fastgan.engine.step import gan_step
from fastgan.engine.styling import StyleObjective
from fastgan.engine.trainer import Trainer
from fastgan.engine.update import Update
from fastgan.system import renamed

__all__ = [
    "GAN",
    "AutoencoderObjective",
    "Batch",
    "Callback",
    "CaptureError",
    "CapturedStep",
    "Checkpoint",
    "CheckpointError",
    "CheckpointManager",
    "DistributedGroup",
    "Ema",
    "GANObjective",
    "Inversion",
    "LostRankError",
    "NonFiniteError",
    "StyleObjective",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "Update",
    "VAEGANObjective",
    "VAEObjective",
    "VocoderObjective",
    "batch_statistics",
    "capture",
    "find_checkpoint",
    "freeze_first",
    "gan_step",
    "init_from",
    "invert",
    "launched",
    "load_discriminator",
    "load_generator",
    "make_grid",
    "rejection_sample",
    "sample_images",
    "save_grid",
    "standing_statistics",
    "truncated",
]


def __getattr__(name: str) -> Any:
    if name == "Ranks":
        renamed("fastgan.engine.Ranks", "fastgan.engine.DistributedGroup")
        return DistributedGroup
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )
