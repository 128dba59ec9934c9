"""What a run's record says that a person should know, and what to try."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from fastgan.engine.report.record import RunRecord
from fastgan.metrics import LOWER_IS_BETTER

_SLOW_DATA, _LONG_PAUSES = 0.2, 0.25
# The newest quarter's speed as a share of the fastest quarter's.
_SLOWED = 0.6
_WORSE = 1.1


class Advice(NamedTuple):
    """What was seen, and what may help."""

    seen: str
    hint: str


def advise(record: RunRecord) -> list[Advice]:
    """In the order of what is to be looked at first."""
    looks = _warned, _not_finite, _past_its_best, _time, _slowed
    return [advice for look in looks for advice in look(record)]


def _warned(record: RunRecord) -> Iterator[Advice]:
    for text in record.facts.get("warnings", []):
        seen, _, hint = text.partition(". ")
        yield Advice(seen[:1].upper() + seen[1:], hint and hint.rstrip(".") + ".")


def _not_finite(record: RunRecord) -> Iterator[Advice]:
    bad = [
        step
        for name in record.names("loss_")
        for step, value in record.series(name)
        if math.isnan(value)
    ]
    skipped = max((v for _, v in record.series("skipped") if math.isfinite(v)), default=0)
    if bad:
        yield Advice(
            f"A loss is not a finite number, first at step {min(bad)}",
            "The run has diverged there. Start again from an earlier checkpoint (--init-from) with "
            "a lower learning rate, --clip-grad 1 or --precision float32.",
        )
    if skipped and record.config.get("precision") != "float16":
        yield Advice(
            f"{skipped:.0f} updates were not made, for their gradients were not finite",
            "A lower learning rate or --clip-grad may help; --nan-policy rollback goes back by "
            "itself.",
        )


def _past_its_best(record: RunRecord) -> Iterator[Advice]:
    for metric, evaluations in list(record.scores().items())[:1]:
        best, (last_step, last) = record.best(metric), evaluations[-1]
        if best is None or best[0] == last_step:
            continue
        lower = metric in LOWER_IS_BETTER
        ratio = last.value / best[1].value if lower else best[1].value / (last.value or math.nan)
        if not ratio <= _WORSE:  # NaN, too
            yield Advice(
                f"{metric} was {best[1].value:.4g} at step {best[0]} and is {last.value:.4g} at "
                f"step {last_step}",
                f"Take that checkpoint: {record.path / 'best'} names it. --stop-after ends such "
                "runs; with little data --augment ada or diffaugment keeps them from turning.",
            )


def _time(record: RunRecord) -> Iterator[Advice]:
    spent = record.spent()
    total = sum(spent.values())
    if total <= 0:
        return
    if (share := spent.get("data", 0) / total) > _SLOW_DATA:
        yield Advice(
            f"{share:.0%} of the time goes into reading data",
            "The steps wait for the loader: --loading resident where the set fits into memory, "
            "more --workers, or images stored at the size that is trained on.",
        )
    flags = {"grids": "--sample-every", "checkpoints": "--checkpoint-every"}
    flags |= {"evaluation": "--eval-every", "watch": "--watch-every"}
    for name, flag in flags.items():
        if (share := spent.get(name, 0) / total) > _LONG_PAUSES:
            yield Advice(f"{share:.0%} of the time goes into {name}", f"A larger {flag} saves it.")


def _slowed(record: RunRecord) -> Iterator[Advice]:
    rates = [v for _, v in record.series("img_per_s") if math.isfinite(v)]
    quarter = len(rates) // 4
    if quarter < 2:
        return
    quarters = [median(rates[i * quarter : (i + 1) * quarter]) for i in range(4)]
    if quarters[-1] < _SLOWED * max(quarters):
        yield Advice(
            f"Training slowed down from {max(quarters):.0f} to {quarters[-1]:.0f} images a second",
            "Other programs may want the same cores or GPU (`top`, `nvidia-smi`), or the device is "
            "hot. With busy neighbours on a CPU, fewer threads (OMP_NUM_THREADS) and "
            "OMP_WAIT_POLICY=passive are faster.",
        )
