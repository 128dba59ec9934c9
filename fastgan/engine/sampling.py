"""Networks out of checkpoints, and what a generator draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgan.checks import check_classes, check_int, imported
from fastgan.engine import records
from fastgan.engine.checkpoint import (
    MANIFEST,
    Checkpoint,
    CheckpointError,
    find_checkpoint,
    load_module,
)
from fastgan.engine.latents import draw_noise, inputs_of, takes_no_noise
from fastgan.engine.records import RecordError
from fastgan.fusion import fold
from fastgan.models import create_model
from fastgan.system import tell

# Images: folding takes 0.3 to 0.5 s, in which a DCGAN draws some hundred of 64×64.
_MIN_TO_FOLD = 1024
_SPEC = records.record({"name": records.text, "arguments": records.table()})


def load_generator(
    path: str | Path,
    *,
    weights: Literal["ema", "raw"] = "ema",
    generator: nn.Module | str | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """The generator of a checkpoint, in eval mode. No pickled code is run.

    Args:
        path: a checkpoint folder, a run's folder (its newest whole checkpoint), or "digits": a
            generator of handwritten digits, by their class, that ships with the package.
        weights: the moving average, or the weights that were being trained.
        generator: the module to load into, or ``package.module:attribute`` that is or makes it;
            by default it is built as the checkpoint describes. One that is named is given what it
            lacks of ``latent_dim``, ``image_size`` and ``channels``, as it was trained with.
        device: where it goes.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        CheckpointError: it is torn, or of another model than ``generator``.
        ValueError: ``generator`` is a name that cannot be imported, or makes no module.
    """
    checkpoint = find_checkpoint(Path(path))
    if generator is None:
        generator = _described(checkpoint, "generator")
    elif isinstance(generator, str):
        generator = _named(checkpoint, generator)
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be ema or raw, got {weights!r}")
    averaged = weights == "ema" and "generator_ema.safetensors" in checkpoint.manifest["files"]
    tensors = checkpoint.tensors("generator_ema" if averaged else "generator")
    load_module(generator, tensors, "generator")
    return generator.to(device).eval()


def load_discriminator(
    path: str | Path,
    *,
    discriminator: nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """The discriminator of a checkpoint, in eval mode; see :func:`load_generator`.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        CheckpointError: it is torn, has no discriminator, or is of another model.
    """
    checkpoint = find_checkpoint(Path(path))
    tensors = checkpoint.tensors("discriminator")
    if not tensors:  # an autoencoder's
        raise CheckpointError(f"{checkpoint.path} has no discriminator")
    if discriminator is None:
        discriminator = _described(checkpoint, "discriminator")
    load_module(discriminator, tensors, "discriminator")
    return discriminator.to(device).eval()


def _named(checkpoint: Checkpoint, name: str) -> nn.Module:
    """The module that ``package.module:attribute`` is or makes, not yet loaded."""
    found = imported("model", name)
    try:
        made = found if isinstance(found, nn.Module) else found()
    except TypeError as error:
        raise ValueError(f"model {name!r} must be made without arguments: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"model {name!r} must be or make an nn.Module, got {type(made).__name__}")
    shape = checkpoint.manifest["data"]["images"]
    known = {"latent_dim": checkpoint.manifest.get("latent_dim"), "channels": shape[1]}
    for key, value in {**known, "image_size": tuple(shape[2:])}.items():
        if value is not None and not hasattr(made, key):
            setattr(made, key, value)
    return made


def _described(checkpoint: Checkpoint, what: str) -> nn.Module:
    """The registered model that the manifest has under ``what``, not yet loaded."""
    spec: Any = checkpoint.manifest.get(what)
    if spec is None:
        raise CheckpointError(
            f"{checkpoint.path} was written by a {what} that is not registered: "
            f"give the module to load into ({what}=..., --model package.module:attribute)"
        )
    file = checkpoint.path / MANIFEST
    try:
        _SPEC(spec, what)
        return create_model(spec["name"], **spec["arguments"])
    except RecordError as error:
        raise CheckpointError(f"{file}: {error}") from error
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{file}: field {what} builds no model: {error}") from error


def to_draw(generator: nn.Module, count: int) -> nn.Module:
    """``generator``, in eval mode, as it draws so many images soonest: folded for many on a CPU."""
    on_cpu = next(generator.parameters()).device.type == "cpu"
    return fold(generator) if on_cpu and count >= _MIN_TO_FOLD else generator


def sample_images(
    generator: nn.Module,
    count: int,
    *,
    seed: int = 0,
    labels: Tensor | None = None,
    batch_size: int = 256,
    truncation: float | None = None,
) -> Tensor:
    """``count`` images in [-1, 1], float ``[count, ...]`` on the CPU.

    The noise is drawn on the CPU from ``seed`` for all images at once, so the first images are the
    same whatever ``count``, ``batch_size`` and the generator's device are.

    Args:
        labels: int64 ``[count]``, of a generator that takes them (``num_classes``); by default
            all classes in turn. Or other conditions ``[count, ...]``, as they were trained with; by
            default those that the generator itself names (``default_conditions``).
        truncation: of the noise, for more typical and less various images: values lie within
            ± so much, about 0.5 to 2; see ``latents.truncated``.

    Raises:
        ValueError: ``count`` or ``batch_size`` is below 1, ``truncation`` is not positive, or
            labels do not fit the generator.
        TypeError: labels are no Tensor.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        check_int(name, value, 1)
    noise = draw_noise(generator, count, seed, truncation)
    return images_of(generator, noise, fitting_labels(generator, count, labels), batch_size)


def set_temperature(generator: nn.Module, temperature: float) -> None:
    """Let a language model draw with that temperature; ValueError for others, or none above 0."""
    if not hasattr(generator, "temperature"):
        raise ValueError(f"temperature is of language models; {type(generator).__name__} is none")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, got {temperature!r}")
    generator.temperature = temperature  # type: ignore[assignment]


def fitting_labels(generator: nn.Module, count: int, labels: Tensor | None) -> Tensor | None:
    """``labels``, or all classes in turn where a generator needs some; else ValueError."""
    if labels is not None and not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a Tensor, got {labels!r} of type {type(labels).__name__}")
    classes = getattr(generator, "num_classes", 0)
    if not classes:
        if labels is not None and (labels.dtype != torch.int64 or labels.dim() > 1):
            if len(labels) != count:
                raise ValueError(f"labels must be [{count}, ...], got {list(labels.shape)}")
            return labels
        if labels is not None:
            raise ValueError(f"labels: {type(generator).__name__} draws no classes")
        if hasattr(generator, "default_conditions"):
            return generator.default_conditions(count)  # type: ignore[operator]
        if takes_no_noise(generator):
            raise ValueError(
                f"{type(generator).__name__} draws nothing by itself: it makes images of others "
                "(fastgan translate, upscale, inpaint), or sounds of spectrograms (vocode)"
            )
        return None
    if labels is None:
        return torch.arange(count) % classes
    if tuple(labels.shape) != (count,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 of shape [{count}], got {labels.dtype} of {list(labels.shape)}"
        )
    check_classes(labels, classes)
    return labels


@torch.no_grad()
def images_of(
    generator: nn.Module, noise: Tensor, labels: Tensor | None = None, batch_size: int = 256
) -> Tensor:
    """The images of ``noise`` (and ``labels``), batch by batch, on the CPU."""
    made = in_batches(generator, noise, labels, batch_size)
    return torch.cat([images.float().cpu() for images in made])


def in_batches(
    network: nn.Module, rows: Tensor, labels: Tensor | None, batch_size: int
) -> Iterator[Any]:
    """What ``network`` makes of ``rows`` (and ``labels``), batch by batch, on its device."""
    device = next(network.parameters()).device
    parts = zip(*(each.split(batch_size) for each in inputs_of(rows, labels)), strict=True)
    for number, part in enumerate(parts, 1):
        yield network(*(each.to(device) for each in part))
        if len(rows) > batch_size:
            tell("drawing", min(number * batch_size, len(rows)), len(rows))
