"""The step of a language model: the likelihood of each character by those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastgan.engine.gan import GAN, Batch, Metrics
from fastgan.engine.step import mean_metrics


def negative_log_likelihood(model: Any, text: Tensor) -> Tensor:
    """Nats a character of one-hot text [N, characters, length] under `model.logits`: a scalar."""
    return F.cross_entropy(model.logits(text).float(), text.argmax(1))


def language_step(
    gan: GAN, batches: Callable[[int], Batch], due: Sequence[Sequence[bool]] = ()
) -> Metrics:
    """One update by the cross-entropy of the next character."""
    gan.update_g.start()
    metrics = []
    for part in batches(0).split(gan.accumulate):
        with gan.autocast():
            loss = negative_log_likelihood(gan.generator, part.images)
        gan.update_g.backward(loss / gan.accumulate)
        metrics.append({"loss_nats": loss.detach()})
    gan.update_g.finish()
    return mean_metrics(metrics)
