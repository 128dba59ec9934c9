"""From a recipe to a trained model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan.checks import parse_size, unknown
from fastgan.data import Source, as_source
from fastgan.engine import DistributedGroup, Trainer, TrainResult, init_from, launched
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.config import TrainConfig
from fastgan.engine.device import take_device
from fastgan.engine.log import Reporter, default_reporter
from fastgan.engine.objectives import (
    CycleObjective,
    StyleObjective,
    TranslationObjective,
    objective_of,
)
from fastgan.engine.records import RecordError
from fastgan.engine.run_folder import RUN_FILE, check_free, newest_unfinished, next_free, read_run
from fastgan.models import create_model
from fastgan.recipes.recipe import (
    Recipe,
    StartConfig,
    built,
    get_recipe,
    sections_of,
)

RUNS = Path("runs")


def train(
    recipe: Recipe | str = "digits",
    *,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> TrainResult:
    """Train ``recipe`` (or the recipe of that name), on all processes if torchrun started several.

    Args:
        out: the run's folder; by default the first free one of ``runs/<recipe>``,
            ``runs/<recipe>-2`` ..., or, with ``resume``, the newest unfinished one of them.
        resume: go on from the newest whole checkpoint there, with the settings of that run.
        force: clear the run that stands in ``out``.
        reporter: who is told of progress.
        **overrides: fields of :class:`TrainConfig`, :class:`DataConfig`, :class:`StartConfig` or
            the recipe's objective, such as ``steps=500``, ``data="photos.zip"`` or
            ``init_from="runs/dcgan-64"``. ``data`` may also be what ``Trainer`` takes: a torch
            dataset or ``DataLoader``, a tensor, a ``fastgan.data.Source``; a resume is given it
            again.

    Raises:
        ValueError, OSError: the recipe, an override, the data or the folder is bad; nothing that
            stood before is lost.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    name, given = recipe.name, overrides.get("data")
    if given is not None and not isinstance(given, (str, os.PathLike)):
        source = as_source(given, recipe.generator.arguments.get("num_classes", 0))
        overrides["data"] = source.name
    else:
        source = None
    with launched(overrides.get("device", recipe.train.device)) as group:
        folder = group.from_first(lambda: run_folder(name, out, resume))
        standing = as_trained(recipe, folder) if resume else recipe
        recipe = override(standing, **overrides)
        if recipe.start != standing.start and resume and read_run(folder) is not None:
            raise ValueError(
                f"init_from is for a new run: {folder} was started from "
                f"{standing.start.init_from}, and resume goes on from its own checkpoint"
            )
        reporter = reporter or default_reporter()
        # Told before data are read; `fit` looks once more, and holds the folder.
        group.from_first(lambda: check_free(folder, resume=resume, force=force))
        goes_on = resume and bool(list_checkpoints(folder / "checkpoints"))
        trainer = build_trainer(recipe, source, initialise=not goes_on)
        skipped = _skipped(trainer)  # of which loading warned
        result = trainer.fit(folder, resume=resume, force=force, reporter=reporter)
        # A stream meets damaged files as it goes.
        if _skipped(trainer) > skipped and group.is_first:
            reporter.note(f"skipped {_images(_skipped(trainer))} that could not be read, in all")
        return result


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _skipped(trainer: Trainer) -> int:
    return getattr(trainer.dataset, "skipped", 0)


def build_trainer(
    recipe: Recipe, source: Source | None = None, *, initialise: bool = True
) -> Trainer:
    """Load the data (unless ``source`` stands in for them) and make the models of ``recipe``; the
    global seed is set to the recipe's.

    ``initialise=False`` does not read ``recipe.start``: a checkpoint will be loaded.
    """
    recipe = sized(recipe)
    if getattr(recipe.data, "image_size", None) is not None:
        build_models(recipe)  # a size that its networks cannot have is told before data are read
    dataset = (
        source
        if source is not None
        else DistributedGroup.current().in_turn(
            lambda: recipe.data.open(recipe, take_device(recipe.train.device))
        )
    )
    recipe = _given(recipe, getattr(dataset, "arguments", {}))
    torch.manual_seed(recipe.train.seed)
    generator, discriminator = build_models(recipe)
    start, notes = recipe.start, []
    if start.init_from and initialise:
        notes = init_from(
            start.init_from,
            generator if start.init_networks != "discriminator" else None,
            discriminator if start.init_networks != "generator" else None,
            partial=start.init_partial,
        )
    description = {
        "recipe": recipe.name,
        "load": dataclasses.asdict(recipe.data),
        "start": dataclasses.asdict(recipe.start),
        "generator": recipe.generator.as_dict(),
        "discriminator": recipe.discriminator and recipe.discriminator.as_dict(),
    }
    trainer = Trainer(
        generator,
        discriminator,
        dataset,
        recipe.train,
        objective=recipe.objective,
        description=description,
    )
    trainer.notes += [*notes, *getattr(dataset, "notes", ())]
    return trainer


def build_models(recipe: Recipe) -> tuple[nn.Module, nn.Module | None]:
    """The recipe's generator and discriminator, freshly initialised."""
    generator = create_model(recipe.generator.name, **recipe.generator.arguments)
    if recipe.discriminator is None:
        return generator, None
    return generator, create_model(recipe.discriminator.name, **recipe.discriminator.arguments)


def sized(recipe: Recipe) -> Recipe:
    """``recipe`` with models and images of the size that its :class:`DataConfig` asks for."""
    asked = getattr(recipe.data, "image_size", None)
    if asked is None:
        return recipe
    size = parse_size("image_size", asked)
    recipe = dataclasses.replace(recipe, image_size=size)
    if isinstance(recipe.objective, (TranslationObjective, CycleObjective, StyleObjective)):
        return recipe  # its networks take images of any size
    return _given(recipe, {"image_size": size})


def _given(recipe: Recipe, arguments: Mapping[str, Any]) -> Recipe:
    """``recipe`` with such arguments of both networks."""
    discriminator = recipe.discriminator
    return dataclasses.replace(
        recipe,
        generator=recipe.generator.given(arguments),
        discriminator=discriminator and discriminator.given(arguments),
    )


def override(recipe: Recipe, **values: Any) -> Recipe:
    """``recipe`` with other values for fields of its sections: data, objective, training, start.

    Raises:
        ValueError: a name is a field of none.
    """
    sections = sections_of(recipe).items()
    fields = {section: {f.name for f in dataclasses.fields(kind)} for section, kind in sections}
    known = set().union(*fields.values())
    if others := values.keys() - known:
        raise unknown("setting", sorted(others)[0], sorted(known))
    changed = {
        section: dataclasses.replace(
            getattr(recipe, section), **{k: v for k, v in values.items() if k in names}
        )
        for section, names in fields.items()
    }
    return dataclasses.replace(recipe, **changed)


def as_trained(recipe: Recipe, folder: Path) -> Recipe:
    """``recipe`` with the settings of the run in ``folder``, or as it is where no run stands.

    Raises:
        ValueError: the run is of another recipe, or its ``run.json`` is damaged.
    """
    run = read_run(folder)
    if run is None:
        return recipe
    if run.get("recipe") != recipe.name:
        raise ValueError(f"{folder} is a run of {run.get('recipe')!r}, not of {recipe.name!r}")
    return as_described(recipe, run, folder / RUN_FILE)


def as_described(recipe: Recipe, run: Mapping[str, Any], file: Path) -> Recipe:
    """``recipe`` with the settings of the ``run`` that stands in ``file``; ValueError as above."""
    if missing := {"config", "load"} - run.keys():
        raise ValueError(f"{file}: field {sorted(missing)[0]} is missing")
    config = built(TrainConfig, run, "config", file)
    start = built(StartConfig, run, "start", file)
    try:
        objective = objective_of(run)
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from error
    data = built(type(recipe.data), run, "load", file)
    sections: dict[str, Any] = {"train": config, "data": data, "start": start}
    return dataclasses.replace(recipe, objective=objective, **sections)


def run_folder(name: str, out: str | Path | None, resume: bool) -> Path:
    """Where a run of the recipe ``name`` goes; see :func:`train`.

    Raises:
        FileNotFoundError: ``resume`` without ``out``, and there is no unfinished run.
    """
    if out is not None:
        return Path(out)
    if not resume:
        return next_free(RUNS, name)
    found = newest_unfinished(RUNS, name)
    if found is None:
        raise FileNotFoundError(f"nothing to resume: no unfinished run of {name!r} under {RUNS}/")
    return found
