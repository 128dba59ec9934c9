"""Scores of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastgan.checks import check_int, parse_size
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
from fastgan.engine.objectives import objective_of
from fastgan.engine.restoring import translate
from fastgan.engine.sampling import draw_noise, fitting_labels, to_draw
from fastgan.engine.styling import StyleStep
from fastgan.engine.translating import TranslationStep
from fastgan.metrics import Score, get_network
from fastgan.models import CycleGenerator, Translator
from fastgan.recipes.cycled import Sets, cycle_scores
from fastgan.recipes.recipe import (
    AudioConfig,
    DataConfig,
    Recipe,
    UnpairedConfig,
    built,
    list_recipes,
)
from fastgan.recipes.restored import translation_scores
from fastgan.recipes.styled import style_scores, trained_style
from fastgan.recipes.vocoder import held_out_windows, ways

Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Evaluation:
    """What to measure of a checkpoint, and how."""

    metrics: tuple[str, ...] | None = None
    """fid, kid, sliced, is, prdc, nearest and classes of samples; psnr, ssim and elbo of
    reconstructions. By default fid and kid; of images that are made of others psnr and ssim; of
    images of two domains also fooled, unchanged, kept and accuracy; in the style of a picture
    content and style; of what is no image all that its recipe measures."""
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
    """The feature network: lenet, efficientnet-lite0, inception, timm:NAME, torchvision:NAME,
    onnx:FILE#OUTPUT, or package.module:attribute; NAME@DIGITS refuses other weights."""
    feature_weights: Path | None = None
    """A file with the weights of inception, timm:NAME or torchvision:NAME, where they cannot be
    downloaded."""
    model: str | None = None
    """Of a run of your own networks: package.module:attribute that is the generator, or makes it
    without arguments."""
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
    own = chosen.model
    generator = load_generator(path, weights=chosen.weights, generator=own, device=device)
    recipe = _recipe_of(path)
    if recipe is not None and recipe.scores is not None:
        return _own_scores(recipe, generator, path, chosen)
    if isinstance(generator, CycleGenerator):
        return _cycled(generator, path, chosen)
    if isinstance(generator, Translator):
        return _translated(generator, path, chosen)
    metrics = ("fid", "kid") if chosen.metrics is None else chosen.metrics
    of_samples, of_pairs = metrics_named(metrics, generator)
    run_data = run_data_of(path)
    reals = _reals(generator, chosen, run_data) if needs_reals(metrics) else None
    scores: list[Score] = []
    if of_samples:
        network = get_network(chosen.features, chosen.feature_weights)
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
    size = tuple(find_checkpoint(path).manifest["data"]["images"][2:])
    source = _own_data(recipe, generator, path, chosen, size)
    assert recipe.scores is not None
    scores = recipe.scores(generator, source, chosen.samples, chosen.seed)
    known = [score.metric for score in scores]
    names = known if chosen.metrics is None else chosen.metrics
    check_named(names, known)
    return [score for score in scores if score.metric in names]


def _own_data(
    recipe: Recipe, generator: Any, path: Path, chosen: Evaluation, size: tuple[int, ...]
) -> Any:
    """The data of the run or those that were chosen, of that size."""
    data = run_data_of(path, type(recipe.data))
    if isinstance(data, AudioConfig) and chosen.data not in (None, data.data):
        data = replace(data, held_out=0)
    data = replace(data, data=chosen.data or data.data, limit=chosen.reals or data.limit)
    device = next(generator.parameters()).device
    return data.open(replace(recipe, image_size=size), device)


def run_data_of(path: Path, kind: type[Any] = DataConfig) -> Any:
    """The data of a run's or checkpoint's run, as the section ``kind`` of its recipe."""
    checkpoint = find_checkpoint(path)
    return built(kind, checkpoint.manifest, "load", checkpoint.path / MANIFEST)


def _reals(generator: Any, chosen: Evaluation, run: DataConfig) -> ImageDataset:
    size: Any = getattr(generator, "image_size", None) or parse_size(
        "image_size", run.image_size or ""
    )
    return load(
        chosen.data or run.data,
        image_size=size,
        channels=generator.channels,
        resize=run.resize,
        max_pixels=run.max_pixels,
        limit=chosen.reals,
        split=chosen.split,
        held_out=run.held_out if chosen.data in (None, run.data) else 0,
    ).as_bytes()


def _translated(generator: Translator, path: Path, chosen: Evaluation) -> list[Score]:
    style = trained_style(find_checkpoint(path))
    if style is not None:
        run = replace(run_data_of(path), image_size=_size_of(path))
        return _of_kinds(style_scores(generator, style, _reals(generator, chosen, run)), chosen)
    names = ("psnr", "ssim") if chosen.metrics is None else chosen.metrics
    for name in names:
        if name not in ("psnr", "ssim"):
            raise ValueError(
                f"{name} is of samples or codes, and {type(generator).__name__} makes images of "
                "others: take psnr,ssim"
            )
    step, reals = _task_of(path, generator, chosen)
    scores = translation_scores(generator, step, reals, chosen.seed)
    return [s for s in scores if s.metric.partition("_")[0] in (*names, "sharpness")]


def _cycled(generator: CycleGenerator, path: Path, chosen: Evaluation) -> list[Score]:
    if chosen.data is not None:
        raise ValueError("data: a run of two sets is measured on these: leave it out")
    train = _domains(generator, path, replace(chosen, split="train", reals=None))
    scores = cycle_scores(generator, train, _domains(generator, path, chosen), chosen.seed)
    return _of_kinds(scores, chosen)


def _of_kinds(scores: list[Score], chosen: Evaluation) -> list[Score]:
    """Those that were asked for, by their names up to an underscore."""
    kinds = list(dict.fromkeys(score.metric.partition("_")[0] for score in scores))
    names = kinds if chosen.metrics is None else chosen.metrics
    check_named(names, kinds)
    return [score for score in scores if score.metric.partition("_")[0] in names]


def _domains(generator: CycleGenerator, path: Path, chosen: Evaluation) -> Sets:
    """The images of both domains of a run, of the size that it was trained with."""
    run = replace(run_data_of(path, UnpairedConfig), image_size=_size_of(path))
    first, second = (
        _reals(generator.forth, chosen, replace(run, data=data)) for data in (run.data, run.data_b)
    )
    return first, second


def _size_of(path: Path) -> str:
    """HEIGHTxWIDTH of the images that a run was trained with."""
    height, width = find_checkpoint(path).manifest["data"]["images"][-2:]
    return f"{height}x{width}"


def _task_of(
    path: Path, generator: Translator, chosen: Evaluation
) -> tuple[TranslationStep, ImageDataset]:
    """What makes the conditions of a run, and images of the size that it was trained with."""
    checkpoint, run = find_checkpoint(path), run_data_of(path)
    manifest = checkpoint.manifest
    objective, item = objective_of(manifest), manifest["data"]["images"][1:]
    step = trained_style(checkpoint) or objective.step(generator, item)
    if not isinstance(step, TranslationStep):
        raise ValueError(
            f"{path} cannot be measured so: expected a generator whose conditions are made of "
            "images, and this one was trained with the data's own"
        )
    return step, _reals(generator, chosen, replace(run, image_size=_size_of(path)))


def held_out_triples(path: Path, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Of `count` held-out images of a run: conditions, what its generator makes of them, and the
    images, for `pictures.triples`; of a run towards a style the images, what is made of them, and
    the style's picture; of a run of two domains half of them of each, what is made of them, and
    what is made of that. Raises what `evaluate_checkpoint` raises.
    """
    generator: Any = load_generator(path)
    if isinstance(generator, CycleGenerator):
        sets = _domains(generator, path, Evaluation(split="test", reals=count // 2))
        a, b = (part.images.float() / 127.5 - 1 for part in sets)
        to_b, to_a = translate(generator.forth, a), translate(generator.back, b)
        again = translate(generator.back, to_b), translate(generator.forth, to_a)
        return torch.cat([a, b]), torch.cat([to_b, to_a]), torch.cat(again)
    step, reals = _task_of(path, generator, Evaluation(split="test", reals=count))
    images = reals.images.float() / 127.5 - 1
    conditions = step.fixed(images, None, seed)
    made = translate(generator, conditions)
    if isinstance(step, StyleStep):
        return images, made, step.windows(len(made), made.shape[2:])
    return conditions, made, images


def held_out_spectrograms(path: Path, count: int, length: int, seed: int = 0) -> tuple[Tensor, int]:
    """Pictures of `count` windows of `length` samples that a vocoder run has held out, each between
    what the run and what Griffin-Lim make of it, and the columns. Raises as `held_out_triples`.
    """
    generator: Any = load_generator(path)
    recipe = _recipe_of(path)
    assert recipe is not None
    data = _own_data(recipe, generator, path, Evaluation(), (length,))
    real = held_out_windows(data, count)
    given, found = generator.mel(real), ways(generator, seed)
    sounds = [found[""](given), real, found["_griffin_lim"](given)]
    return torch.stack([generator.pictures(s) for s in sounds], 1).flatten(0, 1), 3
