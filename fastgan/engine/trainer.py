"""The training loop."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from fastgan.data import ImageDataset, ResidentLoader
from fastgan.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_module,
    newest_checkpoint,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)
from fastgan.engine.config import TrainConfig, TrainResult, changed_fields
from fastgan.engine.ema import Ema
from fastgan.engine.grid import save_grid, screen_scale
from fastgan.engine.log import MetricsLog, Reporter, default_reporter
from fastgan.engine.run_folder import RunFolder, read_run
from fastgan.engine.signals import StopOnSignal
from fastgan.engine.step import StepMetrics, gan_step
from fastgan.losses import get_loss

# Streams that must not collide with each other or with the data order's.
_NOISE_STREAM, _FIXED_NOISE_STREAM = 1, 2


class Trainer:
    """Trains any generator against any discriminator.

    Args:
        generator: takes noise ``[N, latent_dim]``, gives images ``[N, C, H, W]`` in [-1, 1].
        discriminator: takes images, gives logits (one an image, of any shape).
        dataset: the real images.
        config: how to train.
        latent_dim: the noise's width; by default ``generator.latent_dim``.
        description: JSON-ready facts that are saved with the run and its checkpoints, such as how
            to build the models again.

    Raises:
        ValueError: ``config`` does not fit the data or the models.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        dataset: ImageDataset,
        config: TrainConfig | None = None,
        *,
        latent_dim: int | None = None,
        description: dict[str, Any] | None = None,
    ) -> None:
        self.config = config or TrainConfig()
        self.device = resolve_device(self.config.device)
        self.loss = get_loss(self.config.loss)
        self.latent_dim = _latent_dim(generator, latent_dim)
        self.description = description or {}
        self.dataset = dataset
        self.loader = ResidentLoader(
            dataset,
            self.config.batch_size,
            seed=self.config.seed,
            device=self.device,
            flip=self.config.flip,
        )
        self.generator = _place(generator, self.device).train()
        self.discriminator = _place(discriminator, self.device).train()
        betas = (self.config.beta1, self.config.beta2)
        self.optimizer_g = _adam(self.generator, self.config.lr_g, betas)
        self.optimizer_d = _adam(self.discriminator, self.config.lr_d, betas)
        self.ema = Ema(self.generator, self.config.ema_decay) if self.config.ema_decay else None
        self.noise = self._generator(_NOISE_STREAM)
        self.fixed_noise = torch.randn(
            self.config.sample_count,
            self.latent_dim,
            generator=self._generator(_FIXED_NOISE_STREAM),
            device=self.device,
        )
        self.step = 0

    def fit(
        self,
        out: str | Path,
        *,
        resume: bool = False,
        force: bool = False,
        reporter: Reporter | None = None,
    ) -> TrainResult:
        """Train until ``config.steps`` updates are made or a signal asks to stop.

        SIGINT and SIGTERM end the run after the current step, with a checkpoint.

        Args:
            out: the run's folder (see :mod:`fastgan.engine.run_folder`).
            resume: go on from the newest whole checkpoint in ``out``; the weights after any step
                are then those of an uninterrupted run, bit for bit, on the same machine and number
                of threads. Without a checkpoint there the run starts anew.
            force: clear a run that stands in ``out``.
            reporter: who is told of progress; by default a live bar or plain lines.
        """
        reporter = reporter or default_reporter()
        folder = RunFolder(Path(out), resume=resume, force=force)
        try:
            checkpoint = self._resume(folder, reporter) if folder.resumed else None
            run = {**self._facts(), "finished": False}
            if self.step >= self.config.steps and checkpoint is not None:
                raise FileExistsError(
                    f"{folder.path} has made its {self.step} steps already; "
                    "ask for more steps, or choose another out folder"
                )
            folder.describe(run)
            result = self._loop(folder, reporter)
            folder.describe({**run, "finished": result.finished})
            return result
        finally:
            folder.close()

    @torch.no_grad()
    def sample(self, noise: Tensor) -> Tensor:
        """Images of the averaged generator (the plain one where averaging is off), in eval mode."""
        model = self.ema.average if self.ema else self.generator
        was_training = model.training
        try:
            return model.eval()(noise)
        finally:
            model.train(was_training)

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything the run's future depends on; see ``save_checkpoint``."""
        tensors_g, info_g = pack_optimizer(self.optimizer_g)
        tensors_d, info_d = pack_optimizer(self.optimizer_d)
        files = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer_g": tensors_g,
            "optimizer_d": tensors_d,
            "rng": self._rng_state(),
        }
        if self.ema:
            files["generator_ema"] = self.ema.average.state_dict()
        info = {**self._facts(), "optimizer_g": info_g, "optimizer_d": info_d}
        return save_checkpoint(folder, self.step, files, info)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go back to where ``checkpoint`` was written.

        Raises:
            CheckpointError: it is of other models, other data or another configuration.
        """
        saved = checkpoint.manifest
        changed = changed_fields(saved["config"], self.config)
        if saved["data"]["fingerprint"] != self._data_facts["fingerprint"]:
            changed.append(f"data: {saved['data']} in the checkpoint, {self._data_facts} now")
        if changed:
            raise CheckpointError(
                f"{checkpoint.path} cannot be resumed with another setting: {'; '.join(changed)}"
            )
        load_module(self.generator, checkpoint.tensors("generator"), "generator")
        load_module(self.discriminator, checkpoint.tensors("discriminator"), "discriminator")
        if self.ema:
            load_module(self.ema.average, checkpoint.tensors("generator_ema"), "averaged generator")
        for name in ("optimizer_g", "optimizer_d"):
            unpack_optimizer(getattr(self, name), checkpoint.tensors(name), saved[name])
        self._set_rng_state(checkpoint.tensors("rng"))
        self.step = checkpoint.step

    def _loop(self, folder: RunFolder, reporter: Reporter) -> TrainResult:
        config = self.config
        log = MetricsLog(
            folder.metrics, self.step, folder.tensorboard if config.tensorboard else None
        )
        first, started, marked = self.step, time.monotonic(), (self.step, time.monotonic())
        reporter.start(config.steps, self.step)
        samples = checkpoint = None
        saved_at = drawn_at = -1
        try:
            with StopOnSignal() as signals:
                while self.step < config.steps and signals.received is None:
                    metrics = self._train_step()
                    self.step += 1
                    values = None
                    if self.step % config.log_every == 0 or self.step == config.steps:
                        values = self._read(metrics, marked)
                        marked = (self.step, time.monotonic())
                        log.write({"step": self.step, "seconds": marked[1] - started, **values})
                    reporter.update(self.step, values)
                    if config.sample_every and self.step % config.sample_every == 0:
                        samples, drawn_at = self._draw(folder), self.step
                    if config.checkpoint_every and self.step % config.checkpoint_every == 0:
                        checkpoint, saved_at = self.save(folder.checkpoints), self.step
                if samples is None or drawn_at != self.step:
                    samples = self._draw(folder)
                if checkpoint is None or saved_at != self.step:
                    checkpoint = self.save(folder.checkpoints)
        finally:
            log.close()
            reporter.stop()
        seconds = time.monotonic() - started
        return TrainResult(
            out=folder.path,
            step=self.step,
            finished=self.step >= config.steps,
            checkpoint=checkpoint,
            samples=samples,
            images_per_second=self._images(self.step - first) / max(seconds, 1e-9),
            stopped_by=signals.received,
        )

    def _train_step(self) -> StepMetrics:
        config, device = self.config, self.device.type
        lower = config.precision == "bfloat16"
        with torch.autocast(device, torch.bfloat16) if lower else nullcontext():
            metrics = gan_step(
                self.generator,
                self.discriminator,
                self.optimizer_g,
                self.optimizer_d,
                self.loss,
                reals=lambda i: self.loader.batch(self.step * config.discriminator_steps + i)[0],
                noise=self._draw_noise,
                discriminator_steps=config.discriminator_steps,
            )
        if self.ema:
            self.ema.update(self.step + 1)
        return metrics

    def _draw_noise(self) -> Tensor:
        return torch.randn(
            self.config.batch_size, self.latent_dim, generator=self.noise, device=self.device
        )

    def _read(self, metrics: StepMetrics, marked: tuple[int, float]) -> dict[str, float]:
        read = torch.stack(
            [metrics.loss_d, metrics.loss_g, metrics.real_logit, metrics.fake_logit]
        ).tolist()
        names = ("loss_d", "loss_g", "real_logit", "fake_logit")
        images = self._images(self.step - marked[0])
        rate = images / max(time.monotonic() - marked[1], 1e-9)
        return {**dict(zip(names, read, strict=True)), "img_per_s": rate}

    def _images(self, steps: int) -> int:
        return steps * self.config.batch_size * self.config.discriminator_steps

    def _draw(self, folder: RunFolder) -> Path:
        images = self.sample(self.fixed_noise)
        path = folder.samples / f"step-{self.step:08d}.png"
        return save_grid(images, path, scale=screen_scale(images))

    def _resume(self, folder: RunFolder, reporter: Reporter) -> Checkpoint | None:
        torn: list[str] = []
        checkpoint = newest_checkpoint(folder.checkpoints, torn)
        for problem in torn:
            reporter.note(f"not used: {problem}")
        if checkpoint is None:
            self._start_anew(folder, reporter)
            return None
        self.load(checkpoint)
        reporter.note(f"resumed {checkpoint.path} at step {self.step}")
        return checkpoint

    def _start_anew(self, folder: RunFolder, reporter: Reporter) -> None:
        run = read_run(folder.path) or {}
        if changed := changed_fields(run.get("config", {}), self.config):
            raise CheckpointError(
                f"{folder.path} cannot be resumed with another setting: {'; '.join(changed)}"
            )
        reporter.note(f"{folder.path} has no whole checkpoint yet: starting from step 0")

    def _facts(self) -> dict[str, Any]:
        return {"config": self.config.as_dict(), "data": self._data_facts, **self.description}

    @cached_property
    def _data_facts(self) -> dict[str, Any]:
        # Once a run: hashing a large set takes seconds, and every checkpoint names its data.
        return {
            "name": self.dataset.name,
            "images": list(self.dataset.images.shape),
            "fingerprint": self.dataset.fingerprint(),
        }

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.config.seed * 4 + stream)

    def _rng_state(self) -> dict[str, Tensor]:
        state = {"noise": self.noise.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _set_rng_state(self, state: dict[str, Tensor]) -> None:
        self.noise.set_state(state["noise"])
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)


def resolve_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one, else the CPU.

    Raises:
        ValueError: the name is not a device, or this machine or build of torch does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    return device


def _place(module: nn.Module, device: torch.device) -> nn.Module:
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _adam(module: nn.Module, lr: float, betas: tuple[float, float]) -> Adam:
    return Adam(module.parameters(), lr=lr, betas=betas, fused=True)


def _latent_dim(generator: nn.Module, given: int | None) -> int:
    width = given if given is not None else getattr(generator, "latent_dim", None)
    if not isinstance(width, int) or width < 1:
        raise ValueError(
            "latent_dim must be a positive whole number, given or as generator.latent_dim; "
            f"got {width!r}"
        )
    return width
