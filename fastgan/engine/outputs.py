"""What a discriminator makes of images."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class DiscriminatorOutput(NamedTuple):
    """What a discriminator says of images: logits, and how far it is from their classes.

    Attributes:
        class_loss: the cross-entropy of its class outputs against the labels, a scalar; None for a
            discriminator without class outputs.
    """

    logits: Tensor
    class_loss: Tensor | None = None


def output_of(outputs: tuple[Tensor, ...], labels: Tensor | None) -> DiscriminatorOutput:
    if len(outputs) == 1:
        return DiscriminatorOutput(outputs[0])
    logits, classes = outputs
    if labels is None:
        raise ValueError("the discriminator has class outputs, which need labels: conditional")
    return DiscriminatorOutput(logits, F.cross_entropy(classes.float(), labels))
