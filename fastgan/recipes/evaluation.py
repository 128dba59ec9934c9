"""Scores of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from fastgan.checks import check_int
from fastgan.data import ImageDataset, load
from fastgan.data.options import Split
from fastgan.engine import find_checkpoint, load_generator
from fastgan.engine.checkpoint import MANIFEST
from fastgan.engine.evaluating import (
    check_named,
    metrics_named,
    needs_reals,
    reconstruction_scores,
    sample_scores,
)
from fastgan.engine.sampling import draw_noise, fitting_labels, to_draw
from fastgan.metrics import Score, get_network
from fastgan.recipes.recipe import DataConfig, Recipe, built, list_recipes

Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Evaluation:
    """What to measure of a checkpoint, and how."""

    metrics: tuple[str, ...] | None = None
    """fid, kid, is, prdc and classes of samples; psnr, ssim and elbo of reconstructions. By default
    fid and kid; of what is no image all that its recipe measures."""
    data: str | None = None
    """The real images, or other items; by default those of the run."""
    split: Split = "train"
    """train or test, of data that has splits."""
    reals: int | None = None
    """Use so many real images only, evenly spaced over the source."""
    samples: int = 5000
    """Items to draw."""
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
    check_int("samples", chosen.samples, 1)
    generator = load_generator(path, weights=chosen.weights, device=device)
    recipe = _recipe_of(path)
    if recipe is not None and recipe.scores is not None:
        return _own_scores(recipe, generator, path, chosen)
    metrics = ("fid", "kid") if chosen.metrics is None else chosen.metrics
    of_samples, of_pairs = metrics_named(metrics, generator)
    run_data = run_data_of(path)
    reals = _reals(generator, chosen, run_data) if needs_reals(metrics) else None
    scores: list[Score] = []
    if of_samples:
        network = get_network(chosen.features, chosen.inception_weights)
        noise = draw_noise(generator, chosen.samples, chosen.seed)
        labels = fitting_labels(generator, chosen.samples, None)
        given = to_draw(generator, chosen.samples), reals, network, of_samples
        scores += sample_scores(*given, noise, labels, chosen.seed)
    if of_pairs:
        assert reals is not None
        scores += reconstruction_scores(generator, reals, of_pairs, chosen.seed)
    return scores


def _recipe_of(path: Path) -> Recipe | None:
    """The registered recipe of a checkpoint's run, or None."""
    name = find_checkpoint(path).manifest.get("recipe")
    return next((recipe for recipe in list_recipes() if recipe.name == name), None)


def _own_scores(recipe: Recipe, generator: Any, path: Path, chosen: Evaluation) -> list[Score]:
    """What the recipe measures, on the data of the run or those that were chosen."""
    data = run_data_of(path, type(recipe.data))
    data = replace(data, data=chosen.data or data.data, limit=chosen.reals or data.limit)
    device = next(generator.parameters()).device
    # Of the generator's size, which may have been chosen for the run.
    source = data.open(replace(recipe, image_size=generator.image_size), device)
    assert recipe.scores is not None
    scores = recipe.scores(generator, source, chosen.samples, chosen.seed)
    known = [score.metric for score in scores]
    names = known if chosen.metrics is None else chosen.metrics
    check_named(names, known)
    return [score for score in scores if score.metric in names]


def run_data_of(path: Path, kind: type[Any] = DataConfig) -> Any:
    """The data of a run's or checkpoint's run, as the section ``kind`` of its recipe."""
    checkpoint = find_checkpoint(path)
    return built(kind, checkpoint.manifest, "load", checkpoint.path / MANIFEST)


def _reals(generator: Any, chosen: Evaluation, run: DataConfig) -> ImageDataset:
    return load(
        chosen.data or run.data,
        image_size=generator.image_size,
        channels=generator.channels,
        resize=run.resize,
        max_pixels=run.max_pixels,
        limit=chosen.reals,
        split=chosen.split,
    ).as_bytes()
