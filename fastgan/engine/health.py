"""Signs that a run goes wrong: a discriminator that has won, samples that are all alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.data import normalised
from fastgan.engine.train_state import TrainState

# The discriminator's loss, as a share of that of one that cannot tell, below which it has won; and
# for how many log points in a row it must stay there.
_WON, _PATIENCE = 0.01, 5
WON, ALIKE = "the discriminator has won", "are alike"
"""The words by which these are known to have been told."""
# Images that a discriminator learns by heart, in the papers on augmentation.
_FEW = 10_000
# Distance of a sample to the sample nearest to it, as a share of the same among real images.
_ALIKE = 0.2


class Health:
    """Watches a run at its log and sample points. Nothing is changed: what is seen is reported.

    Saturation: the discriminator's loss is below 1 % of its loss at equal logits, at five log
    points in a row; the generator then learns from vanishing gradients. A loss without such a
    measure (Wasserstein) is left out.

    Collapse: the median distance of a sample to its nearest neighbour among the samples is below a
    fifth of the same among as many real images, in two grids in a row: few pictures come again and
    again. With labels, classes must be lost from within to be seen here; `fastgan eval --metrics
    prdc,classes` looks closer.
    """

    def __init__(self, trainer: TrainState) -> None:
        self._trainer = trainer
        self._equal = _loss_at_equal_logits(trainer)
        self._low = self._alike = 0
        self._real_distance: float | None = None
        self.diversity: float | None = None
        self.warnings: list[str] = []

    def losses(self, values: dict[str, float]) -> str | None:
        """At a log point: what to tell a person, if there is anything new."""
        loss = values.get("loss_d")
        if loss is None or self._equal <= 0:
            return None
        self._low = self._low + 1 if loss < _WON * self._equal else 0
        if self._low != _PATIENCE:
            return None
        return self.warn(
            f"{WON} by step {self._trainer.step}: its loss is {loss:.2g}, where one that cannot "
            f"tell has {self._equal:.2g}. {self.won_hint()}",
            once=WON,
        )

    def won_hint(self) -> str:
        """What may help against a discriminator that has won."""
        count = self._trainer.dataset.shape[0]
        known = f"It may know its {count:,} images by heart: " if 0 < count < _FEW else ""
        return (
            f"{known}augment diffaugment or ada is the first thing to try. A lower lr_d, "
            "smooth_real or a regularizer (r1) may help, too"
        )

    def samples(self, images: Tensor) -> str | None:
        """At a sample point, of images [N, ...]: what to tell, if there is anything new."""
        if len(images) < 8:
            return None
        if self._real_distance is None:
            data = self._trainer.dataset
            self._real_distance = nearest_distance(
                normalised(data.some(len(images)), data.value_range)
            )
        self.diversity = nearest_distance(images) / max(self._real_distance, 1e-12)
        self._alike = self._alike + 1 if self.diversity < _ALIKE else 0
        if self._alike != 2:
            return None
        return self.warn(
            f"the samples of step {self._trainer.step} {ALIKE}: the nearest of them are "
            f"{self.diversity:.2g} times as far apart as real images. The generator may have "
            "collapsed to a few pictures",
            once=ALIKE,
        )

    def warn(self, text: str, once: str = "") -> str | None:
        """``text`` as a person is told it, and kept with the run; None where a warning with the
        words ``once`` was told before."""
        if once and any(once in told for told in self.warnings):
            return None
        self.warnings.append(text)
        return f"warning: {text}"


def nearest_distance(images: Tensor) -> float:
    """The median distance of an image of [N, ...] to the nearest other; NaN if N < 2."""
    if len(images) < 2:
        return math.nan
    flat = images.detach().float().cpu().flatten(1)
    distance = torch.cdist(flat, flat).fill_diagonal_(math.inf)
    return float(distance.min(1).values.median())


def _loss_at_equal_logits(trainer: TrainState) -> float:
    zeros = torch.zeros(2)
    return float(trainer.gan.loss.discriminator(zeros, zeros))
