"""Generators out of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.engine.checkpoint import CheckpointError, find_checkpoint, load_module
from fastgan.models import create_model


def load_generator(
    path: str | Path,
    *,
    weights: Literal["ema", "raw"] = "ema",
    generator: nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """The generator of a checkpoint, in eval mode. No pickled code is run.

    Args:
        path: a checkpoint folder, or a run's folder (its newest whole checkpoint).
        weights: the moving average, or the weights that were being trained.
        generator: the module to load into; by default it is built as the checkpoint describes.
        device: where it goes.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        CheckpointError: it is torn, or of another model than ``generator``.
    """
    checkpoint = find_checkpoint(Path(path))
    if generator is None:
        spec = checkpoint.manifest.get("generator")
        if spec is None:
            raise CheckpointError(
                f"{checkpoint.path} was written by a generator that is not registered: "
                "give the module to load into (generator=...)"
            )
        generator = create_model(spec["name"], **spec["arguments"])
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be ema or raw, got {weights!r}")
    averaged = weights == "ema" and "generator_ema.safetensors" in checkpoint.manifest["files"]
    tensors = checkpoint.tensors("generator_ema" if averaged else "generator")
    load_module(generator, tensors, "generator")
    return generator.to(device).eval()


@torch.no_grad()
def sample_images(
    generator: nn.Module, count: int, *, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """``count`` images in [-1, 1], float ``[count, C, H, W]`` on the CPU.

    The noise is drawn on the CPU from ``seed`` for all images at once, so the first images are the
    same whatever ``count``, ``batch_size`` and the generator's device are.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    latent_dim = generator.latent_dim
    assert isinstance(latent_dim, int)
    rng = torch.Generator().manual_seed(seed)
    noise = torch.stack([torch.randn(latent_dim, generator=rng) for _ in range(count)])
    device = next(generator.parameters()).device
    return torch.cat([generator(part.to(device)).float().cpu() for part in noise.split(batch_size)])
