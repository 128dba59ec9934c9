"""What a discriminator makes of images."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class DiscriminatorOutput(NamedTuple):
    """What a discriminator says of images: logits, and how far it is from their classes.

    Attributes:
        class_loss: the cross-entropy of its class outputs against the labels, a scalar; None for a
            discriminator without class outputs.
        reconstruction_loss: how far real images are from what the discriminator's decoders make of
            its maps, a scalar; None where it was not asked for.
    """

    logits: Tensor
    class_loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None


def output_of(
    outputs: tuple[Tensor, ...], labels: Tensor | None, weights: Tensor | None = None
) -> DiscriminatorOutput:
    """The logits, and the class loss where there are class logits.

    Args:
        weights: float32 [classes]: what an image of each class weighs; a mean over images, not over
            weights, so that that of a batch is the mean of those of its parts.
    """
    if len(outputs) == 1:
        return DiscriminatorOutput(outputs[0])
    logits, classes = outputs
    if labels is None:
        raise ValueError(
            "conditional must be on: the discriminator gives (logits, class logits), and these are "
            "held to labels"
        )
    if weights is None:
        return DiscriminatorOutput(logits, F.cross_entropy(classes.float(), labels))
    if len(weights) != classes.shape[1]:
        raise ValueError(
            f"class_weights must be {classes.shape[1]} numbers, one a class of the discriminator's "
            f"outputs, got {len(weights)}"
        )
    losses = F.cross_entropy(classes.float(), labels, weights, reduction="none")
    return DiscriminatorOutput(logits, losses.mean())


def halves(t: Tensor) -> tuple[Tensor, Tensor]:
    """The halves of a joint batch: as `Tensor.chunk`, but that gradients that lie side by side in
    memory become one without a copy."""
    first, second = _Halves.apply(t)
    return first, second


class _Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.chunk(2))

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        together = (
            not torch.is_grad_enabled()
            and a.is_contiguous()
            and b.is_contiguous()
            and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
            and a.storage_offset() + a.numel() == b.storage_offset()
        )
        if together:
            return a.as_strided((len(a) + len(b), *a.shape[1:]), a.stride())
        return torch.cat([a, b])
