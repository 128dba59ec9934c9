"""The learning rate over a run."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]
SCHEDULES = ("constant", "linear", "cosine")


def lr_factor(schedule: Schedule, step: int, steps: int, warmup: int) -> float:
    """What the learning rates are multiplied by in the step after ``step`` are made.

    It rises linearly over the first ``warmup`` steps, reaching 1 in the last of them, and then
    stays, or falls to 0 at ``steps`` in a line or half a cosine.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
