"""What the images of each class weigh in the loss of a discriminator's class outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan.data import ImageDataset, ImageStream, Source
from fastgan.nn.modes import output_in_eval

OFF, BALANCED = "off", "balanced"


def parse_class_weights(value: str) -> tuple[float, ...]:
    """The numbers of a list such as ``"1,2,0.5"``; none of ``off`` and ``balanced``.

    TypeError or ValueError for anything else, or a number that is not positive and finite.
    """
    expected = f"class_weights must be {OFF}, {BALANCED} or a positive number for each class"
    if not isinstance(value, str):
        raise TypeError(f"{expected}, as 1,2,0.5; got {value!r} of type {type(value).__name__}")
    if value in (OFF, BALANCED):
        return ()
    try:
        weights = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise ValueError(f"{expected}, as 1,2,0.5; got {value!r}") from None
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"{expected}, as 1,2,0.5; got {value!r}")
    return weights


def class_weights_of(
    value: str, balance: float, generator: nn.Module, dataset: Source
) -> tuple[float, ...] | None:
    """The weight of each class that the generator draws; None of ``off``.

    ``balanced`` gives a class the inverse of the share of its images among those that are drawn
    (with ``balance``, of drawing rare classes more often, taken into account), so that all weigh
    alike and the mean over images is 1. A class without images has 1.

    Raises:
        ValueError: the labels are no classes, or not all known beforehand, or the list has another
            number of classes.
    """
    weights = parse_class_weights(value)
    if value == OFF:
        return None
    labels = dataset.labels
    if labels is None or labels.dtype != torch.int64 or labels.dim() != 1:
        raise ValueError(
            f"class_weights {value} needs labels that are classes, with conditional, and "
            f"{dataset.name} has {'none' if labels is None else 'other conditions'}"
        )
    count = getattr(generator, "num_classes", 0) or int(labels.max()) + 1
    if weights and len(weights) != count:
        raise ValueError(f"class_weights must be {count} numbers, one a class, got {len(weights)}")
    if weights:
        return weights
    if not isinstance(dataset, (ImageDataset, ImageStream)):
        raise ValueError(
            f"class_weights {BALANCED} needs all classes beforehand, as ImageDataset and streams "
            f"have them, and {dataset.name} is read as it goes: give a number for each class"
        )
    images = torch.bincount(labels.cpu(), minlength=count).double()
    drawn = torch.where(images > 0, images ** (1 - balance), 0)
    inverse = drawn.sum() / (drawn * (drawn > 0).sum())
    return tuple(torch.where(images > 0, inverse, 1.0).tolist())


@torch.no_grad()
def check_class_outputs(discriminator: nn.Module, images: Tensor, labels: Tensor | None) -> None:
    """ValueError where a discriminator, in evaluation mode, gives images no class logits.

    An error of its own is left to the first step.
    """
    found = output_in_eval(discriminator, images, labels)
    if found is None:
        return
    if isinstance(found, Tensor) or not isinstance(found, Sequence) or len(found) != 2:
        raise ValueError(
            "class_weights weigh the loss of class outputs, and "
            f"{type(discriminator).__name__} gives logits alone: take a discriminator that gives "
            "(logits, class logits), as of recipe acgan, or balance, which draws rare classes more "
            "often"
        )
