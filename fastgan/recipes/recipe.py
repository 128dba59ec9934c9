"""What a recipe is, and the register of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from fastgan.checks import check_int, sides, unknown
from fastgan.data import Source, Unpaired, open_images, open_levels, open_volumes
from fastgan.data.audio import open_audio
from fastgan.data.levels import EMBEDDED
from fastgan.data.options import MAX_PIXELS, Loading, Resize
from fastgan.data.text import open_text
from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import GANObjective, Objective
from fastgan.engine.records import RecordError, build
from fastgan.metrics import Score

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSpec:
    """A registered model and its arguments: ``fastgan.models.create_model(name, **arguments)``."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def given(self, arguments: Mapping[str, Any]) -> ModelSpec:
        """With other arguments, or more."""
        return ModelSpec(self.name, {**self.arguments, **arguments})

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
    held_out: float = 0
    """The share of the images of a folder, zip or shards that is not trained on, evenly spaced:
    `fastgan eval --split test` compares with it."""
    resize: Resize = "center-crop"
    """How an image of another aspect is made to fit."""
    strict: bool = False
    """An image that cannot be read is an error, instead of being skipped and counted."""
    max_pixels: int = MAX_PIXELS
    """A file with more pixels is skipped and counted; a JPEG is decoded reduced instead."""

    def open(self, recipe: Recipe, device: torch.device) -> Source:
        """The images, of the recipe's size and channels."""
        return open_images(
            self.data,
            loading=self.loading,
            workers=self.workers,
            device=device,
            image_size=recipe.image_size,
            channels=recipe.channels,
            resize=self.resize,
            strict=self.strict,
            max_pixels=self.max_pixels,
            limit=self.limit,
            held_out=self.held_out,
        )


@dataclass(frozen=True)
class UnpairedConfig(DataConfig):
    """Which images to train on: two sets, without pairs."""

    data: str = ""
    """The images of domain A: a folder or zip of images, IDX files, .npz, .npy, or shards."""
    data_b: str = ""
    """Those of domain B. Their number need not agree; both are made of one size and colour."""

    def open(self, recipe: Recipe, device: torch.device) -> Source:
        """Both sets, of the recipe's size and half of its channels each."""
        if not (self.data and self.data_b):
            raise ValueError(
                f"{recipe.name} is for two sets of images of your own: give it --data PATH and "
                "--data-b PATH (a folder, a zip ...)"
            )
        each = replace(recipe, channels=recipe.channels // 2)
        of = (replace(self, data=data) for data in (self.data, self.data_b))
        return Unpaired(*(DataConfig.open(own, each, device) for own in of))


@dataclass(frozen=True)
class LevelConfig:
    """Which levels to train on."""

    data: str = EMBEDDED
    """Levels in the Sokoban format: sokoban (ships with the package), a text file, or a folder of
    .sok, .txt or .xsb files."""
    image_size: str | None = None
    """HEIGHTxWIDTH, or one number for squares: larger levels are left out. By default the
    recipe's."""
    limit: int | None = None
    """Use so many levels only, evenly spaced over the source."""

    def open(self, recipe: Recipe, device: torch.device) -> Source:
        """Those that fit the recipe's size, turned and mirrored."""
        return open_levels(self.data, recipe.image_size, self.limit)


@dataclass(frozen=True)
class VolumeConfig:
    """Which volumes to train on."""

    data: str = "showers"
    """showers, shapes and moving-digits are generated; else a .npz with volumes and conditions, or
    a folder of .npz with a volume and its condition each."""
    count: int = 4096
    """Volumes to generate."""
    data_seed: int = 0
    """Of what is generated."""
    limit: int | None = None
    """Use so many volumes only, evenly spaced over the source."""

    def __post_init__(self) -> None:
        check_int("count", self.count, 1, _MAX_COUNT)
        check_int("data_seed", self.data_seed, 0)

    def open(self, recipe: Recipe, device: torch.device) -> Source:
        """The volumes, of the recipe's size."""
        shape = sides(recipe.image_size)
        return open_volumes(self.data, shape, self.count, self.data_seed, self.limit)


# 16 GB of showers 16x16x16.
_MAX_COUNT = 10**6


@dataclass(frozen=True)
class TextConfig:
    """Which text to train on."""

    data: str = ""
    """A text: a UTF-8 file, or a folder of .txt files, taken in the order of their names."""
    held_out: float = 0.1
    """The share of the text, its end, that is not trained on: `fastgan eval` compares with it."""
    limit: int | None = None
    """Use so many characters only, the first."""

    def open(self, recipe: Recipe, device: torch.device) -> Source:
        """Windows of the part that is trained on, of the recipe's length."""
        if not self.data:
            raise ValueError(
                f"{recipe.name} is for a text of your own: give it --data PATH, a UTF-8 file or a "
                "folder of .txt files"
            )
        (length,) = sides(recipe.image_size)
        return open_text(self.data, length, self.held_out, self.limit)


@dataclass(frozen=True)
class AudioConfig:
    """Which sounds to train on."""

    data: str = ""
    """A sound file, or a folder of .wav, .flac and .ogg (needs fastgan[audio])."""
    limit: int | None = None
    """Use so many files only, evenly spaced over the folder."""
    held_out: float = 0
    """The share of the files that is not trained on, evenly spaced: `fastgan eval` of a vocoder
    measures with them."""

    def open(self, recipe: Recipe, device: torch.device) -> Source:
        """Windows of the recipe's length, mono, at its rate."""
        if not self.data:
            raise ValueError(
                f"{recipe.name} is for sounds of your own: give it --data PATH, a sound file or a "
                "folder of .wav, .flac and .ogg"
            )
        (length,) = sides(recipe.image_size)
        rate = recipe.generator.arguments["rate"]
        return open_audio(self.data, rate, length, self.limit, self.held_out)


Data = DataConfig | LevelConfig | VolumeConfig | TextConfig | AudioConfig


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
    image_size: int | tuple[int, ...]
    channels: int
    wants_images: bool = False
    """The command line asks for images, for the data that ship with the package are not of its
    kind."""
    data: Data = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    start: StartConfig = field(default_factory=StartConfig)
    objective: Objective = field(default_factory=GANObjective)
    scores: Callable[[nn.Module, Source, int, int], list[Score]] | None = None
    """What `fastgan eval` measures of a generator whose items are no images: by the data, so many
    samples, and a seed."""


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
