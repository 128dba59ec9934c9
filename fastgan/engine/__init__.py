"""The training engine: configuration, the step, the loop, checkpoints."""

from fastgan.engine.checkpoint import Checkpoint, CheckpointError, find_checkpoint
from fastgan.engine.config import TrainConfig, TrainResult
from fastgan.engine.grid import make_grid, save_grid
from fastgan.engine.sampling import load_generator, sample_images
from fastgan.engine.step import gan_step
from fastgan.engine.trainer import Trainer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "find_checkpoint",
    "gan_step",
    "load_generator",
    "make_grid",
    "sample_images",
    "save_grid",
]
