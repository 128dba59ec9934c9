"""Whether a configuration fits the networks, the data and the processes."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fastgan.data import ImageDataset, ImageStream, Source
from fastgan.engine.capture import CaptureError
from fastgan.engine.config import Capture, TrainConfig
from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.grid import check_picture, scale_of
from fastgan.engine.latents import takes_no_noise
from fastgan.engine.memory import require_memory
from fastgan.engine.objectives import Objective
from fastgan.engine.optimizers import check_optimizer, not_capturable
from fastgan.models import Translator
from fastgan.nn import BatchNormAct1d, BatchNormAct2d, BatchNormAct3d

_BatchNorm = nn.modules.batchnorm._BatchNorm
_SEGMENTED = (BatchNormAct1d, BatchNormAct2d, BatchNormAct3d)


def check_choices(
    config: TrainConfig,
    objective: Objective,
    generator: nn.Module,
    discriminator: nn.Module | None,
    dataset: Source,
    group: DistributedGroup,
    device: torch.device,
) -> None:
    """Raises ValueError where a choice of ``config`` would not do what it says, or not fit."""
    _check_sizes(config, dataset, group, device)
    _check_shape(generator, dataset)
    objective.check(config, generator, discriminator)
    if config.class_weights != "off" and objective.objective != "gan":
        raise ValueError(
            "class_weights are of objective gan, whose discriminator may have class outputs, got "
            f"{objective.objective}"
        )
    _check_labels(config, generator, discriminator, dataset)
    discriminator = nn.Module() if discriminator is None else discriminator
    share = group.share(config.batch_size, "batch_size")
    if share % config.accumulate:
        raise ValueError(
            f"batch_size must be a multiple of accumulate = {config.accumulate} on each of "
            f"{group.size} processes, got {config.batch_size}"
        )
    plain = [
        name
        for name, layer in discriminator.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, _SEGMENTED)
    ]
    if config.joint_batch and plain:
        raise ValueError(
            "joint_batch needs batch norm that keeps real and fake images apart "
            f"(fastgan.nn.BatchNormAct); the discriminator's {plain[0]} does not"
        )
    if config.sync_batchnorm and plain:
        raise ValueError(
            "sync_batchnorm needs batch norm that can be synchronised "
            f"(fastgan.nn.BatchNormAct); the discriminator's {plain[0]} cannot"
        )


def capture_of(config: TrainConfig, *parts: nn.Module | Optimizer) -> tuple[Capture, str]:
    """``config.capture``, but that auto leaves a step as it is that cannot be captured, and why.

    Raises:
        CaptureError: it is on, and a layer of a network or an optimizer reads a value on the host.
    """
    reasons = [reason for part in parts if (reason := _reads_on_the_host(part))]
    if not reasons or config.capture == "off":
        return config.capture, ""
    if config.capture == "on":
        raise CaptureError(f"capture is on, but {reasons[0]}")
    return "off", reasons[0]


def _reads_on_the_host(part: nn.Module | Optimizer) -> str | None:
    if isinstance(part, Optimizer):
        return not_capturable(part)
    for name, layer in part.named_modules():
        counts = isinstance(layer, _BatchNorm) and layer.track_running_stats
        if counts and layer.momentum is None:
            return (
                f"{type(part).__name__}'s {name} has momentum=None, an average over a count that "
                "the host reads: give it a number"
            )
    return None


def width_of_noise(generator: nn.Module, given: int | None) -> int:
    """The values of noise that a generator takes for an image. ValueError where nothing tells."""
    width = given if given is not None else getattr(generator, "latent_dim", None)
    if not isinstance(width, int) or width < 0:
        raise ValueError(
            "latent_dim must be a whole number, the values of noise that the generator takes (0: "
            f"conditions alone), got {width!r}: Trainer(..., latent_dim=100), or an attribute "
            "generator.latent_dim"
        )
    return width


def check_given(
    config: TrainConfig,
    optimizers: tuple[Optimizer | None, Optimizer | None],
    networks: tuple[nn.Module, nn.Module],
) -> tuple[bool, bool]:
    """Which of the networks a person's own optimizer updates; errors of :func:`check_optimizer`."""
    if len(optimizers) != 2:
        raise ValueError(
            "optimizers must be two, of the generator and of the discriminator, each an "
            f"optimizer or None; got {len(optimizers)}"
        )
    names = "optimizers[0] (the generator's)", "optimizers[1] (the discriminator's)"
    for optimizer, network, name in zip(optimizers, networks, names, strict=True):
        if optimizer is not None:
            check_optimizer(optimizer, network, name)
    given_g, given_d = (optimizer is not None for optimizer in optimizers)
    if (given_g or given_d) and (config.lr_schedule != "constant" or config.warmup_steps):
        raise ValueError(
            "lr_schedule and warmup_steps are of the optimizers that the configuration names; "
            "give schedulers for your own"
        )
    return given_g, given_d


def _check_sizes(
    config: TrainConfig,
    dataset: Source,
    group: DistributedGroup,
    device: torch.device,
) -> None:
    item = dataset.shape[1:]
    if len(item) > 2:
        height, width = item[-2:]
        try:
            check_picture(config.sample_count, height, width, scale=scale_of(width))
        except ValueError as error:
            raise ValueError(f"sample_count: {error}") from error
    if config.augment != "none" and len(item) != 3:
        raise ValueError(
            f"augment {config.augment} is for images [C, H, W]; items of {dataset.name} are "
            f"{list(item)}"
        )
    # Real and generated images of one part, float32: what layers keep comes on top.
    at_once = config.batch_size // group.size // config.accumulate
    least = 2 * 4 * at_once * math.prod(item)
    require_memory("batch_size", config.batch_size, least, device)


def _check_shape(generator: nn.Module, dataset: Source) -> None:
    if isinstance(generator, Translator) and generator.channels != dataset.shape[1]:
        raise ValueError(
            f"{type(generator).__name__} makes images of {generator.channels} channels, and items "
            f"of {dataset.name} are {list(dataset.shape[1:])}: build it with their channels"
        )
    made = getattr(generator, "item_shape", dataset.shape[1:])
    if made != dataset.shape[1:]:
        raise ValueError(
            f"{type(generator).__name__} makes images of {list(made)}, and items of "
            f"{dataset.name} are {list(dataset.shape[1:])}: build it with their channels and "
            "image_size, or load them with those of the generator"
        )


def _check_labels(
    config: TrainConfig,
    generator: nn.Module,
    discriminator: nn.Module | None,
    dataset: Source,
) -> None:
    classes = getattr(generator, "num_classes", 0)
    if config.balance and not isinstance(dataset, (ImageDataset, ImageStream)):
        raise ValueError(
            f"balance needs all classes beforehand, as ImageDataset and streams have them, and "
            f"{dataset.name} is read as it goes: give its DataLoader a WeightedRandomSampler"
        )
    if not config.conditional:
        if classes:
            raise ValueError(
                f"{type(generator).__name__} draws {classes} classes: it is trained with "
                "conditional, on data that has labels"
            )
        return
    takes = (None if takes_no_noise(generator) else generator), discriminator
    for network in takes:
        if network is not None and not _takes_two(network):
            raise ValueError(
                f"conditional gives labels to both networks, and {type(network).__name__} takes "
                "none: its forward has one argument (cdcgan, acgan and projection are recipes "
                "whose networks take labels)"
            )
    if dataset.labels is None:
        raise ValueError(
            f"conditional needs labels, and {dataset.name} has none: give it a folder with a "
            "subfolder for each class, an .npz with labels, or IDX files with theirs"
        )
    if not classes:
        return
    if dataset.labels.dtype != torch.int64 or dataset.labels.dim() != 1:
        raise ValueError(
            f"{type(generator).__name__} draws {classes} classes, and the conditions of "
            f"{dataset.name} are {dataset.labels.dtype} {list(dataset.labels.shape[1:])}"
        )
    highest, at = int(dataset.labels.max()), int(dataset.labels.argmax())
    if highest >= classes:
        origin = dataset.origin(at) if hasattr(dataset, "origin") else dataset.name
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, the classes of {type(generator).__name__}; "
            f"{origin} has label {highest}: build it with num_classes={highest + 1}"
        )


def data_facts(generator: nn.Module, dataset: Source) -> dict[str, Any]:
    """What a checkpoint says of its data; among it the classes that the generator draws and no
    image is of, where all labels are known beforehand."""
    facts: dict[str, Any] = {
        "name": dataset.name,
        "images": list(dataset.shape),
        "fingerprint": dataset.fingerprint(),
    }
    if names := getattr(dataset, "classes", None):
        facts["classes"] = list(names)
    labels = dataset.labels if isinstance(dataset, (ImageDataset, ImageStream)) else None
    if labels is not None and labels.dtype == torch.int64 and labels.dim() == 1:
        drawn = {*range(getattr(generator, "num_classes", 0))}
        if unseen := sorted(drawn - {*labels.unique().tolist()}):
            facts["unseen_classes"] = unseen
    return facts


def _takes_two(network: nn.Module) -> bool:
    """Whether its forward takes a second argument in order, as far as can be told."""
    try:
        inspect.signature(network.forward).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # of a compiled module, say
        return True
    return True
