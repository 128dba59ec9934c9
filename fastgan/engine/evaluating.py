"""Scores of a generator: of any that is given, and of a run's as it goes on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.data import ImageDataset, Source
from fastgan.engine.autoencoding import binarized, encoded_and_back
from fastgan.engine.checkpoint import checkpoint_path
from fastgan.engine.intervals import parse_interval
from fastgan.engine.latents import draw_noise, takes_no_noise
from fastgan.engine.log import read_scores
from fastgan.engine.sampling import images_of
from fastgan.engine.train_state import TrainState
from fastgan.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    FeatureNetwork,
    NonFiniteImagesError,
    Options,
    Reconstruction,
    Score,
    evaluate,
    get_network,
)
from fastgan.metrics.score import setting_of
from fastgan.nn.modes import modes_kept
from fastgan.system import tell

_LOG = logging.getLogger(__name__)
RECONSTRUCTIONS = ("psnr", "ssim", "elbo")
_NEED_NO_REALS = {"is", "classes"}


def metrics_named(names: Sequence[str], generator: nn.Module) -> tuple[list[str], list[str]]:
    """Those of samples and those of reconstructions.

    Raises:
        ValueError: none, one that does not exist, or one that needs an encoder that is not there.
    """
    if takes_no_noise(generator):
        raise ValueError(
            f"{type(generator).__name__} makes images of others, which fastgan eval measures with "
            "--metrics psnr,ssim, and a run as it goes on does not: leave eval_every at 0"
        )
    check_named(names, (*METRICS, *RECONSTRUCTIONS))
    of_pairs = [name for name in names if name in RECONSTRUCTIONS]
    for name in of_pairs:
        if not hasattr(generator, "posterior" if name == "elbo" else "reconstruct"):
            raise ValueError(
                f"{name} needs {'a variational autoencoder' if name == 'elbo' else 'an encoder'}, "
                f"and {type(generator).__name__} has none: take metrics of samples, such as fid"
            )
    return [name for name in names if name in METRICS], of_pairs


def check_named(names: Sequence[str], known: Sequence[str]) -> None:
    """ValueError unless all ``names`` are known metrics, and there are some."""
    for name in names:
        if name not in known:
            raise ValueError(f"unknown metric {name!r}: there are {', '.join(known)}")
    if not names:
        raise ValueError(f"metrics must name at least one of {', '.join(known)}")


def needs_reals(names: Sequence[str]) -> bool:
    """Whether any of the metrics compares with real images."""
    return bool({*names} - _NEED_NO_REALS)


def sample_scores(
    generator: nn.Module,
    reals: ImageDataset | None,
    network: FeatureNetwork,
    metrics: Sequence[str],
    noise: Tensor,
    labels: Tensor | None,
    seed: int,
) -> list[Score]:
    """Scores of the images of ``noise`` [N, latent_dim], which ``seed`` has drawn."""
    options = Options(seed=seed)

    def fakes() -> Iterator[Tensor]:
        for start in range(0, len(noise), options.batch_size):
            part = slice(start, start + options.batch_size)
            yield images_of(generator, noise[part], None if labels is None else labels[part])
            tell("measuring samples", min(part.stop, len(noise)), len(noise))

    # Conditions that are no classes cannot be right or wrong.
    asked = labels if labels is not None and labels.dim() == 1 else None
    asked = asked if asked is None or asked.dtype == torch.int64 else None
    setting = {"seed": seed}
    return evaluate(fakes(), reals, network, metrics, options, labels=asked, setting=setting)


@torch.no_grad()
def reconstruction_scores(
    generator: Any, reals: ImageDataset, metrics: Sequence[str], seed: int = 0
) -> list[Score]:
    """PSNR, SSIM and evidence lower bound of all images of a set.

    The bound of a Bernoulli decoder is that of binarised images (every pixel drawn black or white,
    from `seed`), in nats an image, with one sample of z an image.
    """
    device = next(generator.parameters()).device
    near = Reconstruction()
    terms = torch.zeros(2, dtype=torch.float64)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for number, part in enumerate(reals.images.split(250)):
            tell("measuring reconstructions", number * 250, len(reals))
            images = (part.float() / 127.5 - 1).to(device)
            if "psnr" in metrics or "ssim" in metrics:
                near.update(images, generator.reconstruct(images))
            if "elbo" in metrics:
                binary = generator.likelihood == "bernoulli"
                images = binarized(images) if binary else images
                noise = torch.randn(len(images), generator.latent_dim, device=device)
                pair = torch.stack(encoded_and_back(generator, images, noise)).double().cpu()
                terms += pair * len(images)
    setting = setting_of(reals, len(reals))
    scores = []
    if "psnr" in metrics:
        scores.append(Score("psnr", near.psnr(), None, setting | {"unit": "dB"}))
    if "ssim" in metrics:
        scores.append(Score("ssim", near.ssim(), None, setting))
    if "elbo" in metrics:
        how = setting | {"likelihood": generator.likelihood, "seed": seed, "unit": "nats"}
        how |= {"images": "binarised"} if generator.likelihood == "bernoulli" else {}
        mean = (terms / len(reals)).tolist()
        scores += [
            Score("elbo", -sum(mean), None, how),
            Score("reconstruction", mean[0], None, how),
            Score("kl", mean[1], None, how),
        ]
    return scores


class Evaluator:
    """Measures a run's averaged generator at its evaluations, and knows the best of them.

    The first score of ``config.eval_metrics`` decides. A score that is not finite, as of a
    generator that has diverged, is no improvement.

    Raises:
        ValueError: metrics, data, networks and feature network do not fit each other.
        ModuleNotFoundError: a package of metrics is missing.
    """

    def __init__(self, trainer: TrainState) -> None:
        config = trainer.config
        self._trainer = trainer
        names = [name for name in config.eval_metrics.split(",") if name]
        self._of_samples, self._of_pairs = metrics_named(names, trainer.generator)
        self._reals = (
            _as_bytes(trainer.dataset, config.eval_samples) if needs_reals(names) else None
        )
        with self._own_random():  # which a network of its own starts from
            self._network = get_network(config.eval_features) if self._of_samples else None
        if self._network is not None and self._reals is not None:
            self._network(self._reals.images[:1].float() / 127.5 - 1)  # an error of one that is
            # not for such images, before anything is trained
        self._noise = draw_noise(trainer.latent_dim, config.eval_samples, 0)
        self._labels = trainer.conditions(config.eval_samples)
        self.at = -1
        """The step of the newest evaluation."""
        self.best: Score | None = None
        self.best_step = 0
        self.waited = 0
        """Evaluations since the best one."""

    @classmethod
    def of(cls, trainer: TrainState) -> Evaluator | None:
        """The run's own, if it is to be evaluated."""
        return cls(trainer) if parse_interval("eval_every", trainer.config.eval_every).on else None

    def evaluate(self, note: Callable[[str], None]) -> list[Score]:
        """Measure what the run's samples are drawn from, and tell of it; the same on all ranks."""
        trainer = self._trainer
        model = trainer.ema.average if trainer.ema else trainer.generator
        started = time.monotonic()
        with modes_kept(model), self._own_random():
            model.eval()
            scores = trainer.group.from_first(lambda: self._measure(model))
        _LOG.debug("the evaluation took %.1f s", time.monotonic() - started)
        self.take(trainer.step, scores)
        found = ", ".join(f"{score.metric} {score.value:.4g}" for score in scores)
        note(f"step {trainer.step}: {found}{' (best)' if self.improved else ''}")
        if self.gives_up:
            note(f"no better {scores[0].metric} in {self.waited} evaluations: the run ends here")
        return scores

    def take(self, step: int, scores: list[Score]) -> None:
        """Take note of an evaluation: this one, or one before the run was interrupted."""
        self.at = step
        if not scores or not _better(scores[0], self.best):
            self.waited += 1
            return
        self.best, self.best_step, self.waited = scores[0], step, 0

    def restart(self, path: Path) -> None:
        """Know the evaluations that stand in the run's ``scores.jsonl``, and no others."""
        self.at, self.best, self.best_step, self.waited = -1, None, 0, 0
        for step, scores in self._trainer.group.from_first(lambda: read_scores(path)):
            self.take(step, scores)

    @property
    def improved(self) -> bool:
        """Whether the newest evaluation is the best."""
        return self.best is not None and self.at == self.best_step

    def best_checkpoint(self, folder: Path) -> Path | None:
        """Where the best stands."""
        return None if self.best is None else checkpoint_path(folder, self.best_step)

    def ranks(self, step: int) -> list[float]:
        """What the checkpoint of a step that is the best so far is scored by, larger is better; of
        others nothing.
        """
        if self.best is None or step != self.best_step:
            return []
        return [-self.best.value if self.best.metric in LOWER_IS_BETTER else self.best.value]

    @property
    def gives_up(self) -> bool:
        """Whether ``config.stop_after`` evaluations have brought nothing better."""
        return 0 < self._trainer.config.stop_after <= self.waited

    def _own_random(self) -> AbstractContextManager[None]:
        """Inside, random numbers are drawn that the run's own know nothing of."""
        device = self._trainer.device
        return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def _measure(self, model: nn.Module) -> list[Score]:
        scores = []
        try:
            if self._network is not None:
                given = model, self._reals, self._network, self._of_samples
                scores += sample_scores(*given, self._noise, self._labels, 0)
        except NonFiniteImagesError:
            return [Score(self._of_samples[0], math.nan, note="the samples hold NaN or infinity")]
        if self._of_pairs:
            assert self._reals is not None
            scores += reconstruction_scores(model, self._reals, self._of_pairs)
        return scores


def _better(score: Score, best: Score | None) -> bool:
    if not math.isfinite(score.value):
        return False
    if best is None:
        return True
    less = score.value < best.value
    return less if score.metric in LOWER_IS_BETTER else score.value > best.value


def _as_bytes(dataset: Source, count: int) -> ImageDataset:
    """The real images to compare with: all of a set in memory, else ``count`` of them."""
    try:
        if not isinstance(dataset, ImageDataset):
            items = dataset.some(count)
            dataset = ImageDataset(items, name=dataset.name, value_range=dataset.value_range)
        return dataset.as_bytes()
    except ValueError as error:
        raise ValueError(f"eval_every measures images, and the data are others: {error}") from error
