"""Scores of generators between two domains that have no pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.data import ImageDataset, Unpaired
from fastgan.engine.sampling import images_of, in_batches
from fastgan.metrics import Reconstruction, Score, domain_classifier
from fastgan.metrics.score import setting_of

Sets = tuple[ImageDataset, ImageDataset]
_AT_ONCE = 64


def cycle_scores(generator: Any, train: Sets, reals: Sets, seed: int = 0) -> list[Score]:
    """What comes back of images of two domains, A and B, and what a classifier takes for real ones.

    `psnr_a` and `ssim_a` are of images of A that went to B and back. `fooled_b` is the share of
    the images made of A's that the classifier takes for images of B, and `unchanged_b` that of A's
    images as they are, which it gets wrong. `kept_b` is the PSNR of what was made of A's images
    against these: the lower it is, the more was changed. And the other way round. `accuracy` is the
    classifier's on the real images, the mean of both domains'.

    Args:
        generator: with `forth`, from A to B, and `back`.
        train: what the classifier is trained on.
        reals: what is measured.
        seed: of the classifier.
    """
    device = next(generator.parameters()).device
    classifier = domain_classifier(*(part.images.to(device) for part in train), seed=seed)
    setting = {
        **setting_of(Unpaired(*reals), sum(map(len, reals))),
        "classifier_trained_on": sum(map(len, train)),
        "seed": seed,
    }
    decibels = setting | {"unit": "dB"}
    scores, right = [], 0.0
    ways = ("a", "b", generator.forth, generator.back), ("b", "a", generator.back, generator.forth)
    for (own, other, there, back), data in zip(ways, reals, strict=True):
        images = data.images.float() / 127.5 - 1
        made = images_of(there, images, batch_size=_AT_ONCE)
        near, kept = Reconstruction(), Reconstruction()
        near.update(images, images_of(back, made, batch_size=_AT_ONCE))
        kept.update(images, made)
        taken, wrong = (_taken_for(other, x, classifier) for x in (made, images))
        right += (1 - wrong) / 2
        scores += [
            Score(f"fooled_{other}", taken, None, setting),
            Score(f"unchanged_{other}", wrong, None, setting),
            Score(f"psnr_{own}", near.psnr(), None, decibels),
            Score(f"ssim_{own}", near.ssim(), None, setting),
            Score(f"kept_{other}", kept.psnr(), None, decibels),
        ]
    return [*scores, Score("accuracy", right, None, setting)]


@torch.no_grad()
def _taken_for(domain: str, images: Tensor, classifier: nn.Module) -> float:
    """The share of images [N, C, H, W] that a classifier takes for images of a domain."""
    logits = torch.cat(list(in_batches(classifier, images, None, _AT_ONCE)))
    of_b = float((logits > 0).double().mean())
    return of_b if domain == "b" else 1 - of_b
