"""The typed configuration of a training run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train. What to train (models, data) is given beside it.

    Every field is checked when the config is made; a bad one raises ``ValueError`` that names it.
    """

    steps: int = 2000
    """Generator updates to make."""
    batch_size: int = 64
    """Real images a step, and fakes a step."""
    loss: str = "non_saturating"
    """non_saturating, lsgan, hinge or wasserstein."""
    lr_g: float = 2e-4
    """Adam's learning rate for the generator."""
    lr_d: float = 2e-4
    """Adam's learning rate for the discriminator."""
    beta1: float = 0.5
    """Adam's first-moment decay."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    discriminator_steps: int = 1
    """Discriminator updates for each generator update (n_critic)."""
    ema_decay: float = 0.999
    """Decay of the generator's moving average, which samples are drawn from. 0 turns it off."""
    flip: bool = False
    """Mirror half of the real images."""
    precision: Precision = "float32"
    """Type of convolutions and matrix products; parameters and statistics stay float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""
    seed: int = 0
    """Seed of weights, noise, data order and dropout."""
    log_every: int = 50
    """Steps between lines of metrics."""
    sample_every: int = 500
    """Steps between sample grids. 0 draws only the last one."""
    checkpoint_every: int = 500
    """Steps between checkpoints. 0 saves only the last one."""
    sample_count: int = 64
    """Images in a sample grid, from noise that stays the same for the whole run."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs fastgan[tensorboard])."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "discriminator_steps", "log_every", "sample_count"):
            _require_int(name, getattr(self, name), minimum=1)
        for name in ("sample_every", "checkpoint_every", "seed"):
            _require_int(name, getattr(self, name), minimum=0)
        for name in ("lr_g", "lr_d"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        for name in ("beta1", "beta2", "ema_decay"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}")

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return dataclasses.asdict(self)


# What may differ between a run and its continuation: it changes neither the weights nor the data.
RESUMABLE_FIELDS = frozenset(
    {"steps", "log_every", "sample_every", "checkpoint_every", "tensorboard", "device"}
)


def changed_fields(saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """What ``config`` would change in the run that ``saved`` describes, an entry a field."""
    now = config.as_dict()
    return [
        f"{name}: {saved[name]!r} in the checkpoint, {now[name]!r} now"
        for name in sorted(now.keys() & saved.keys() - RESUMABLE_FIELDS)
        if saved[name] != now[name]
    ]


def _require_int(name: str, value: Any, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


@dataclass(frozen=True)
class TrainResult:
    """Where a run stands when :meth:`fastgan.Trainer.fit` returns."""

    out: Path
    """The run's folder."""
    step: int
    """Generator updates made so far."""
    finished: bool
    """False if a signal stopped the run early; it can be resumed."""
    checkpoint: Path
    """The newest checkpoint."""
    samples: Path
    """The newest sample grid."""
    images_per_second: float
    """Real images a second, the whole loop included (data, logging, grids, checkpoints)."""
    stopped_by: int | None = None
    """The signal's number, if one ended the run."""
