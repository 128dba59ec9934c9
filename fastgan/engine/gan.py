"""Two networks with the choices of their training step, and the batch that it works on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import InitVar, dataclass, field
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
from fastgan.engine.update import Update
from fastgan.losses import GANLoss
from fastgan.nn import segments
from fastgan.nn.spectral import SpectralNorms
from fastgan.system import renamed

Metrics = dict[str, Tensor]
UpdateRule = Literal["alternating", "simultaneous", "one_stage"]


class Penalty(Protocol):
    """A regulariser of the discriminator, added to its loss on every ``every``-th update.

    One whose attribute ``takes`` is "logits" also has ``penalty(real_logits, fake_logits)``, which
    needs no pass of its own; one that takes "augmented" is given images and a discriminator as they
    are behind the augmentation, in float32.
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
    class_weights: tuple[float, ...] | None = None
    """What an image of each class weighs in it; None weighs all alike."""
    reconstruction_weight: float = 0.0
    """What the discriminator's reconstruction of real images adds to its loss, so many times; its
    `forward_with_reconstruction` gives it with their logits."""
    accumulate: int = 1
    """A batch is worked through in so many parts, whose gradients are averaged. Exact up to
    rounding for losses that are means over images and networks that treat images apart; batch norm
    takes its statistics over a part. The generator's pass is made again for its own update."""
    ranks: InitVar[DistributedGroup | None] = None  # what `group` was called in the last release

    _rounding: Rounding = field(init=False, repr=False)
    _spectral: SpectralNorms = field(init=False, repr=False, default_factory=SpectralNorms)
    # On the device, by their values: made in a step that is not captured, read by those that are.
    _weights: dict[tuple[float, ...], Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self, ranks: DistributedGroup | None) -> None:
        if ranks is not None:
            renamed("the argument ranks of GAN", "group", stacklevel=4)
            self.group = ranks
        self._rounding = Rounding(bytes_at_once(self.group))

    def autocast(self, *both: nn.Module) -> AbstractContextManager[None]:
        """The context of a forward pass (see `precision.autocast`), where ``both`` are to run."""
        return self._casting(both) if self.precision in LOWER else nullcontext()

    @contextmanager
    def _casting(self, both: Sequence[nn.Module]) -> Iterator[None]:
        device, lower = self.update_g.device, self._lower
        with self._rounding.region(lower, both), autocast(device, self.precision):
            yield

    def updates_alone(self) -> AbstractContextManager[None]:
        """Within, updates alone write weights: the discriminator's are rounded as it is updated."""
        again = self.update_rule == "alternating" or self.discriminator_steps > 1
        lower = self._lower if again else None
        if lower is None:
            return nullcontext()
        return self._rounding.step(self.update_d, self.discriminator, lower)

    @property
    def _lower(self) -> torch.dtype | None:
        return LOWER.get(self.precision) if self.update_g.device.type == "cuda" else None

    def running(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within, which is one forward pass, a network has its weights as that needs them: rounded
        for autocast, and on GPUs under spectral norm estimated, each for all layers together."""
        if self.update_g.device.type in self._spectral.devices:
            return self._estimating(network)
        return self._rounding.within(network)

    @contextmanager
    def _estimating(self, network: nn.Module) -> Iterator[None]:
        with self._spectral.within(network), self._rounding.within(network):
            yield

    def generate(self, batch: Batch) -> Tensor:
        with self.running(self.generator):
            return self.generator(*inputs_of(batch.noise, batch.labels))

    def discriminate(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The logits of ``images``, augmented if the run augments."""
        return self.outputs(images, labels).logits

    def outputs(self, images: Tensor, labels: Tensor | None) -> DiscriminatorOutput:
        """The output for ``images``, augmented if the run augments."""
        return self._output_of(self._outputs(self.augmented(images), labels), labels)

    def augmented(self, images: Tensor) -> Tensor:
        """``images`` as the discriminator is to see them."""
        return images if self.augment is None else self.augment(images)

    def logits_of(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The logits of ``images`` as they are."""
        return self._output_of(self._outputs(images, labels), labels).logits

    def outputs_of_both(
        self, batch: Batch, fakes: Tensor
    ) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
        """The outputs for the batch's real images and for ``fakes``."""
        labels = batch.labels
        if self.reconstruction_weight:
            return self._rebuilt(batch.images), self.outputs(fakes, labels)
        if not self.joint_batch:
            return self.outputs(batch.images, labels), self.outputs(fakes, labels)
        both = [batch.images, fakes]
        both = [self.augmented(images) for images in both]
        twice = None if labels is None else torch.cat([labels, labels])
        with segments(self.discriminator, 2):
            outputs = self._outputs(torch.cat(both), twice)
        real, fake = zip(*map(halves, outputs), strict=True)
        return self._output_of(real, labels), self._output_of(fake, labels)

    def _rebuilt(self, images: Tensor) -> DiscriminatorOutput:
        discriminator: Any = self.discriminator
        seen = self.augmented(images)
        with self.running(discriminator):
            logits, loss = discriminator.forward_with_reconstruction(seen)
        return DiscriminatorOutput(logits, reconstruction_loss=loss)

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

    def _output_of(self, outputs: tuple[Tensor, ...], labels: Tensor | None) -> DiscriminatorOutput:
        values = self.class_weights
        if values is not None and values not in self._weights:
            self._weights = {values: torch.tensor(values, device=self.update_d.device)}
        return output_of(outputs, labels, None if values is None else self._weights[values])

    @property
    def _relativistic(self) -> bool:
        return bool(getattr(self.loss, "relativistic", False))

    def _outputs(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """The logits, and the class logits where the discriminator has them."""
        given = (images,) if labels is None else (images, labels)
        with self.running(self.discriminator):
            out = self.discriminator(*given)
        return (out,) if isinstance(out, Tensor) else out
