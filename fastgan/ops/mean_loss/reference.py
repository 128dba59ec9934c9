"""mean_loss in plain PyTorch: the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CROSS_ENTROPY, SQUARE, HINGE, LINEAR, SATURATING = range(5)


class Term(NamedTuple):
    """A function of one logit x: ``kind`` of the table in `mean_loss`, with its ``target`` t."""

    kind: int
    target: float


def mean_loss(parts: Sequence[tuple[Tensor, Term]]) -> tuple[Tensor, ...]:
    """(the sum over the parts of the mean of each one's term, the mean of each one's logits)."""
    loss, *others = [of_each(logits, term).mean() for logits, term in parts]
    means = (logits.detach().mean(dtype=torch.float32) for logits, _ in parts)
    return sum(others, start=loss), *means


def of_each(x: Tensor, term: Term) -> Tensor:
    """The term of every logit."""
    kind, target = term
    if kind == CROSS_ENTROPY:
        return cross_entropy(x, target)
    if kind == SQUARE:
        return 0.5 * (x - target).square()
    if kind == HINGE:
        return F.relu(1 - target * x)
    return -target * x if kind == LINEAR else -softplus(x)


def softplus(x: Tensor) -> Tensor:
    # logsigmoid(x) = -softplus(-x), without softplus' switch to the identity above 20.
    return -F.logsigmoid(-x)


def cross_entropy(x: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of logits against one label."""
    if target == 1.0:
        return -F.logsigmoid(x)
    if target == 0.0:
        return softplus(x)
    return target * softplus(-x) + (1 - target) * softplus(x)
