"""fastgan train [RECIPE]"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastgan.cli._common import is_first, parse
from fastgan.engine import TrainConfig
from fastgan.engine.memory import keep_freed_memory
from fastgan.recipes import (
    DataConfig,
    Recipe,
    StartConfig,
    as_trained,
    get_recipe,
    run_folder,
    train,
)


@dataclass(frozen=True)
class Arguments:
    """Train a recipe; `fastgan recipes` lists them."""

    out: Path | None = None
    """The run's folder. By default the first free one of runs/RECIPE, runs/RECIPE-2, ..."""
    resume: bool = False
    """Go on from the newest checkpoint (of --out, or of the newest unfinished run)."""
    force: bool = False
    """Clear the run that stands in --out."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    start: StartConfig = field(default_factory=StartConfig)


def run(arguments: list[str]) -> int:
    named = bool(arguments) and not arguments[0].startswith("-")
    recipe = get_recipe(arguments[0] if named else "digits")
    flags = arguments[1:] if named else arguments
    chosen = _parse(recipe, flags)
    if chosen.resume:
        # The run's own settings stand in for those that are not given again.
        recipe = as_trained(recipe, run_folder(recipe.name, chosen.out, resume=True))
        chosen = _parse(recipe, flags)
    keep_freed_memory()
    result = train(
        recipe,
        out=chosen.out,
        resume=chosen.resume,
        force=chosen.force,
        **vars(chosen.data),
        **vars(chosen.train),
        **vars(chosen.start),
    )
    if not is_first():
        return 0 if result.stopped_by is None else 128 + result.stopped_by
    if result.stopped_by is not None:
        print(f"stopped at step {result.step}; everything is saved in {result.checkpoint}")
        print(f"go on with: fastgan train {recipe.name} --out {result.out} --resume")
        return 128 + result.stopped_by
    print(f"{result.step} steps, {result.images_per_second:.0f} img/s")
    print(f"checkpoint: {result.checkpoint}")
    print(f"samples: {result.samples}")
    return 0


def _parse(recipe: Recipe, flags: list[str]) -> Arguments:
    return parse(
        Arguments,
        flags,
        prog=f"fastgan train {recipe.name}",
        default=Arguments(data=recipe.data, train=recipe.train, start=recipe.start),
    )
