"""The training engine: configuration, the step, the loop, checkpoints."""

from fastgan.engine.callbacks import Callback
from fastgan.engine.capture import CaptureError
from fastgan.engine.checkpoint import Checkpoint, CheckpointError, find_checkpoint
from fastgan.engine.config import TrainConfig, TrainResult
from fastgan.engine.grid import make_grid, save_grid
from fastgan.engine.loop import NonFiniteError
from fastgan.engine.ranks import LostRankError, Ranks, launched
from fastgan.engine.sampling import load_generator, sample_images
from fastgan.engine.step import GAN, Batch, gan_step
from fastgan.engine.trainer import Trainer

__all__ = [
    "GAN",
    "Batch",
    "Callback",
    "CaptureError",
    "Checkpoint",
    "CheckpointError",
    "LostRankError",
    "NonFiniteError",
    "Ranks",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "find_checkpoint",
    "gan_step",
    "launched",
    "load_generator",
    "make_grid",
    "sample_images",
    "save_grid",
]
