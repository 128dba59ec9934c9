"""The state of a run: networks, data and configuration, put together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastgan.augment import get_augmentation
from fastgan.data import Data, as_source
from fastgan.data.dataset import spread
from fastgan.data.source import conditions_of, gathered, normalised
from fastgan.engine.capture import Inputs, StepRunner, host_values
from fastgan.engine.class_weights import check_class_outputs, class_weights_of
from fastgan.engine.config import TrainConfig, chosen_config
from fastgan.engine.device import take_device
from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.ema import Ema
from fastgan.engine.gan import GAN, Batch, Metrics, Penalty
from fastgan.engine.keeping import Keeper
from fastgan.engine.latents import inputs_of
from fastgan.engine.objectives import GANObjective, Objective
from fastgan.engine.optimizers import Schedulers, named_optimizer, rates_of
from fastgan.engine.parts import describe
from fastgan.engine.precision import LossScale, resolve_precision
from fastgan.engine.schedule import lr_factor
from fastgan.engine.start import freeze_first
from fastgan.engine.step import Step
from fastgan.engine.translating import TranslationStep
from fastgan.engine.update import Update
from fastgan.engine.validate import (
    capture_of,
    check_choices,
    check_given,
    data_facts,
    width_of_noise,
)
from fastgan.losses import GANLoss, get_loss
from fastgan.nn import batches_counted_together, convert_sync_batchnorm
from fastgan.nn.modes import modes_kept
from fastgan.ops.core.memory_format import CHANNELS_LAST
from fastgan.regularizers import get_regularizer
from fastgan.system import renamed

# Streams that must not collide with each other or with the data order's.
_NOISE_STREAM, _FIXED_NOISE_STREAM = 1, 2
# Images that are drawn in one pass: a grid may hold thousands.
_SAMPLED_AT_ONCE = 256


class TrainState:
    """Everything that a run's future depends on, and the step that moves it.

    The arguments are those of :class:`fastgan.engine.Trainer`.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None,
        dataset: Data,
        config: TrainConfig | None = None,
        *,
        latent_dim: int | None = None,
        loss: GANLoss | str | None = None,
        penalties: Sequence[Penalty] = (),
        augment: nn.Module | str | None = None,
        callbacks: Sequence[Any] = (),
        objective: Objective | None = None,
        step: Step | None = None,
        optimizers: tuple[Optimizer | None, Optimizer | None] = (None, None),
        schedulers: Sequence[LRScheduler] = (),
        description: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        dataset = as_source(dataset, getattr(generator, "num_classes", 0))
        self.group = DistributedGroup.current()
        if isinstance(loss, str):
            settings["loss"], loss = loss, None
        if isinstance(augment, str):
            settings["augment"], augment = augment, None
        config = chosen_config(config, settings, dataset, self.group.size)
        self.device = take_device(config.device)
        # What a run is recorded with is what it computes in, wherever it goes on.
        precision = resolve_precision(config.precision, self.device)
        self.chose_precision = config.precision == "auto"
        self.config = config = replace(config, precision=precision)
        self.latent_dim = width_of_noise(generator, latent_dim)
        self.description = description or {}
        # They stand above the state, and are typed there: each is told of it as the run goes on.
        self.callbacks = list(callbacks)
        self.dataset = dataset
        self.step = 0
        self.whole = True
        """False while an update is being made: the state is then that of no step."""
        self.rollbacks = 0
        self.notes: list[str] = []
        """What a person is told as the run starts."""
        # Before they are used: what a part counts in a plain attribute is not what it is.
        self._parts = {
            "loss": describe(loss),
            "penalties": [describe(penalty) for penalty in penalties],
            "augment": describe(augment),
            "step": describe(step),
            "schedulers": [describe(scheduler) for scheduler in schedulers],
        }
        loss = loss or get_loss(
            config.loss, smooth_real=config.smooth_real, smooth_fake=config.smooth_fake
        )
        self.objective = objective = objective or GANObjective()
        check_choices(config, objective, generator, discriminator, dataset, self.group, self.device)
        one_update, step = step is None, step or objective.step(generator, dataset.shape[1:])
        self.loader = dataset.batches(
            self.group.share(config.batch_size, "batch_size"),
            seed=config.seed,
            device=self.device,
            flip=config.flip,
            rank=self.group.rank,
            world_size=self.group.size,
            **({"balance": config.balance} if config.balance else {}),
        )
        self.generator = self._place(generator)
        # A network that is not there is a module without parameters.
        self.discriminator = self._place(nn.Module() if discriminator is None else discriminator)
        if config.freeze_d:
            freeze_first(self.discriminator, config.freeze_d)
        penalties = [*_named_penalties(config), *penalties]
        if augment is None and config.augment != "none":
            augment = get_augmentation(config.augment)
        for part in (augment, step, *penalties):
            if isinstance(part, nn.Module):
                part.to(self.device)
        self.ema = Ema(self.generator, config.ema_decay) if config.ema_decay else None
        weights = class_weights_of(config.class_weights, config.balance, generator, dataset)
        if weights is not None:
            check_class_outputs(self.discriminator, *self.some_images(2))
        self._given = check_given(config, optimizers, (self.generator, self.discriminator))
        self.schedulers = Schedulers(schedulers, optimizers)
        self._parts["rates"] = [rates_of(optimizer) for optimizer in optimizers]
        own_g, own_d = optimizers
        self.gan = GAN(
            self.generator,
            self.discriminator,
            self._update(self.generator, config.lr_g, own_g),
            self._update(self.discriminator, config.lr_d, own_d, bound=config.clip_weights),
            loss,
            penalties,
            augment,
            self.group,
            precision=precision,
            discriminator_steps=config.discriminator_steps,
            joint_batch=config.joint_batch,
            share_fakes=config.share_fakes,
            update_rule=getattr(objective, "update_rule", "alternating"),
            class_weight=config.class_weight,
            class_weights=weights,
            reconstruction_weight=getattr(objective, "reconstruction_weight", 0.0),
            accumulate=config.accumulate,
        )
        if one_update:  # of the generator, after which its average moves
            self.gan.update_g.ema = self.ema
        self.noise = self._random(_NOISE_STREAM)
        self.fixed_noise = torch.randn(
            config.sample_count,
            self.latent_dim,
            generator=self._random(_FIXED_NOISE_STREAM),
            device=self.device,
        )
        self.step_function = step
        optimizers_on_gpu = self.device.type == "cuda" and (self.optimizer_g, self.optimizer_d)
        capture, why_eager = capture_of(
            config, self.generator, self.discriminator, *(optimizers_on_gpu or ())
        )
        if why_eager and self.device.type == "cuda":
            self.notes.append(f"steps run eagerly: {why_eager}")
        self._fetched: tuple[int, Inputs, Hashable] | None = None
        self._runner = StepRunner(
            self._run_step,
            self.device,
            capture,
            [self.noise],
            settings=self._host_values,
            shared=self.group.size > 1,
        )
        self._keeper = Keeper(
            config.keep_activations,
            self.device,
            captures=self._runner.captures,
            fixed=config.deterministic,
        )
        if self.group.size > 1:
            self.reseed()

    def train_step(self) -> None:
        """Make one step. Its scalars are then in :attr:`latest`, on the device."""
        config = self.config
        rows, due = self.fetch()
        self._fetched = None
        factor = lr_factor(config.lr_schedule, self.step, config.steps, config.warmup_steps)
        rates = (self.gan.update_g, config.lr_g), (self.gan.update_d, config.lr_d)
        for (update, rate), given in zip(rates, self._given, strict=True):
            if not given:
                update.set_lr(rate * factor)
        if self.ema:
            self.ema.before(self.step + 1)
        self.whole = False
        self._runner(rows, due)
        self.schedulers.step()
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
    def ranks(self) -> DistributedGroup:
        """The old name of ``group``."""
        renamed("trainer.ranks", "trainer.group")
        return self.group

    @property
    def latest(self) -> Metrics:
        """The newest value of every scalar that steps give; reading one waits for the device."""
        return self._runner.latest

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of the averaged generator (the plain one where averaging is off), in eval mode."""
        model = self.ema.average if self.ema else self.generator
        parts = zip(*(r.split(_SAMPLED_AT_ONCE) for r in inputs_of(noise, labels)), strict=True)
        with modes_kept(model):
            model.eval()
            images = [model(*part) for part in parts]
        return images[0] if len(images) == 1 else torch.cat(images)

    def keep_precision(self, recorded: Mapping[str, Any]) -> None:
        """A run that goes on keeps the precision of its configuration, where none is asked for."""
        saved = recorded.get("precision")
        # The two differ by a switch of the libraries alone.
        if self.chose_precision and saved in ("float32", "tf32"):
            self.config = replace(self.config, precision=saved)
            self.gan.precision = saved

    def on_device(self) -> str:
        """In words: the GPU, and what it computes in."""
        name, precision = torch.cuda.get_device_name(self.device), self.gan.precision
        return f"on {name}, precision {precision}{' (auto)' if self.chose_precision else ''}"

    def restored(self) -> None:
        """Another state was loaded: captured steps belong to the one before."""
        self._runner.forget()
        self.whole = True

    def release(self) -> None:
        """Give up the captured steps: a process group that they talk in waits for them to go. And
        end what the data have opened.
        """
        self._runner.forget()
        if hasattr(self.loader, "close"):
            self.loader.close()

    def reseed(self) -> None:
        """Start torch's random streams anew: each rank's own, and others after each rollback."""
        entropy = [self.config.seed, self.rollbacks, self.group.rank]
        seed, noise = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
        torch.manual_seed(int(seed >> np.uint64(1)))
        if self.rollbacks:
            self.noise.manual_seed(self.group.from_first(lambda: int(noise >> np.uint64(1))))

    def facts(self) -> dict[str, Any]:
        """What the run is, for its folder and its checkpoints."""
        facts: dict[str, Any] = {"config": self.config.as_dict()}
        facts |= {"objective": asdict(self.objective), "data": self._data_facts}
        facts |= {"latent_dim": self.latent_dim, **self.description}
        if (weights := self.gan.class_weights) is not None:
            facts["class_weights"] = list(weights)
        return facts | {"parts": self._parts, "rollbacks": self.rollbacks}

    @property
    def optimizer_g(self) -> Optimizer:
        return self.gan.update_g.optimizer

    @property
    def optimizer_d(self) -> Optimizer:
        return self.gan.update_d.optimizer

    @property
    def fixed_labels(self) -> Tensor | None:
        """The conditions of the sample grid."""
        return self.conditions(len(self.fixed_noise))

    @property
    def fixed_images(self) -> tuple[Tensor, Tensor | None]:
        """As many images of the data as the sample grid has, and their other halves, if any."""
        return self.some_images(len(self.fixed_noise))

    def conditions(self, count: int) -> Tensor | None:
        """Of ``count`` samples: all classes in turn, some of the data's, or made of its images."""
        if isinstance(self.step_function, TranslationStep):
            return self.step_function.fixed(*self.some_images(count), self.config.seed)
        if not self.config.conditional:
            return None
        labels = self.dataset.labels
        assert labels is not None
        if labels.dtype != torch.int64 or labels.dim() > 1:
            return self._fixed_conditions(labels, count)
        classes = getattr(self.generator, "num_classes", 0) or int(labels.max()) + 1
        return torch.arange(count, device=self.device) % classes

    def some_images(self, count: int) -> tuple[Tensor, Tensor | None]:
        """``count`` images of the data, and their conditions, if any."""
        images, labels = normalised(self.dataset.some(count), self.dataset.value_range), None
        rows = torch.arange(count) % len(images)
        if self.config.conditional and self.dataset.labels is not None:
            labels = self._fixed_conditions(self.dataset.labels, count)
        return images[rows].to(self.device), labels

    def _fixed_conditions(self, labels: Tensor, count: int) -> Tensor | None:
        chosen = torch.tensor(spread(len(labels), count))
        chosen = chosen[torch.arange(count) % len(chosen)]
        return conditions_of(gathered(labels.cpu(), chosen).to(self.device), None)

    def _host_values(self) -> list[Any]:
        return [*self.gan.host_values(), *host_values(self.step_function)]

    def _run_step(self, inputs: Inputs, due: Hashable) -> Metrics:
        """The whole step as a function of tensors: from the rows of the data to the average."""

        def batches(i: int) -> Batch:
            if i >= len(inputs):
                return replace(made[-1], noise=self._draw_noise())
            images, labels = self.loader.gather(*inputs[i])
            noise = self._draw_noise()
            made.append(Batch(images, labels if self.config.conditional else None, noise))
            return made[-1]

        made: list[Batch] = []
        step = partial(self.step_function, self.gan, batches, due)  # type: ignore[arg-type]
        with batches_counted_together():
            metrics = self._keeper(step)
        if self.ema:
            self.ema.update()
        return metrics

    def _draw_noise(self) -> Tensor:
        # Drawn for all ranks by each of them, so that their noise does not depend on their number.
        shape = self.config.batch_size, self.latent_dim
        return self.group.part(torch.randn(*shape, generator=self.noise, device=self.device))

    def _place(self, module: nn.Module) -> nn.Module:
        self.group.align(module.to(self.device))
        if self.config.sync_batchnorm and self.group.size > 1:
            convert_sync_batchnorm(module)
        return module._apply(channels_last_of).train()

    def _update(
        self, module: nn.Module, lr: float, own: Optimizer | None, bound: float = 0.0
    ) -> Update:
        config = self.config
        betas = config.beta1, config.beta2
        named = config.optimizer, module.parameters(), lr, betas, config.weight_decay
        return Update(
            module,
            lr,
            betas,
            optimizer=named_optimizer(*named) if own is None else own,
            loss_scale=LossScale(self.device) if config.precision == "float16" else None,
            clip=config.clip_grad,
            bound=bound,
            group=self.group,
            device=self.device,
        )

    @cached_property
    def _data_facts(self) -> dict[str, Any]:
        return data_facts(self.generator, self.dataset)  # hashes all data, which takes seconds

    def _random(self, stream: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.config.seed * 4 + stream)


def channels_last_of(tensor: Tensor) -> Tensor:
    """A parameter in the memory that layers of its kind run fastest in."""
    kind = CHANNELS_LAST.get(tensor.dim())
    return tensor if kind is None else tensor.contiguous(memory_format=kind)


def _named_penalties(config: TrainConfig) -> list[Penalty]:
    if config.regularizer == "none":
        return []
    some = {} if config.reg_fraction == 1 else {"fraction": config.reg_fraction}
    return [get_regularizer(config.regularizer, config.reg_weight, config.reg_every, **some)]
