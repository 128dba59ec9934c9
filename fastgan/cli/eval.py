"""fastgan eval CHECKPOINT"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.checks import check_int
from fastgan.cli._common import check_seed, parse
from fastgan.cli._output import output_file
from fastgan.engine.device import take_device
from fastgan.metrics import difference, load_scores, save_scores
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint
from fastgan.system import renamed

# Their noise and their features are held at once; scores are of 50,000 at most, as a rule.
_MAX_SAMPLES = 10**6


@dataclass(frozen=True)
class Arguments:
    """Measure a checkpoint's samples or reconstructions (needs fastgan[metrics])."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    against: Path | None = None
    """A file of scores to compare with; numbers of another setting are refused."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The JSON file to write the scores to."""
    force: bool = False
    """Write over the file that stands there."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""
    inception_weights: Path | None = None
    """The old name of feature_weights."""
    evaluation: Evaluation = field(default_factory=Evaluation)


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan eval")
    given = chosen.evaluation.metrics
    names = given and tuple(name for part in given for name in part.split(",") if name)
    check_int("samples", chosen.evaluation.samples, 1, _MAX_SAMPLES)
    check_seed(chosen.evaluation.seed)
    out = None if chosen.out is None else output_file(chosen.out, chosen.force)
    others = (
        {score.metric: score for score in load_scores(chosen.against)} if chosen.against else {}
    )
    evaluation = replace(chosen.evaluation, metrics=names)
    if chosen.inception_weights is not None:
        renamed("--inception-weights", "--feature-weights")
        evaluation = replace(evaluation, feature_weights=chosen.inception_weights)
    scores = evaluate_checkpoint(chosen.checkpoint, evaluation, take_device(chosen.device))
    for score in scores:
        print(score)
    if out is not None:
        save_scores(scores, out)
        print(chosen.out)
    for score in scores:
        if score.metric in others:
            change = difference(score, others[score.metric])
            print(f"{score.metric}: {change:+.4f} against {chosen.against}")
    return 0
