"""Scores of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fastgan.checks import check_int
from fastgan.data import ImageDataset, load
from fastgan.data.options import Split
from fastgan.engine import find_checkpoint, load_generator
from fastgan.engine.checkpoint import MANIFEST
from fastgan.engine.evaluating import (
    metrics_named,
    needs_reals,
    reconstruction_scores,
    sample_scores,
)
from fastgan.engine.sampling import draw_noise, fitting_labels, to_draw
from fastgan.metrics import Score, get_network
from fastgan.recipes.recipe import DataConfig, data_of

Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Evaluation:
    """What to measure of a checkpoint, and how."""

    metrics: tuple[str, ...] = ("fid", "kid")
    """fid, kid, is, prdc and classes of samples; psnr, ssim and elbo of reconstructions."""
    data: str | None = None
    """The real images; by default those of the run."""
    split: Split = "train"
    """train or test, of data that has splits."""
    reals: int | None = None
    """Use so many real images only, evenly spaced over the source."""
    samples: int = 5000
    """Images to draw."""
    seed: int = 0
    """Of the noise, and of random subsets and splits."""
    features: str = "lenet"
    """The feature network: lenet, efficientnet-lite0, inception, or package.module:attribute."""
    inception_weights: Path | None = None
    """A file with Inception's weights, where they cannot be downloaded."""
    weights: Weights = "ema"
    """The moving average of the generator, or the weights that were being trained."""


def evaluate_checkpoint(
    path: Path, chosen: Evaluation, device: str | torch.device = "cpu"
) -> list[Score]:
    """The scores of a run's or checkpoint's generator.

    Raises:
        ValueError: an unknown metric; data, feature network or model that do not fit each other.
        OSError, ModuleNotFoundError: data, weights or packages that are not there.
    """
    generator = load_generator(path, weights=chosen.weights, device=device)
    of_samples, of_pairs = metrics_named(chosen.metrics, generator)
    run_data = run_data_of(path)
    reals = _reals(generator, chosen, run_data) if needs_reals(chosen.metrics) else None
    scores: list[Score] = []
    if of_samples:
        network = get_network(chosen.features, chosen.inception_weights)
        check_int("samples", chosen.samples, 1)
        noise = draw_noise(generator, chosen.samples, chosen.seed)
        labels = fitting_labels(generator, chosen.samples, None)
        given = to_draw(generator, chosen.samples), reals, network, of_samples
        scores += sample_scores(*given, noise, labels, chosen.seed)
    if of_pairs:
        assert reals is not None
        scores += reconstruction_scores(generator, reals, of_pairs, chosen.seed)
    return scores


def run_data_of(path: Path) -> DataConfig:
    """The data of a run's or checkpoint's run."""
    checkpoint = find_checkpoint(path)
    return data_of(checkpoint.manifest, checkpoint.path / MANIFEST)


def _reals(generator: Any, chosen: Evaluation, run: DataConfig) -> ImageDataset:
    return load(
        chosen.data or run.data,
        image_size=generator.image_size,
        channels=generator.channels,
        resize=run.resize,
        limit=chosen.reals,
        split=chosen.split,
    ).as_bytes()
