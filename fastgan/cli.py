"""The `fastgan` command."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

import fastgan
from fastgan.engine import LostRankError, NonFiniteError, TrainConfig
from fastgan.engine.memory import keep_freed_memory
from fastgan.recipes import (
    DataConfig,
    Recipe,
    as_trained,
    get_recipe,
    list_recipes,
    run_folder,
    train,
)

T = TypeVar("T")


@dataclass(frozen=True)
class TrainArguments:
    """Train a recipe; `fastgan recipes` lists them."""

    out: Path | None = None
    """The run's folder. By default the first free one of runs/RECIPE, runs/RECIPE-2, ..."""
    resume: bool = False
    """Go on from the newest checkpoint (of --out, or of the newest unfinished run)."""
    force: bool = False
    """Clear the run that stands in --out."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class SampleArguments:
    """Draw images from a checkpoint."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many images."""
    seed: int = 0
    """Seed of the noise."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("grid.png")
    """The PNG to write."""
    columns: int | None = None
    """Images a row; by default the grid is about square."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


@dataclass(frozen=True)
class FetchArguments:
    """Download a data set, verified by checksum."""

    name: tyro.conf.Positional[str]
    """mnist or fashion-mnist."""
    root: Path | None = None
    """Where data sets are kept; by default $FASTGAN_DATA or the user's cache folder."""


@dataclass(frozen=True)
class ExportArguments:
    """Write a checkpoint's generator to a file for use without fastgan."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    format: Literal["onnx", "torch-export", "safetensors"] = "onnx"
    """onnx and torch-export: the generator, its batch norms folded into convolutions, for any batch
    size; safetensors: its weights as they are."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; by default generator.onnx, .pt2 or .safetensors."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""


@dataclass(frozen=True)
class ExplainArguments:
    """How the blocks of a recipe's networks run on this machine."""

    recipe: tyro.conf.Positional[str] = "dcgan-64"
    """A recipe; `fastgan recipes` lists them."""
    batch_size: int = 64
    """Images a batch."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


@dataclass(frozen=True)
class TuneArguments:
    """Measure how the convolution blocks of a recipe's networks run fastest on this machine."""

    recipe: tyro.conf.Positional[str] = "dcgan-64"
    """fastgan recipes lists them."""
    batch_size: int = 64
    """Images a batch; choices hold for this batch size."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype of the activations."""
    rounds: int = 10
    """Timed rounds a layer, after two more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 2 an error, 128 + n by signal n."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"fastgan {fastgan.__version__}")
        return 0
    try:
        return _command(arguments[0])(arguments[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except (ValueError, OSError, ModuleNotFoundError, NonFiniteError) as error:
        if os.environ.get("FASTGAN_DEBUG"):
            raise
        # The first process speaks for what befalls all of them.
        if _is_first() or isinstance(error, LostRankError):
            print(f"fastgan: error: {_message(error)}", file=sys.stderr)
        return 2


def _train(arguments: list[str]) -> int:
    named = bool(arguments) and not arguments[0].startswith("-")
    recipe = get_recipe(arguments[0] if named else "digits")
    flags = arguments[1:] if named else arguments
    chosen = _parse_train(recipe, flags)
    if chosen.resume:
        # The run's own settings stand in for those that are not given again.
        recipe = as_trained(recipe, run_folder(recipe.name, chosen.out, resume=True))
        chosen = _parse_train(recipe, flags)
    keep_freed_memory()
    result = train(
        recipe,
        out=chosen.out,
        resume=chosen.resume,
        force=chosen.force,
        **vars(chosen.data),
        **vars(chosen.train),
    )
    if not _is_first():
        return 0 if result.stopped_by is None else 128 + result.stopped_by
    if result.stopped_by is not None:
        print(f"stopped at step {result.step}; everything is saved in {result.checkpoint}")
        print(f"go on with: fastgan train {recipe.name} --out {result.out} --resume")
        return 128 + result.stopped_by
    print(f"{result.step} steps, {result.images_per_second:.0f} img/s")
    print(f"checkpoint: {result.checkpoint}")
    print(f"samples: {result.samples}")
    return 0


def _parse_train(recipe: Recipe, flags: list[str]) -> TrainArguments:
    return _parse(
        TrainArguments,
        flags,
        prog=f"fastgan train {recipe.name}",
        default=TrainArguments(data=recipe.data, train=recipe.train),
    )


def _sample(arguments: list[str]) -> int:
    from fastgan.engine import load_generator, sample_images, save_grid
    from fastgan.engine.grid import screen_scale
    from fastgan.engine.trainer import resolve_device

    chosen = _parse(SampleArguments, arguments, prog="fastgan sample")
    if chosen.columns is not None and chosen.columns < 1:
        raise ValueError(f"columns must be at least 1, got {chosen.columns}")
    generator = load_generator(
        chosen.checkpoint, weights=chosen.weights, device=resolve_device(chosen.device)
    )
    images = sample_images(generator, chosen.n, seed=chosen.seed)
    scale = screen_scale(images)
    print(save_grid(images, chosen.out, columns=chosen.columns, scale=scale))
    return 0


def _recipes(arguments: list[str]) -> int:
    _no_more("recipes", arguments)
    recipes = list_recipes()
    width = max(len(r.name) for r in recipes)
    for recipe in recipes:
        print(f"{recipe.name:{width}}  {recipe.summary}")
    return 0


def _doctor(arguments: list[str]) -> int:
    from fastgan.doctor import report

    _no_more("doctor", arguments)
    print(report())
    return 0


def _data(arguments: list[str]) -> int:
    from fastgan.data.fetch import fetch

    if not arguments or arguments[0] != "fetch":
        raise ValueError("usage: fastgan data fetch mnist|fashion-mnist [--root FOLDER]")
    chosen = _parse(FetchArguments, arguments[1:], prog="fastgan data fetch")
    print(fetch(chosen.name, chosen.root))
    return 0


def _export(arguments: list[str]) -> int:
    import json

    import torch

    from fastgan.engine import load_generator
    from fastgan.engine.checkpoint import find_checkpoint
    from fastgan.fusion import export
    from fastgan.fusion.exporting import SUFFIXES

    chosen = _parse(ExportArguments, arguments, prog="fastgan export")
    generator = load_generator(chosen.checkpoint, weights=chosen.weights)
    described = json.dumps(find_checkpoint(chosen.checkpoint).manifest["generator"])
    out = chosen.out or Path(f"generator{SUFFIXES[chosen.format]}")
    noise = torch.randn(2, generator.latent_dim)  # type: ignore[call-overload]
    print(export(generator, (noise,), out, chosen.format, {"generator": described}))
    return 0


def _explain(arguments: list[str]) -> int:
    from fastgan.engine.trainer import resolve_device
    from fastgan.recipes.tuning import explain_recipe

    chosen = _parse(ExplainArguments, arguments, prog="fastgan explain")
    explain_recipe(get_recipe(chosen.recipe), chosen.batch_size, resolve_device(chosen.device))
    return 0


def _tune(arguments: list[str]) -> int:
    from fastgan.engine.trainer import resolve_device
    from fastgan.recipes.tuning import tune_recipe

    chosen = _parse(TuneArguments, arguments, prog="fastgan tune")
    device = resolve_device(chosen.device)
    recipe = get_recipe(chosen.recipe)
    for line in tune_recipe(recipe, chosen.batch_size, device, chosen.dtype, chosen.rounds):
        print(line)
    return 0


_COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_train, "train a recipe: fastgan train [RECIPE] [--steps N] [--data PATH] ..."),
    "sample": (_sample, "draw images from a checkpoint: fastgan sample CKPT -n 64 -o grid.png"),
    "recipes": (_recipes, "list the recipes"),
    "data": (_data, "download data sets: fastgan data fetch mnist"),
    "export": (_export, "write the generator: fastgan export CKPT --format onnx -o generator.onnx"),
    "explain": (_explain, "how each block runs here: fastgan explain dcgan-64"),
    "tune": (_tune, "measure and keep the fastest form of each layer: fastgan tune dcgan-64"),
    "doctor": (_doctor, "versions, devices, and which backends can run here"),
}


def _usage() -> str:
    lines = [f"  {name:8}  {summary}" for name, (_, summary) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: fastgan COMMAND [ARGUMENTS]",
            "",
            "The fastest correct way to train convolutional GANs on PyTorch.",
            "",
            *lines,
            "",
            "fastgan COMMAND --help tells more; fastgan --version prints the version.",
        ]
    )


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in _COMMANDS:
        near = difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_COMMANDS)}"
        raise ValueError(f"unknown command {name!r}: {hint}")
    return _COMMANDS[name][0]


def _parse(kind: type[T], arguments: list[str], *, prog: str, default: Any = None) -> T:
    settings: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        kind,
        prog=prog,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        **settings,
    )


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _no_more(command: str, arguments: list[str]) -> None:
    if arguments:
        raise ValueError(f"fastgan {command} takes no arguments, got {' '.join(arguments)}")


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
