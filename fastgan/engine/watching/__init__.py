"""Looks at a run's stability: what its networks and samples are like, and what goes wrong."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.engine.gan import Batch
from fastgan.engine.health import Health
from fastgan.engine.intervals import parse_interval
from fastgan.engine.latents import draw_noise
from fastgan.engine.step import gan_step
from fastgan.engine.train_state import TrainState
from fastgan.engine.translating import TranslationStep
from fastgan.engine.watching.measures import LargestSingular, Play, Reals, play, undisturbed
from fastgan.engine.watching.signs import Signs

# Samples of a look, and images of its one pass forward and back, which is no larger than a step's.
_COUNT = 64
# Where a logit says "real", of losses whose logits have such a place.
_REAL_FROM = {"non_saturating": 0.0, "saturating": 0.0, "hinge": 0.0, "lsgan": 0.5}
_NOT_COMPARED = "not watched are spread and nearest"


class Watch:
    """Looks at a run at every ``config.watch_every``, between two steps.

    A look measures (docs/metrics.md has what it is): the discriminator's accuracy, the norm of both
    networks' gradients, their largest spectral norms, and of the averaged generator's samples their
    spread and how near they are to the data. It makes one pass of its own, in float32, and leaves
    weights, buffers and random numbers as they are; a captured step stays captured. All processes
    must look together.

    ``left_out`` says which measures have no meaning for the run's data or objective, and why.
    """

    def __init__(self, trainer: TrainState, health: Health) -> None:
        self._trainer, self._health = trainer, health
        self._new: dict[str, float] = {}
        self.left_out: list[str] = []
        self._reals: Reals | None = None
        self._signs: Signs | None = None
        self.on = parse_interval("watch_every", trainer.config.watch_every).on
        if not self.on:
            return
        networks = {"g": trainer.generator, "d": trainer.discriminator}
        self._spectral = {name: LargestSingular(network) for name, network in networks.items()}
        self._plays, self._from = self._what_is_played()
        self._compares = self._what_is_compared()

    def look(self) -> list[str]:
        """Measure; returns what to tell a person, if there is anything new."""
        told = []
        with self._undisturbed():
            self._new = self._of_networks()
            if self._compares and self._reals is None:
                self._reals = Reals(self._trainer.dataset, self._trainer.config.flip, _COUNT)
                self._compares = self._reals.usable
                if not self._compares:
                    told.append(f"{_NOT_COMPARED}: most images of the data are one")
            if self._compares:
                self._new |= self._of_samples()
        self._signs = self._signs or Signs(self._health, self._reals.copied if self._reals else 0.0)
        return told + self._signs.of(self._trainer.step, self._new)

    def take(self) -> dict[str, float]:
        """What the newest look has measured, once."""
        taken, self._new = self._new, {}
        return taken

    def _what_is_played(self) -> tuple[bool, float | None]:
        """Whether a step's losses are known, and where its logits say "real"."""
        trainer = self._trainer
        step: Any = trainer.step_function
        translates = isinstance(step, TranslationStep)
        if step is not gan_step and not translates:
            own = trainer.objective.step(trainer.generator, trainer.dataset.shape[1:]) is gan_step
            which = "step is one's own" if own else f"objective is {trainer.objective.objective}"
            self.left_out.append(
                "not watched are accuracy and gradients: they are of a generator against a "
                f"discriminator, and this run's {which}"
            )
            return False, None
        if translates and not step.adversarial_weight:
            self.left_out.append("not watched is accuracy: no discriminator is trained")
            return True, None
        name = trainer.gan.loss.name.partition(",")[0]
        if name not in _REAL_FROM:
            self.left_out.append(
                f"not watched is accuracy: the logits of loss {name or 'one of your own'} have no "
                "place that parts real from generated images"
            )
        return True, _REAL_FROM.get(name)

    def _what_is_compared(self) -> bool:
        """Whether distances of samples say something."""
        trainer = self._trainer
        characters = isinstance(getattr(trainer.generator, "characters", None), str)
        why = ""
        if len(trainer.dataset.shape) != 4 or characters:
            why = "they are distances of images"
        elif not trainer.latent_dim:
            why = "what is made of given images is as various, and as near, as these are"
        if why:
            self.left_out.append(f"{_NOT_COMPARED}: {why}")
        return not why

    def _undisturbed(self) -> AbstractContextManager[None]:
        trainer = self._trainer
        parts = trainer.generator, trainer.discriminator, trainer.gan.augment, trainer.step_function
        modules = [part for part in parts if isinstance(part, nn.Module)]
        return undisturbed(modules, trainer.device)

    def _of_networks(self) -> dict[str, float]:
        found: dict[str, Tensor | None] = {}
        if self._plays:
            step: Any = self._trainer.step_function
            made = play(self._trainer.gan, self._batch(), step if step is not gan_step else None)
            found |= {"grad_g": made.grad_g, "grad_d": made.grad_d, **self._accuracy(made)}
        found |= {f"spectral_{name}": norms.largest() for name, norms in self._spectral.items()}
        there = {name: value for name, value in found.items() if value is not None}
        if not there:
            return {}
        read = torch.stack([value.detach().float() for value in there.values()]).tolist()
        return dict(zip(there, read, strict=True))

    def _accuracy(self, made: Play) -> dict[str, Tensor | None]:
        if self._from is None or made.real is None or made.fake is None:
            return {}
        return {
            "accuracy_real": (made.real > self._from).float().mean(),
            "accuracy_fake": (made.fake < self._from).float().mean(),
        }

    def _batch(self) -> Batch:
        trainer, config = self._trainer, self._trainer.config
        count = min(_COUNT, config.batch_size // trainer.group.size // config.accumulate)
        images, labels = trainer.some_images(count)
        if isinstance(trainer.step_function, TranslationStep):
            labels = trainer.step_function.fixed(images, labels, config.seed)
        noise = draw_noise(trainer.latent_dim, count, config.seed).to(trainer.device)
        return Batch(images, labels, noise)

    def _of_samples(self) -> dict[str, float]:
        trainer = self._trainer
        assert self._reals is not None
        noise = draw_noise(trainer.latent_dim, _COUNT, trainer.config.seed).to(trainer.device)
        likeness = self._reals.likeness(trainer.sample(noise, trainer.conditions(_COUNT)))
        return likeness._asdict()
