"""Scores of generators that give images the style of a picture."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from fastgan.data import ImageDataset
from fastgan.engine.checkpoint import Checkpoint
from fastgan.engine.objectives import objective_of
from fastgan.engine.styling import StyleObjective, StyleStep
from fastgan.metrics import Score
from fastgan.metrics.score import setting_of

_AT_ONCE = 64


def trained_style(checkpoint: Checkpoint) -> StyleStep | None:
    """The step of a run towards a picture's style, with the picture and the filters that its
    checkpoint holds; None of another run. The picture's file is not looked for.
    """
    objective = objective_of(checkpoint.manifest)
    if not isinstance(objective, StyleObjective):
        return None
    held = {k.removeprefix("step."): v for k, v in checkpoint.tensors("extra").items()}
    weights = objective.content_weight, objective.style_weight
    step = StyleStep(held["picture"], checkpoint.manifest["data"]["images"][1:], *weights)
    step.load_state_dict(held)
    return step


@torch.no_grad()
def style_scores(generator: nn.Module, step: StyleStep, reals: ImageDataset) -> list[Score]:
    """The two losses without their weights: `content` and `style` of what the generator makes of
    images; of the images as they are (`_unchanged`), whose content is 0; and of a window of the
    picture in place of each (`_picture`), whose style is the least that can be asked for.
    """
    device = next(generator.parameters()).device
    step = step.to(device)
    totals = torch.zeros(3, 2, dtype=torch.float64)
    for part in reals.images.split(_AT_ONCE):
        images = (part.float() / 127.5 - 1).to(device)
        ways = generator(images), images, step.windows(len(images), images.shape[2:])
        for total, made in zip(totals, ways, strict=True):
            losses: tuple[Tensor, Tensor] = step.apart(step.maps(made), images)
            total += torch.stack([loss.double().sum() for loss in losses]).cpu()
    setting = {
        **setting_of(reals, len(reals)),
        "style_sha256": hashlib.sha256(step.picture.cpu().numpy().tobytes()).hexdigest(),
        "style_size": min(step.picture.shape[1:]),
        "scales": step.features.scales,
    }
    return [
        Score(f"{metric}{way}", float(total[i]) / len(reals), None, setting)
        for way, total in zip(("", "_unchanged", "_picture"), totals, strict=True)
        for i, metric in enumerate(("content", "style"))
    ]
