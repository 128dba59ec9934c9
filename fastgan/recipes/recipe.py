"""What a recipe is, and the register of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastgan.checks import unknown
from fastgan.data.options import Loading, Resize
from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import GANObjective, Objective
from fastgan.engine.records import RecordError, build

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSpec:
    """A registered model and its arguments: ``fastgan.models.create_model(name, **arguments)``."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": dict(self.arguments)}


@dataclass(frozen=True)
class DataConfig:
    """Which images to train on, as `fastgan.data.load` takes them."""

    data: str = "mnist5k"
    """mnist5k (ships with the package), mnist, fashion-mnist, or a path: a folder or zip of images,
    IDX files, .npz, .npy, or shards (.tar)."""
    loading: Loading = "auto"
    """resident holds the set in memory, on the device; stream reads it ahead of the steps with
    threads; auto streams what would take more than a quarter of the device's memory."""
    workers: int = 0
    """Threads that read and decode a streamed set. 0 is one a CPU core, at most 16."""
    image_size: str | None = None
    """HEIGHTxWIDTH, such as 96x160, or one number for squares: of the data and of both networks. By
    default the recipe's."""
    limit: int | None = None
    """Use so many images only, evenly spaced over the source."""
    resize: Resize = "center-crop"
    """How an image of another aspect is made to fit."""
    strict: bool = False
    """An image that cannot be read is an error, instead of being skipped and counted."""


@dataclass(frozen=True)
class StartConfig:
    """What a new run starts from, as `fastgan.engine.init_from` takes it."""

    init_from: str | None = None
    """Weights to start a new run from: a checkpoint, a run, or a .safetensors file; the rest of
    the run is new. `--resume` goes on with a run instead."""
    init_networks: Literal["both", "generator", "discriminator"] = "both"
    """Which of the networks that are there to take."""
    init_partial: bool = False
    """Take what fits where the architecture differs in some layers, and say what does not."""


def data_of(facts: Mapping[str, Any], file: Path) -> DataConfig:
    """The data of the run whose ``facts`` stand in ``file``.

    Raises:
        ValueError: they are not those of a data configuration; names file and field.
    """
    return built(DataConfig, facts, "load", file)


def built(kind: type[T], facts: Mapping[str, Any], field: str, file: Path) -> T:
    """The dataclass ``kind`` of ``facts[field]``, defaults where a field is not there."""
    try:
        return build(kind, facts.get(field, {}), field)
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from error


@dataclass(frozen=True)
class Recipe:
    """A named run: models, data and hyper-parameters."""

    name: str
    summary: str
    generator: ModelSpec
    discriminator: ModelSpec | None
    image_size: int | tuple[int, int]
    channels: Literal[1, 3]
    wants_images: bool = False
    """The command line asks for images, for the data that ship with the package are not of its
    kind."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    start: StartConfig = field(default_factory=StartConfig)
    objective: Objective = field(default_factory=GANObjective)


def sections_of(recipe: Recipe) -> dict[str, type[Any]]:
    """The fields of a recipe that are settings, by their types; no name stands in two of them."""
    return {s: type(getattr(recipe, s)) for s in ("data", "objective", "train", "start")}


_RECIPES: dict[str, Recipe] = {}


def register_recipe(recipe: Recipe) -> Recipe:
    """Add ``recipe`` under its name, which must be free."""
    if recipe.name in _RECIPES:
        raise ValueError(f"a recipe named {recipe.name!r} is registered already")
    _RECIPES[recipe.name] = recipe
    return recipe


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none; the message suggests near names.
    """
    if name not in _RECIPES:
        raise unknown("recipe", name, _RECIPES)
    return _RECIPES[name]


def list_recipes() -> list[Recipe]:
    """All recipes, in the order they were registered."""
    return list(_RECIPES.values())
