"""Generators out of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.engine import records
from fastgan.engine.checkpoint import MANIFEST, CheckpointError, find_checkpoint, load_module
from fastgan.engine.records import RecordError
from fastgan.models import create_model

_SPEC = records.record({"name": records.text, "arguments": records.table()})


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
        generator = _described(spec, checkpoint.path / MANIFEST)
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be ema or raw, got {weights!r}")
    averaged = weights == "ema" and "generator_ema.safetensors" in checkpoint.manifest["files"]
    tensors = checkpoint.tensors("generator_ema" if averaged else "generator")
    load_module(generator, tensors, "generator")
    return generator.to(device).eval()


def _described(spec: object, file: Path) -> nn.Module:
    try:
        _SPEC(spec, "generator")
    except RecordError as error:
        raise CheckpointError(f"{file}: {error}") from error
    assert isinstance(spec, dict)
    try:
        return create_model(spec["name"], **spec["arguments"])
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{file}: field generator builds no model: {error}") from error


def sample_images(
    generator: nn.Module,
    count: int,
    *,
    seed: int = 0,
    labels: Tensor | None = None,
    batch_size: int = 256,
) -> Tensor:
    """``count`` images in [-1, 1], float ``[count, C, H, W]`` on the CPU.

    The noise is drawn on the CPU from ``seed`` for all images at once, so the first images are the
    same whatever ``count``, ``batch_size`` and the generator's device are.

    Args:
        labels: int64 ``[count]``, of a generator that takes them (``num_classes``); by default
            all classes in turn.

    Raises:
        ValueError: ``count`` or ``batch_size`` is below 1, or labels do not fit the generator.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        check_int(name, value, 1)
    noise = draw_noise(generator, count, seed)
    return images_of(generator, noise, fitting_labels(generator, count, labels), batch_size)


def draw_noise(generator: nn.Module, count: int, seed: int) -> Tensor:
    """``[count, latent_dim]`` on the CPU; the first rows do not depend on ``count``."""
    latent_dim = generator.latent_dim
    assert isinstance(latent_dim, int)
    rng = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(latent_dim, generator=rng) for _ in range(count)])


def fitting_labels(generator: nn.Module, count: int, labels: Tensor | None) -> Tensor | None:
    """``labels``, or all classes in turn where a generator needs some; else ValueError."""
    classes = getattr(generator, "num_classes", 0)
    if not classes:
        if labels is not None:
            raise ValueError(f"labels: {type(generator).__name__} draws no classes")
        return None
    if labels is None:
        return torch.arange(count) % classes
    if tuple(labels.shape) != (count,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 of shape [{count}], got {labels.dtype} of {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {low}..{high}")
    return labels


@torch.no_grad()
def images_of(
    generator: nn.Module, noise: Tensor, labels: Tensor | None = None, batch_size: int = 256
) -> Tensor:
    """The images of ``noise`` (and ``labels``), batch by batch, on the CPU."""
    device = next(generator.parameters()).device
    rows = [noise] if labels is None else [noise, labels]
    parts = zip(*(row.split(batch_size) for row in rows), strict=True)
    return torch.cat([generator(*(row.to(device) for row in p)).float().cpu() for p in parts])
