"""One GAN step as plain functions of tensors.

The step reads from top to bottom: :func:`gan_step`, then its phases. Nothing in it waits for the
device or draws on the host's state, so it can be captured in a CUDA graph as it stands. A step of
your own may use the phases or replace them: ``Trainer(..., step=my_step)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from fastgan.augment import Augmentation
from fastgan.engine.capture import host_values
from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.latents import inputs_of
from fastgan.engine.optimizers import settings_of
from fastgan.engine.outputs import DiscriminatorOutput, halves, output_of
from fastgan.engine.precision import LOWER, Precision, Rounding, autocast
from fastgan.engine.reduction import bytes_at_once
from fastgan.engine.update import Update, frozen
from fastgan.losses import GANLoss
from fastgan.nn import batches_counted_together, segments
from fastgan.ops import packed_weights
from fastgan.system import renamed

Metrics = dict[str, Tensor]
UpdateRule = Literal["alternating", "simultaneous", "one_stage"]


class Penalty(Protocol):
    """A regulariser of the discriminator, added to its loss on every ``every``-th update.

    One whose attribute ``takes`` is "logits" also has ``penalty(real_logits, fake_logits)``, which
    needs no pass of its own.
    """

    weight: float
    every: int

    def __call__(
        self, discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
    ) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """What one discriminator update works on.

    Attributes:
        images: float [N, C, H, W] in [-1, 1], or [N, C, L], [N, C, D, H, W].
        labels: int64 [N], or other conditions [N, ...], or None.
        noise: [N, latent_dim]; [N, 0] for a generator that takes conditions alone.
    """

    images: Tensor
    labels: Tensor | None
    noise: Tensor

    def split(self, parts: int) -> list[Batch]:
        """``parts`` batches of N / parts."""
        if parts == 1:
            return [self]
        labels = [None] * parts if self.labels is None else self.labels.chunk(parts)
        both = zip(self.images.chunk(parts), labels, self.noise.chunk(parts), strict=True)
        return [Batch(*part) for part in both]


@dataclass
class GAN:
    """Two networks, how each is updated, and the choices of the step.

    A discriminator with class outputs returns (logits, class logits [N, classes]): the class loss
    of real images and of fakes is then added to its loss, and that of the fakes to the generator's
    (AC-GAN, Odena, Olah, Shlens 2017).
    """

    generator: nn.Module
    discriminator: nn.Module
    update_g: Update
    update_d: Update
    loss: GANLoss
    penalties: Sequence[Penalty] = ()
    augment: nn.Module | None = None
    group: DistributedGroup = field(default_factory=DistributedGroup)
    precision: Precision = "float32"
    discriminator_steps: int = 1
    """Discriminator updates a step."""
    joint_batch: bool = False
    """One discriminator pass over [real; fake] instead of two. Exact, running statistics included,
    for BatchNormAct layers and for layers that treat images apart; dropout draws other masks, and
    spectral norm's power iteration runs once instead of twice."""
    share_fakes: bool = True
    """The last discriminator update and the generator's use the same fakes, so one generator pass
    (as in the DCGAN algorithm). Exact: the generator does not change in between. Off: the
    generator's update draws its own, as in Goodfellow et al. 2014."""
    update_rule: UpdateRule = "alternating"
    """alternating: the generator's update sees the updated discriminator. simultaneous: both
    gradients are taken at the same weights, and the discriminator's pass over the fakes serves
    both; another algorithm, computed exactly. one_stage: simultaneous, and the generator's gradient
    is read off the discriminator's backward pass; exact up to rounding where the discriminator
    treats images apart (no batch norm)."""
    class_weight: float = 1.0
    """What the class loss is multiplied by."""
    accumulate: int = 1
    """A batch is worked through in so many parts, whose gradients are averaged. Exact up to
    rounding for losses that are means over images and networks that treat images apart; batch norm
    takes its statistics over a part. The generator's pass is made again for its own update."""
    ranks: InitVar[DistributedGroup | None] = None  # what `group` was called in the last release

    _rounding: Rounding = field(init=False, repr=False)

    def __post_init__(self, ranks: DistributedGroup | None) -> None:
        if ranks is not None:
            renamed("the argument ranks of GAN", "group", stacklevel=4)
            self.group = ranks
        self._rounding = Rounding(bytes_at_once(self.group))

    @contextmanager
    def autocast(self, *both: nn.Module) -> Iterator[None]:
        """The context of a forward pass (see `precision.autocast`), where ``both`` are to run."""
        device, lower = self.update_g.device, self._lower
        with self._rounding.region(lower, both), autocast(device, self.precision):
            yield

    def updates_alone(self) -> AbstractContextManager[None]:
        """Within, updates alone write weights: the discriminator's are rounded as it is updated."""
        again = self.update_rule == "alternating" or self.discriminator_steps > 1
        lower = self._lower if again else None
        return self._rounding.step(self.update_d, self.discriminator, lower)

    @property
    def _lower(self) -> torch.dtype | None:
        return LOWER.get(self.precision) if self.update_g.device.type == "cuda" else None

    def generate(self, batch: Batch) -> Tensor:
        with self._rounding.within(self.generator):
            return self.generator(*inputs_of(batch.noise, batch.labels))

    def discriminate(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The logits of ``images``, augmented if the run augments."""
        return self.outputs(images, labels).logits

    def outputs(self, images: Tensor, labels: Tensor | None) -> DiscriminatorOutput:
        """The output for ``images``, augmented if the run augments."""
        images = images if self.augment is None else self.augment(images)
        return output_of(self._outputs(images, labels), labels)

    def outputs_of_both(
        self, batch: Batch, fakes: Tensor
    ) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
        """The outputs for the batch's real images and for ``fakes``."""
        labels = batch.labels
        if not self.joint_batch:
            return self.outputs(batch.images, labels), self.outputs(fakes, labels)
        both = [batch.images, fakes]
        both = both if self.augment is None else [self.augment(images) for images in both]
        twice = None if labels is None else torch.cat([labels, labels])
        with segments(self.discriminator, 2):
            outputs = self._outputs(torch.cat(both), twice)
        real, fake = zip(*map(halves, outputs), strict=True)
        return output_of(real, labels), output_of(fake, labels)

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        if self._relativistic:
            real_logits = self.group.gather(real_logits)
            fake_logits = self.group.gather(fake_logits)
        return self.loss.discriminator(real_logits, fake_logits)

    def loss_and_metrics(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Metrics]:
        """The discriminator's loss, and what is to be noted of it."""
        together = getattr(self.loss.discriminator, "with_means", None)
        if together is None or self._relativistic:
            loss = self.discriminator_loss(real_logits, fake_logits)
            means = [t.detach().mean(dtype=torch.float32) for t in (real_logits, fake_logits)]
        else:
            loss, *means = together(real_logits, fake_logits)
        return loss, {"loss_d": loss.detach(), "real_logit": means[0], "fake_logit": means[1]}

    def generator_loss(self, fake_logits: Tensor, real_logits: Callable[[], Tensor]) -> Tensor:
        """``real_logits`` is only asked for by a relativistic loss, which compares the two."""
        if not self._relativistic:
            return self.loss.generator(fake_logits)
        fake_logits, reals = self.group.gather(fake_logits), self.group.gather(real_logits())
        return self.loss.generator(fake_logits, reals)

    def observe(self, real_logits: list[Tensor]) -> None:
        """Show the augmentation what an update of the discriminator made of the real images."""
        if isinstance(self.augment, Augmentation):
            self.augment.update(torch.cat(real_logits))

    def host_values(self) -> list[Any]:
        """The settings that a captured step has read as plain numbers, such as weights of losses.

        They may be changed between steps; those of the networks' layers are not looked at.
        """
        updates = self.update_g, self.update_d
        augment = self.augment.modules() if self.augment else ()
        found: list[Any] = list(host_values(self, *updates, *self.penalties, *augment))
        return found + [settings_of(update.optimizer) for update in updates]

    @property
    def _relativistic(self) -> bool:
        return bool(getattr(self.loss, "relativistic", False))

    def _outputs(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """The logits, and the class logits where the discriminator has them."""
        given = (images,) if labels is None else (images, labels)
        with self._rounding.within(self.discriminator):
            out = self.discriminator(*given)
        return (out,) if isinstance(out, Tensor) else out


Step = Callable[[GAN, Callable[[int], Batch], Sequence[Sequence[bool]]], Metrics]
GeneratorPhase = Callable[[GAN, Batch, Tensor | None], Metrics]


@packed_weights()
@batches_counted_together()
def gan_step(
    gan: GAN,
    batches: Callable[[int], Batch],
    due: Sequence[Sequence[bool]] = (),
    update_generator: GeneratorPhase | None = None,
) -> Metrics:
    """``gan.discriminator_steps`` discriminator updates and one generator update.

    Args:
        batches: ``batches(i)`` gives the batch of the i-th discriminator update, and then, with
            ``share_fakes`` off, one more whose noise is the generator's.
        due: ``due[i][j]``: whether the i-th discriminator update applies the j-th penalty; by
            default it applies all.
        update_generator: in place of `generator_phase`, for a generator with further losses.

    Returns:
        Scalars that are left on the device: reading one waits for the step to end.
    """
    metrics: Metrics = {}
    with gan.updates_alone():
        for i in range(gan.discriminator_steps):
            last = i == gan.discriminator_steps - 1
            batch = batches(i)
            penalties = [p for j, p in enumerate(gan.penalties) if not due or due[i][j]]
            if last and gan.update_rule != "alternating":
                return metrics | simultaneous_phase(gan, batch, penalties)
            keep = last and gan.share_fakes and gan.accumulate == 1
            fakes, found = discriminator_phase(gan, batch, penalties, keep_graph=keep)
            metrics |= found
        if not gan.share_fakes:
            batch = batches(gan.discriminator_steps)
        return metrics | (update_generator or generator_phase)(gan, batch, fakes if keep else None)


def discriminator_phase(
    gan: GAN, batch: Batch, penalties: Sequence[Penalty] = (), *, keep_graph: bool = False
) -> tuple[Tensor, Metrics]:
    """One update of the discriminator; returns its fakes, with their graph if asked for."""
    on_logits = [p for p in penalties if getattr(p, "takes", "images") == "logits"]
    on_images = [p for p in penalties if p not in on_logits]
    gan.update_d.start(gan.accumulate * (1 + len(on_images)))
    metrics, seen = [], []
    for part in batch.split(gan.accumulate):
        with gan.autocast(gan.generator, gan.discriminator):
            with torch.set_grad_enabled(keep_graph):
                fakes = gan.generate(part)
            real, fake = gan.outputs_of_both(part, fakes.detach())
            real_logits, fake_logits = real.logits, fake.logits
            loss, found = gan.loss_and_metrics(real_logits, fake_logits)
            loss = _with_classes(gan, loss, found, real, fake)
            for penalty in on_logits:
                value = penalty.penalty(real_logits, fake_logits)  # type: ignore[attr-defined]
                loss = loss + value * (penalty.weight * penalty.every)
                found[_penalty_name(penalty)] = value.detach()
        gan.update_d.backward(_part(gan, loss))
        metrics.append(found | penalty_phase(gan, part, fakes.detach(), on_images))
        seen.append(real_logits.detach())
    gan.update_d.finish()
    gan.observe(seen)
    return fakes, mean_metrics(metrics)


def penalty_phase(gan: GAN, batch: Batch, fakes: Tensor, penalties: Sequence[Penalty]) -> Metrics:
    """Adds the gradients of the penalties that are due to the discriminator's.

    A penalty that is applied on every k-th update weighs k times as much, so that its mean is that
    of one applied always (lazy regularisation, Karras et al. 2020). With float16 it is computed in
    float32: the gradients inside it have no loss scale.
    """
    metrics = {}
    for penalty in penalties:
        with nullcontext() if gan.precision == "float16" else gan.autocast():
            value = penalty(
                lambda images: gan.discriminate(images, batch.labels),
                batch.images,
                fakes.to(batch.images.dtype),
            )
        gan.update_d.backward(value * (penalty.weight * penalty.every / gan.accumulate))
        metrics[_penalty_name(penalty)] = value.detach()
    return metrics


def generator_phase(gan: GAN, batch: Batch, fakes: Tensor | None = None) -> Metrics:
    """One update of the generator through ``fakes``, or through fakes of ``batch`` if None.

    The discriminator's weight gradients are not computed.
    """
    gan.update_g.start(gan.accumulate)
    metrics = []
    with frozen(gan.discriminator):
        for part in batch.split(gan.accumulate):
            with gan.autocast():
                images = gan.generate(part) if fakes is None else fakes
                output = gan.outputs(images, part.labels)
                real_logits = partial(gan.discriminate, part.images, part.labels)
                loss = gan.generator_loss(output.logits, real_logits)
                total = _with_classes(gan, loss, {}, output)
            gan.update_g.backward(_part(gan, total))
            metrics.append({"loss_g": loss.detach()})
    gan.update_g.finish()
    return mean_metrics(metrics)


def simultaneous_phase(gan: GAN, batch: Batch, penalties: Sequence[Penalty] = ()) -> Metrics:
    """Both networks' updates from gradients at the same weights, with one pass through each.

    one_stage (Shen et al. 2021): where each image has its own logit f, ∂L_G/∂x is ∂L_D/∂x times
    L_G'(f) / L_D'(f), so the discriminator's backward pass gives the generator's gradient too.
    """
    gan.update_d.start(gan.accumulate * (1 + len(penalties)))
    gan.update_g.start(gan.accumulate)
    metrics, reals = [], []
    for part in batch.split(gan.accumulate):
        with gan.autocast(gan.generator, gan.discriminator):
            fakes = gan.generate(part)
            seen = fakes.detach().requires_grad_()
            real, fake = gan.outputs_of_both(part, seen)
            real_logits, fake_logits = real.logits, fake.logits
            loss_d, found = gan.loss_and_metrics(real_logits, fake_logits)
            loss_g = gan.generator_loss(fake_logits, real_logits.detach)
            found["loss_g"] = loss_g.detach()
            total_d = _with_classes(gan, loss_d, found, real, fake)
            total_g = _with_classes(gan, loss_g, {}, fake)
        if gan.update_rule == "one_stage":
            if fake.class_loss is not None:
                raise ValueError("update_rule one_stage has no place for class outputs")
            gan.update_d.backward(_part(gan, total_d))
            assert seen.grad is not None
            ratio = _one_stage_ratio(gan, real_logits, fake_logits)
            slope = (seen.grad * ratio.view(-1, *[1] * (seen.dim() - 1))).to(fakes.dtype)
        else:
            scaled = gan.update_g.scaled(_part(gan, total_g))
            (slope,) = torch.autograd.grad(scaled, seen, retain_graph=True)
            gan.update_d.backward(_part(gan, total_d), own_only=True)
        extra = penalty_phase(gan, part, fakes.detach(), penalties)
        gan.update_g.begin_pass()
        fakes.backward(slope)
        metrics.append(found | extra)
        reals.append(real_logits.detach())
    gan.update_d.finish()
    gan.update_g.finish()
    gan.observe(reals)
    return mean_metrics(metrics)


def _one_stage_ratio(gan: GAN, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """L_G'(f) / L_D'(f) for each image, and the ratio of the two networks' loss scales."""
    if fake_logits.dim() > 1 and fake_logits[0].numel() != 1:
        raise ValueError(
            "update_rule one_stage needs one logit an image, got logits of shape "
            f"{list(fake_logits.shape)}"
        )
    f = fake_logits.detach().float().flatten().requires_grad_()
    real_logits = real_logits.detach().float().flatten()
    with torch.enable_grad():
        (down,) = torch.autograd.grad(gan.loss.discriminator(real_logits, f), f)
        (up,) = torch.autograd.grad(gan.loss.generator(f), f)
    return up / down * (gan.update_g.scale / gan.update_d.scale)


def _with_classes(gan: GAN, loss: Tensor, found: Metrics, *outputs: DiscriminatorOutput) -> Tensor:
    """The loss and the weighted class loss of the outputs, if they have one, noted in ``found``."""
    losses = [v.class_loss for v in outputs if v.class_loss is not None]
    if not losses:
        return loss
    total = torch.stack(losses).sum()
    found["loss_class"] = total.detach()
    return loss + total * gan.class_weight


def _part(gan: GAN, loss: Tensor) -> Tensor:
    """What a part of the batch adds to the loss."""
    return loss if gan.accumulate == 1 else loss / gan.accumulate


def mean_metrics(parts: list[Metrics]) -> Metrics:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def _penalty_name(penalty: Penalty) -> str:
    return str(getattr(penalty, "name", type(penalty).__name__.lower()))
