"""The typed configuration of a training run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fastgan.augment import list_augmentations
from fastgan.checks import check_choice, check_int, check_name, check_share, did_you_mean, unknown
from fastgan.engine.class_weights import parse_class_weights
from fastgan.engine.intervals import MAX_STEPS, Interval, parse_interval
from fastgan.engine.keeping import KeepActivations
from fastgan.engine.optimizers import OptimizerName
from fastgan.engine.precision import PrecisionSetting
from fastgan.engine.schedule import SCHEDULES, Schedule
from fastgan.losses import get_loss
from fastgan.metrics import Score
from fastgan.regularizers import REGULARIZERS

NanPolicy = Literal["stop", "skip", "rollback"]
Capture = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train. What to train (models, data) is given beside it.

    Every field is checked when the config is made; a bad one raises ``ValueError`` that names it.
    """

    steps: int = 2000
    """Generator updates to make."""
    batch_size: int = 64
    """Real images an update, and fakes: of all processes together."""
    loss: str = "non_saturating"
    """non_saturating, saturating, lsgan, hinge, wasserstein, relativistic_average or
    relativistic_pairing."""
    smooth_real: float = 0.0
    """The discriminator's target for real images is 1 less this (label smoothing)."""
    smooth_fake: float = 0.0
    """Its target for generated images."""
    regularizer: str = "none"
    """Of the discriminator: r1, r2, r1_r2, wgan_gp, dragan, lecam, or r1_finite, r2_finite,
    r1_r2_finite: the first three by finite differences, without second order."""
    reg_weight: float | None = None
    """The regulariser's weight; by default the usual one of its paper."""
    reg_every: int = 1
    """Discriminator updates from one evaluation of the regulariser to the next."""
    reg_fraction: float = 1.0
    """The share of the batch that a gradient penalty is taken over."""
    augment: str = "none"
    """Of all images that the discriminator sees: diffaugment, ada or instance_noise."""
    clip_weights: float = 0.0
    """Clip the discriminator's weights to so much after each update. 0 leaves them."""
    optimizer: OptimizerName = "adam"
    """Of torch.optim, by its name, or lion (needs fastgan[lion]). Any other is given in Python:
    Trainer(optimizers=...)."""
    lr_g: float = 2e-4
    """The learning rate of the generator."""
    lr_d: float = 2e-4
    """The learning rate of the discriminator."""
    beta1: float = 0.5
    """The first-moment decay of Adam and its kin; the momentum of sgd and rmsprop."""
    beta2: float = 0.999
    """The second-moment decay of Adam and its kin; rmsprop's alpha."""
    weight_decay: float = 0.0
    """Weight decay: decoupled in adamw, added to the gradients in the others."""
    freeze_d: int = 0
    """So many layers of the discriminator, from the images on, are not trained (FreezeD)."""
    discriminator_steps: int = 1
    """Discriminator updates for each generator update (n_critic)."""
    lr_schedule: Schedule = "constant"
    """How the learning rates fall over the run: constant, linear or cosine (both to 0)."""
    warmup_steps: int = 0
    """Steps over which the learning rates rise first."""
    clip_grad: float = 0.0
    """Gradients are scaled down to this norm, a network at a time. 0 leaves them."""
    accumulate: int = 1
    """Work a batch through in so many parts, for less memory; see docs/training.md."""
    joint_batch: bool = False
    """One discriminator pass over real and fake images together; exact with BatchNormAct."""
    share_fakes: bool = True
    """Both networks' updates use the same fakes, and so one generator pass."""
    sync_batchnorm: bool = False
    """Take BatchNormAct's statistics over all processes."""
    conditional: bool = False
    """Give the images' labels to both networks: generator(noise, labels), and the same for the
    discriminator."""
    class_weight: float = 1.0
    """What the class loss of a discriminator with class outputs is multiplied by."""
    class_weights: str = "off"
    """What images weigh in that loss by their class: off, balanced (rare classes as much as common
    ones), or a number for each class, 1,2,0.5."""
    ema_decay: float = 0.999
    """Decay of the generator's moving average, which samples are drawn from. 0 turns it off."""
    flip: bool = False
    """Mirror half of the real images."""
    balance: float = 0.0
    """Draw classes of few images more often: 0 as often as they are there, 1 all alike."""
    precision: PrecisionSetting = "auto"
    """Of convolutions and matrix products: float32, tf32, bfloat16 or float16 (with dynamic loss
    scaling); parameters and statistics stay float32. auto is tf32 on a GPU that has it, else
    float32."""
    deterministic: bool = False
    """Let cuDNN use the algorithms that always give the same bits, in place of the fastest that it
    finds by trying them; a resume on a GPU is then exact to the bit."""
    capture: Capture = "auto"
    """Run steps as CUDA graphs; auto does so on a GPU."""
    keep_activations: KeepActivations = "auto"
    """Keep the normalised activations for backward, or compute them again for less memory: auto
    keeps them on a GPU where the first step leaves room, unless the run is deterministic."""
    nan_policy: NanPolicy = "stop"
    """When gradients were not finite: stop, skip those updates and go on, or rollback to the newest
    checkpoint. No such update is ever applied."""
    max_rollbacks: int = 3
    """Rollbacks before the run stops."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""
    seed: int = 0
    """Seed of weights, noise, data order and dropout."""
    log_every: int = 50
    """Steps between lines of metrics."""
    sample_every: int | str = 500
    """Steps between sample grids, or a time such as 10min. 0 draws only the last one."""
    checkpoint_every: int | str = 500
    """Steps between checkpoints, or a time such as 10min. 0 saves only the last one."""
    keep_last: int = 3
    """Checkpoints to keep, the newest. 0 keeps all."""
    keep_best: int = 0
    """Checkpoints to keep beside them: those that eval_metrics or a callback scored best."""
    eval_every: int | str = 0
    """Steps between evaluations of samples, or a time such as 10min (needs fastgan[metrics]). The
    best checkpoint is kept. 0 evaluates nothing."""
    eval_metrics: str = "fid"
    """fid, kid, sliced, is, prdc, nearest or classes of samples, psnr, ssim or elbo of
    reconstructions; several with commas between. The first number of the first decides which
    checkpoint is the best."""
    eval_samples: int = 2000
    """Images to draw for an evaluation."""
    eval_features: str = "lenet"
    """The feature network: lenet (digits), efficientnet-lite0, inception, timm:NAME,
    torchvision:NAME, onnx:FILE#OUTPUT, or package.module:attribute."""
    stop_after: int = 0
    """End the run after so many evaluations in a row without a better one. 0 goes on to the end."""
    watch_every: int | str = 0
    """Steps between looks at the run's stability (accuracy, gradients, spectral norms, copies; see
    docs/metrics.md), or a time such as 10min. 0 looks at nothing."""
    report_every: int | str = 0
    """Steps between writings of the run's report.html (see `fastgan report`), or a time such as
    10min. 0 writes none."""
    sample_count: int = 64
    """Images in a sample grid, from noise that stays the same for the whole run."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs fastgan[tensorboard])."""
    loggers: str = ""
    """Also send metrics and pictures to: tensorboard, wandb, mlflow, trackio; several with commas
    between. Each is an extra of fastgan."""

    def __post_init__(self) -> None:
        for name, (minimum, maximum) in BOUNDS.items():
            check_int(name, getattr(self, name), minimum, maximum)
        intervals_of(self)
        for name in ("lr_g", "lr_d"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        for name in ("clip_grad", "clip_weights", "class_weight", "weight_decay"):
            check_number(name, getattr(self, name))
        check_share("reg_fraction", self.reg_fraction, "(0, 1]")
        if self.reg_fraction < 1 and self.regularizer in ("none", "lecam"):
            raise ValueError(
                f"reg_fraction is of gradient penalties, and regularizer is {self.regularizer}"
            )
        check_share("balance", self.balance, "[0, 1]")
        parse_class_weights(self.class_weights)
        if self.class_weights != "off" and not self.conditional:
            raise ValueError(f"class_weights {self.class_weights} needs conditional")
        for name in ("beta1", "beta2", "ema_decay"):
            check_share(name, getattr(self, name))
        if self.optimizer not in (names := get_args(OptimizerName)):
            raise ValueError(
                f"optimizer must be one of {', '.join(names)}, got {self.optimizer!r}"
                f"{did_you_mean(self.optimizer, names)}; any other is given in Python: "
                "Trainer(optimizers=...)"
            )
        get_loss(self.loss, smooth_real=self.smooth_real, smooth_fake=self.smooth_fake)
        check_name("regularizer", self.regularizer, ("none", *REGULARIZERS))
        check_name("augmentation", self.augment, ("none", *list_augmentations()))
        check_choice("precision", self.precision, get_args(PrecisionSetting))
        check_choice("lr_schedule", self.lr_schedule, SCHEDULES)
        check_choice("nan_policy", self.nan_policy, get_args(NanPolicy))
        check_choice("capture", self.capture, get_args(Capture))
        check_choice("keep_activations", self.keep_activations, get_args(KeepActivations))
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate = {self.accumulate}, "
                f"got {self.batch_size}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return dataclasses.asdict(self)


_INTERVALS = ("sample_every", "checkpoint_every", "eval_every", "watch_every", "report_every")

# More images than any set in memory or batch of a paper; what fits a device is looked at with it.
_MAX_IMAGES = 10**6
# Of one step, which neither a signal nor a log line interrupts; papers make 1 to 100.
_MAX_UPDATES = 1000
# Of a network that a step could run.
_MAX_LAYERS = 10_000
# A grid of 100 × 100, whose images are compared each with each.
_MAX_SAMPLES = 10_000
# Random streams are numbered 4 · seed + k, in 64 bits.
MAX_SEED = 2**62 - 1

BOUNDS = {
    "steps": (1, MAX_STEPS),
    "batch_size": (1, _MAX_IMAGES),
    "discriminator_steps": (1, _MAX_UPDATES),
    "accumulate": (1, _MAX_IMAGES),
    "freeze_d": (0, _MAX_LAYERS),
    "log_every": (1, MAX_STEPS),
    "reg_every": (1, MAX_STEPS),
    "sample_count": (1, _MAX_SAMPLES),
    "warmup_steps": (0, MAX_STEPS),
    "max_rollbacks": (0, MAX_STEPS),
    "keep_last": (0, MAX_STEPS),
    "keep_best": (0, MAX_STEPS),
    "stop_after": (0, MAX_STEPS),
    "eval_samples": (2, _MAX_IMAGES),
    "seed": (0, MAX_SEED),
}

# What may differ between a run and its continuation: it changes neither the weights nor the data.
RESUMABLE_FIELDS = frozenset(
    {
        "steps", "log_every", "sample_every", "checkpoint_every", "tensorboard", "loggers",
        "device", "capture", "deterministic", "nan_policy", "max_rollbacks", "keep_last",
        "keep_best", "keep_activations", "eval_every", "stop_after", "report_every", "watch_every",
    }
)  # fmt: skip

# Scores of a run are of one setting, or the best of them would say nothing.
OF_SCORES = frozenset({"eval_metrics", "eval_samples", "eval_features"})


def intervals_of(config: TrainConfig) -> dict[str, Interval]:
    """The fields that are a number of steps or a time; errors of `parse_interval`."""
    return {name: parse_interval(name, getattr(config, name)) for name in _INTERVALS}


def check_number(name: str, value: float) -> None:
    """ValueError unless it is finite and at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def chosen_config(
    config: TrainConfig | None, settings: dict[str, Any], dataset: Any, processes: int
) -> TrainConfig:
    """``config`` with other settings; by default with a ``DataLoader``'s own batch size.

    Raises:
        ValueError: a setting is none of a configuration's, or has a bad value.
    """
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    if others := settings.keys() - set(known):
        raise unknown("setting", min(others), known)
    if config is None:
        of_one = getattr(dataset, "batch_size", None)
        config = TrainConfig(**({"batch_size": of_one * processes} if of_one else {}))
    return dataclasses.replace(config, **settings)


def changed_fields(saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """What ``config`` would change in the run that ``saved`` describes, an entry a field."""
    now = config.as_dict()
    # A falling learning rate depends on where the run ends.
    free = RESUMABLE_FIELDS - ({"steps"} if config.lr_schedule != "constant" else set())
    if not saved.get("eval_every"):  # nothing was measured yet
        free |= OF_SCORES
    return [
        f"{name}: {saved[name]!r} in the checkpoint, {now[name]!r} now"
        for name in sorted(now.keys() & saved.keys() - free)
        if saved[name] != now[name]
    ]


@dataclass(frozen=True)
class TrainResult:
    """Where a run stands when :meth:`fastgan.Trainer.fit` returns."""

    out: Path
    """The run's folder."""
    step: int
    """Generator updates made so far."""
    finished: bool
    """False if a signal stopped the run early; it can be resumed. ``stop_after`` finishes a run."""
    checkpoint: Path
    """The newest checkpoint."""
    samples: Path
    """The newest sample grid."""
    images_per_second: float
    """Real images a second, the whole loop included (data, logging, grids, checkpoints)."""
    stopped_by: int | None = None
    """The signal's number, if one ended the run."""
    best: Path | None = None
    """The best checkpoint by ``eval_metrics``, if samples were evaluated."""
    best_score: Score | None = None
    """Its score."""
    warnings: tuple[str, ...] = ()
    """Signs of trouble, such as a discriminator that has won, as they were reported."""
