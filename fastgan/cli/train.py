"""fastgan train [RECIPE]"""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from fastgan.cli._common import is_first, parse
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.log import SilentReporter
from fastgan.engine.memory import keep_freed_memory
from fastgan.engine.run_folder import newest_unfinished, read_run
from fastgan.recipes import (
    DataConfig,
    Recipe,
    as_trained,
    dry_run,
    get_recipe,
    list_recipes,
    load_recipe,
    run_folder,
    train,
)
from fastgan.recipes.recipe import sections_of
from fastgan.recipes.run import RUNS


@dataclass(frozen=True)
class Arguments:
    """Train a recipe; `fastgan recipes` lists them. For example:

    $ fastgan train digits --steps 500
    $ fastgan train dcgan-64 --data photos/ --dry-run
    $ fastgan train dcgan-64 --data photos/ --out runs/photos --resume"""

    out: Path | None = None
    """The run's folder. By default the first free one of runs/RECIPE, runs/RECIPE-2, ..."""
    config: Path | None = None
    """A YAML or TOML file of settings, or a run's run.json; flags go before it, and a `recipe` that
    it names need not be named again. `fastgan config RECIPE` prints one."""
    resume: bool = False
    """Go on from the newest checkpoint (of --out, or of the newest unfinished run)."""
    force: bool = False
    """Clear the run that stands in --out."""
    dry_run: bool = False
    """Say what would run, with the memory and time that a few steps take, and write nothing."""
    quiet: bool = False
    """Print nothing but errors and where the results are."""


def run(arguments: list[str]) -> int:
    named = bool(arguments) and not arguments[0].startswith("-")
    flags = arguments[1:] if named else arguments
    if not named:
        _refuse_a_late_recipe(flags)
    recipe = get_recipe(arguments[0]) if named else None
    _refuse_words(recipe.name if recipe else "digits", flags)
    file = _config_file(flags)
    recipe = load_recipe(file, recipe) if file else recipe or get_recipe("digits")
    prog = f"fastgan train {recipe.name}"
    chosen = parse(arguments_of(recipe), flags, prog=prog)
    if chosen.resume:
        # The run's own settings stand in for those that are not given again.
        recipe = as_trained(recipe, run_folder(recipe.name, chosen.out, resume=True))
        recipe = load_recipe(file, recipe) if file else recipe
        chosen = parse(arguments_of(recipe), flags, prog=prog)
    if not chosen.resume or read_run(run_folder(recipe.name, chosen.out, resume=True)) is None:
        _require_images(recipe, flags)
    if chosen.out is None and not (chosen.resume or chosen.quiet) and is_first():
        _tell_of_unfinished(recipe)
    keep_freed_memory()
    settings = {k: v for s in sections_of(recipe) for k, v in vars(getattr(chosen, s)).items()}
    if chosen.dry_run:
        return _dry_run(recipe, chosen, settings)
    result = train(
        recipe,
        out=chosen.out,
        resume=chosen.resume,
        force=chosen.force,
        reporter=SilentReporter() if chosen.quiet else None,
        **settings,
    )
    if not is_first():
        return 0 if result.stopped_by is None else 128 + result.stopped_by
    if result.stopped_by is not None:
        print(f"stopped at step {result.step}; everything is saved in {result.checkpoint}")
        print(f"go on with: fastgan train {recipe.name} --out {result.out} --resume")
        return 128 + result.stopped_by
    print(f"{result.step} steps, {result.images_per_second:.0f} img/s")
    print(f"checkpoint: {result.checkpoint}")
    if result.best is not None and result.best_score is not None:
        score = result.best_score
        print(f"best: {result.best} ({score.metric} {score.value:.4g}; as {result.out / 'best'})")
    if settings["lr_schedule"] == "constant":
        more = f"fastgan train {recipe.name} --out {result.out} --resume --steps {2 * result.step}"
        print(f"for more steps: {more}")
    print(f"samples: {result.samples}")
    return 0


def _tell_of_unfinished(recipe: Recipe) -> None:
    stands = newest_unfinished(RUNS, recipe.name)
    if stands is not None and list_checkpoints(stands / "checkpoints"):
        print(f"{stands} is not finished: fastgan train {recipe.name} --resume would go on with it")


def _dry_run(recipe: Recipe, chosen: Any, settings: dict[str, Any]) -> int:
    folder = run_folder(recipe.name, chosen.out, chosen.resume)
    stands = read_run(folder) is not None
    lines = dry_run(recipe, folder, resume=chosen.resume and stands, **settings)
    if stands and not (chosen.resume or chosen.force):
        lines.append(f"refused       {folder} holds a run: --resume goes on, --force clears it")
    if is_first():
        print("\n".join(lines))
    return 0


def _refuse_words(name: str, flags: list[str]) -> None:
    """ValueError for a path that stands where a flag is to: --data takes it."""
    word = next(iter(flags), "-")
    if not word.startswith("-") and Path(word).exists():
        raise ValueError(f"--data is missing: fastgan train {name} --data {' '.join(flags)}")


def _refuse_a_late_recipe(flags: list[str]) -> None:
    """ValueError for the name of a recipe that is neither first nor what a flag is given."""
    names = {recipe.name for recipe in list_recipes()}
    for before, word in pairwise(flags):
        if word in names and not before.startswith("-"):
            raise ValueError(f"the recipe comes first: fastgan train {word} {' '.join(flags[:-1])}")


def _require_images(recipe: Recipe, flags: list[str]) -> None:
    """ValueError where a recipe for images of one's own is given none."""
    given = any(flag.partition("=")[0] == "--data" for flag in flags)
    if recipe.wants_images and not given and recipe.data.data == DataConfig.data:
        raise ValueError(
            f"{recipe.name} is for images of your own: give it --data PATH (a folder, a zip ...; "
            f"docs/data.md), or --data {DataConfig.data} to see it run on enlarged digits"
        )


def _config_file(flags: list[str]) -> Path | None:
    """Looked for first: what it says are the defaults of the flags."""
    for flag, following in zip_longest(flags, flags[1:], fillvalue=""):
        name, has_value, value = flag.partition("=")
        if name == "--config" and (has_value or following):
            return Path(value if has_value else following)
    return None


def arguments_of(recipe: Recipe) -> type[Any]:
    """``Arguments`` with the sections of ``recipe``, whose values are the defaults of the flags."""
    sections = [
        (name, kind, field(default=getattr(recipe, name)))
        for name, kind in sections_of(recipe).items()
    ]
    kind = make_dataclass("Arguments", sections, bases=(Arguments,), frozen=True)
    kind.__doc__ = Arguments.__doc__
    return kind
