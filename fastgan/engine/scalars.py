"""What a step's device tells the host, at log points."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.engine.train_state import TrainState


def read_scalars(trainer: TrainState) -> dict[str, float]:
    """The newest scalars, means over all ranks, and the counts of updates that were ``skipped`` and
    of those whose gradients were ``non_finite``: one wait for the device.
    """
    latest, updates = trainer.latest, (trainer.gan.update_g, trainer.gan.update_d)
    means = trainer.group.mean(torch.stack([value.float() for value in latest.values()]))
    skipped = updates[0].skipped + updates[1].skipped
    read = torch.cat([means, torch.stack([skipped, non_finite(trainer)])]).tolist()
    return dict(zip([*latest, "skipped", "non_finite"], read, strict=True))


def non_finite(trainer: TrainState) -> Tensor:
    """How many updates had gradients that were not finite, overflows of a loss scale apart."""
    g, d = trainer.gan.update_g, trainer.gan.update_d
    return g.skipped - g.overflows + d.skipped - d.overflows
