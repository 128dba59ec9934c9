"""The trainer: networks, data and configuration, put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.augment import get_augmentation
from fastgan.data import ImageDataset, ImageStream, make_loader
from fastgan.engine.autoencoding import named_step
from fastgan.engine.callbacks import Callback
from fastgan.engine.capture import Inputs, StepRunner
from fastgan.engine.checkpoint import Checkpoint
from fastgan.engine.config import TrainConfig, TrainResult
from fastgan.engine.ema import Ema
from fastgan.engine.launch import local_device
from fastgan.engine.log import Reporter
from fastgan.engine.loop import Loop
from fastgan.engine.parts import describe
from fastgan.engine.precision import LossScale, float32_products
from fastgan.engine.ranks import Ranks
from fastgan.engine.schedule import lr_factor
from fastgan.engine.state import load_state, save_state
from fastgan.engine.step import GAN, Batch, Metrics, Penalty
from fastgan.engine.update import Update
from fastgan.engine.validate import check_choices
from fastgan.losses import GANLoss, get_loss
from fastgan.nn import convert_sync_batchnorm
from fastgan.optim import Adam
from fastgan.regularizers import get_regularizer

# Streams that must not collide with each other or with the data order's.
_NOISE_STREAM, _FIXED_NOISE_STREAM = 1, 2
# Images that are drawn in one pass: a grid may hold thousands.
_SAMPLED_AT_ONCE = 256

Step = Callable[[GAN, Callable[[int], Batch], Sequence[Sequence[bool]]], Metrics]


class Trainer:
    """Trains any generator against any discriminator.

    In a run of several processes (see docs/distributed.md) each of them makes the same trainer; the
    networks start as the first one's.

    Args:
        generator: takes noise ``[N, latent_dim]``, gives images ``[N, C, H, W]`` in [-1, 1].
        discriminator: takes images, gives logits (one an image, of any shape ``[N, ...]``), or
            logits and class logits ``[N, classes]``. With ``config.conditional`` both take labels,
            int64 ``[N]``, as a second argument. None where ``config.objective`` has no use for it.
        dataset: the real images, in memory or streamed (``fastgan.data.load``, ``stream``).
        config: how to train.
        latent_dim: the noise's width; by default ``generator.latent_dim``.
        loss: in place of the one that ``config.loss`` names.
        penalties: regularisers of the discriminator (see :class:`fastgan.engine.step.Penalty`),
            beside the one that ``config.regularizer`` names.
        augment: applied to all images that the discriminator sees, in place of the one that
            ``config.augment`` names; a :class:`fastgan.augment.Augmentation` is also shown the
            logits of the real images after each discriminator update.
        callbacks: called as the run goes on.
        step: one step, in place of the one that ``config.objective`` names
            (:func:`fastgan.engine.gan_step`); a module's buffers are part of checkpoints.
            Loss, penalties, augment and step are written down with their settings (see
            :mod:`fastgan.engine.parts`), and a resume with others is refused.
        description: JSON-ready facts that are saved with the run and its checkpoints, such as how
            to build the models again.

    Raises:
        ValueError: ``config`` does not fit the data, the models or the device.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None,
        dataset: ImageDataset | ImageStream,
        config: TrainConfig | None = None,
        *,
        latent_dim: int | None = None,
        loss: GANLoss | None = None,
        penalties: Sequence[Penalty] = (),
        augment: nn.Module | None = None,
        callbacks: Sequence[Callback] = (),
        step: Step | None = None,
        description: dict[str, Any] | None = None,
    ) -> None:
        self.config = config = config or TrainConfig()
        self.ranks = Ranks.current()
        self.device = resolve_device(config.device)
        self.latent_dim = _latent_dim(generator, latent_dim)
        self.description = description or {}
        self.dataset = dataset
        self.callbacks = list(callbacks)
        self.step = 0
        self.whole = True
        """False while an update is being made: the state is then that of no step."""
        self.rollbacks = 0
        # Before they are used: what a part counts in a plain attribute is not what it is.
        self._parts = {
            "loss": describe(loss),
            "penalties": [describe(penalty) for penalty in penalties],
            "augment": describe(augment),
            "step": describe(step),
        }
        loss = loss or get_loss(
            config.loss, smooth_real=config.smooth_real, smooth_fake=config.smooth_fake
        )
        step = step or named_step(config)
        check_choices(config, generator, discriminator, dataset, self.ranks, self.device)
        self.loader = make_loader(
            dataset,
            self.ranks.share(config.batch_size, "batch_size"),
            seed=config.seed,
            device=self.device,
            flip=config.flip,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
        )
        self.generator = self._place(generator)
        # A network that is not there is a module without parameters.
        self.discriminator = self._place(discriminator or nn.Module())
        penalties = [*_named_penalties(config), *penalties]
        if augment is None and config.augment != "none":
            augment = get_augmentation(config.augment)
        for part in (augment, step, *penalties):
            if isinstance(part, nn.Module):
                part.to(self.device)
        self.ema = Ema(self.generator, config.ema_decay) if config.ema_decay else None
        self.gan = GAN(
            self.generator,
            self.discriminator,
            self._update(self.generator, config.lr_g),
            self._update(self.discriminator, config.lr_d, bound=config.clip_weights),
            loss,
            penalties,
            augment,
            self.ranks,
            precision=config.precision,
            discriminator_steps=config.discriminator_steps,
            joint_batch=config.joint_batch,
            share_fakes=config.share_fakes,
            update_rule=config.update_rule,
            class_weight=config.class_weight,
            accumulate=config.accumulate,
        )
        self.noise = self._random(_NOISE_STREAM)
        self.fixed_noise = torch.randn(
            config.sample_count,
            self.latent_dim,
            generator=self._random(_FIXED_NOISE_STREAM),
            device=self.device,
        )
        self.step_function = step
        self._fetched: tuple[int, Inputs, Hashable] | None = None
        self._runner = StepRunner(
            self._run_step, self.device, config.capture, [self.noise], shared=self.ranks.size > 1
        )
        if self.ranks.size > 1:
            self.reseed()

    def fit(
        self,
        out: str | Path,
        *,
        resume: bool = False,
        force: bool = False,
        reporter: Reporter | None = None,
    ) -> TrainResult:
        """Train until ``config.steps`` updates are made or a signal asks to stop.

        SIGINT and SIGTERM end the run after the current step, with a checkpoint. An error ends it
        too; what was trained is saved before, unless the error struck in the middle of a step.

        Args:
            out: the run's folder (see :mod:`fastgan.engine.run_folder`).
            resume: go on from the newest whole checkpoint in ``out``; the weights after any step
                are then those of an uninterrupted run, bit for bit, on the same machine and number
                of threads and processes. Without a checkpoint there the run starts anew.
            force: clear a run that stands in ``out``.
            reporter: who is told of progress; by default a live bar or plain lines.

        Raises:
            NonFiniteError: gradients were not finite, and ``config.nan_policy`` says to stop.
            LostRankError: another process of the run has ended.
        """
        with float32_products(self.config.precision):
            return Loop(self, Path(out), reporter).fit(resume=resume, force=force)

    def train_step(self) -> None:
        """Make one step. Its scalars are then in :attr:`latest`, on the device."""
        config = self.config
        rows, due = self.fetch()
        self._fetched = None
        factor = lr_factor(config.lr_schedule, self.step, config.steps, config.warmup_steps)
        self.gan.update_g.set_lr(config.lr_g * factor)
        self.gan.update_d.set_lr(config.lr_d * factor)
        if self.ema:
            self.ema.before(self.step + 1)
        self.whole = False
        self._runner(rows, due)
        self.step += 1
        self.whole = True

    def fetch(self) -> tuple[Inputs, Hashable]:
        """What the step that comes works on: rows of the data, and the penalties that are due.

        Data that cannot be read is an error here, before anything of the state is touched.
        """
        if self._fetched is None or self._fetched[0] != self.step:
            first = self.step * self.config.discriminator_steps
            updates = range(first, first + self.config.discriminator_steps)
            due = tuple(tuple(u % p.every == 0 for p in self.gan.penalties) for u in updates)
            self._fetched = self.step, [self.loader.rows(u) for u in updates], due
        return self._fetched[1:]

    @property
    def latest(self) -> Metrics:
        """The newest value of every scalar that steps give; reading one waits for the device."""
        return self._runner.latest

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of the averaged generator (the plain one where averaging is off), in eval mode."""
        model = self.ema.average if self.ema else self.generator
        was_training = model.training
        try:
            model.eval()
            rows = [noise] if labels is None else [noise, labels]
            parts = zip(*(row.split(_SAMPLED_AT_ONCE) for row in rows), strict=True)
            images = [model(*part) for part in parts]
            return images[0] if len(images) == 1 else torch.cat(images)
        finally:
            model.train(was_training)

    def save(self, folder: Path, **info: Any) -> Path:
        """Write a checkpoint of everything the run's future depends on; see ``save_checkpoint``."""
        return save_state(self, folder, **info)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go back to where ``checkpoint`` was written.

        Raises:
            CheckpointError: it is of other models, other data or another configuration.
        """
        load_state(self, checkpoint)
        self._runner.forget()
        self.whole = True

    def reseed(self) -> None:
        """Start torch's random streams anew: each rank's own, and others after each rollback."""
        entropy = [self.config.seed, self.rollbacks, self.ranks.rank]
        seed, noise = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
        torch.manual_seed(int(seed >> np.uint64(1)))
        if self.rollbacks:
            self.noise.manual_seed(self.ranks.from_first(lambda: int(noise >> np.uint64(1))))

    def facts(self) -> dict[str, Any]:
        """What the run is, for its folder and its checkpoints."""
        facts = {"config": self.config.as_dict(), "data": self._data_facts, **self.description}
        return facts | {"parts": self._parts, "rollbacks": self.rollbacks}

    @property
    def optimizer_g(self) -> Adam:
        return self.gan.update_g.optimizer

    @property
    def optimizer_d(self) -> Adam:
        return self.gan.update_d.optimizer

    @property
    def fixed_labels(self) -> Tensor | None:
        """The labels of the sample grid: all in turn."""
        if not self.config.conditional:
            return None
        assert self.dataset.labels is not None
        classes = getattr(self.generator, "num_classes", 0) or int(self.dataset.labels.max()) + 1
        return torch.arange(len(self.fixed_noise), device=self.device) % classes

    def _run_step(self, inputs: Inputs, due: Hashable) -> Metrics:
        """The whole step as a function of tensors: from the rows of the data to the average."""

        def batches(i: int) -> Batch:
            if i >= len(inputs):
                return replace(made[-1], noise=self._draw_noise())
            images, labels = self.loader.gather(*inputs[i])  # type: ignore[arg-type]
            noise = self._draw_noise()
            made.append(Batch(images, labels if self.config.conditional else None, noise))
            return made[-1]

        made: list[Batch] = []
        metrics = self.step_function(self.gan, batches, due)  # type: ignore[arg-type]
        if self.ema:
            self.ema.update()
        return metrics

    def _draw_noise(self) -> Tensor:
        # Drawn for all ranks by each of them, so that their noise does not depend on their number.
        shape = self.config.batch_size, self.latent_dim
        return self.ranks.part(torch.randn(*shape, generator=self.noise, device=self.device))

    def _place(self, module: nn.Module) -> nn.Module:
        self.ranks.align(module.to(self.device))
        if self.config.sync_batchnorm and self.ranks.size > 1:
            convert_sync_batchnorm(module)
        return module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def _update(self, module: nn.Module, lr: float, bound: float = 0.0) -> Update:
        config = self.config
        return Update(
            module,
            lr,
            (config.beta1, config.beta2),
            loss_scale=LossScale(self.device) if config.precision == "float16" else None,
            clip=config.clip_grad,
            bound=bound,
            ranks=self.ranks,
            device=self.device,
        )

    @cached_property
    def _data_facts(self) -> dict[str, Any]:
        # Once a run: hashing a large set takes seconds, and every checkpoint names its data.
        return {
            "name": self.dataset.name,
            "images": list(self.dataset.shape),
            "fingerprint": self.dataset.fingerprint(),
        }

    def _random(self, stream: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.config.seed * 4 + stream)


def resolve_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one, else the CPU; torchrun's processes take one GPU each.

    Raises:
        ValueError: the name is not a device, or this machine or build of torch does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", local_device())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    return device


def _named_penalties(config: TrainConfig) -> list[Penalty]:
    if config.regularizer == "none":
        return []
    return [get_regularizer(config.regularizer, config.reg_weight, config.reg_every)]


def _latent_dim(generator: nn.Module, given: int | None) -> int:
    width = given if given is not None else getattr(generator, "latent_dim", None)
    if not isinstance(width, int) or width < 1:
        raise ValueError(
            "latent_dim must be a positive whole number, given or as generator.latent_dim; "
            f"got {width!r}"
        )
    return width
