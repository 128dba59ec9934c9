"""A number and all that it depends on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from fastgan.system import to_json, whole_file

LOWER_IS_BETTER = frozenset({"fid", "kid", "sliced", "reconstruction", "kl"})
"""Of the metrics' names; of the others, larger is better."""


@dataclass(frozen=True)
class Score:
    """A metric's value with the setting that it was measured in.

    Attributes:
        metric: its name.
        value: the number; spread: its standard deviation over splits or subsets, or None.
        setting: what must be equal for two values to be comparable: feature network and digest of
            its weights, data, counts, resize, seed.
        note: a reservation, such as a bias from few samples.
    """

    metric: str
    value: float
    spread: float | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        value = f"{self.metric} {self.value:.4f}"
        if self.spread is not None:
            value += f" ± {self.spread:.4f}"
        shown = {k: v[:12] if k.endswith("sha256") else v for k, v in self.setting.items()}
        line = f"{value}  ({', '.join(f'{k} {v}' for k, v in shown.items())})"
        return f"{line}\n  {self.note}" if self.note else line

    def as_dict(self) -> dict[str, Any]:
        """The score as values that ``to_json`` takes."""
        return {**asdict(self), "setting": dict(self.setting)}

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Score:
        """The score that :meth:`as_dict` has given; TypeError for anything else."""
        score = cls(**entry)
        return replace(score, value=math.nan) if score.value is None else score


class Reals(Protocol):
    """A set of real images that scores name."""

    @property
    def name(self) -> str: ...
    def fingerprint(self) -> str: ...


def setting_of(reals: Reals, count: int) -> dict[str, Any]:
    """What the settings of scores say of `count` real images."""
    return {"reals": count, "data": reals.name, "data_sha256": reals.fingerprint()}


def difference(score: Score, other: Score) -> float:
    """``score.value - other.value``.

    Raises:
        ValueError: they are of different metrics or settings, so that the difference says nothing.
    """
    unlike = [] if score.metric == other.metric else [f"metric: {score.metric}, {other.metric}"]
    for name in sorted(score.setting.keys() | other.setting.keys()):
        ours, theirs = score.setting.get(name), other.setting.get(name)
        if ours != theirs:
            unlike.append(f"{name}: {ours}, {theirs}")
    if unlike:
        raise ValueError(f"these numbers cannot be compared; they differ in {'; '.join(unlike)}")
    return score.value - other.value


def save_scores(scores: list[Score], path: Path) -> None:
    """Write scores as JSON; a value that is not finite becomes null."""
    with whole_file(path) as file:
        file.write(f"{to_json([s.as_dict() for s in scores], indent=1)}\n".encode())


def load_scores(path: Path) -> list[Score]:
    """Scores that `save_scores` wrote; ValueError if the file holds something else."""
    try:
        return [Score.of(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no scores: {error}") from error
