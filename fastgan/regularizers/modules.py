"""Penalties as modules that carry their weight and schedule; see the package's text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_int, check_share
from fastgan.nn.processes import mean_over_processes
from fastgan.regularizers.penalties import (
    Discriminator,
    dragan,
    finite_difference,
    float_images,
    logits_of,
    r1,
    r2,
    wgan_gp,
    widened,
)


class Regularizer(nn.Module):
    """A penalty with its weight and its schedule; see the module's text for its use.

    Args:
        name: of the penalty.
        weight: λ or γ, which multiplies the penalty; at least 0.
        every: discriminator updates from one evaluation to the next; at least 1.

    They are attributes, too. `scale` is weight · every, the factor of a penalty that was evaluated.
    `takes` is "images"; "augmented" for images as the discriminator is to see them, and it without
    augmentation; or "logits" where `penalty(real_logits, fake_logits)` spares passes through it.
    """

    takes: Literal["images", "augmented", "logits"] = "images"

    def __init__(self, name: str, weight: float, every: int = 1) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number of at least 0, got {weight!r}")
        self.name = name
        self.weight = float(weight)
        self.every = check_int("every", every, 1)

    @property
    def scale(self) -> float:
        return self.weight * self.every

    def forward(
        self,
        discriminator: Discriminator,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None = None,
        fake_labels: Tensor | None = None,
    ) -> Tensor:
        """The unweighted penalty, a scalar. Without `fake_labels` the fakes have `labels` too."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def extra_repr(self) -> str:
        return f"{self.name}, weight={self.weight}, every={self.every}"


class GradientPenalty(Regularizer):
    """r1, r2, r1_r2, wgan_gp, dragan or one of the finite, by name.

    Args:
        fraction: the penalty is taken over so much of the batch, its first images (at least one);
            in (0, 1]. Its mean is the same, and its cost so much of the whole.
        options: `one_sided` of wgan_gp and dragan, `noise` of dragan, `step` of the finite;
            TypeError for others.
    """

    def __init__(
        self,
        name: str,
        weight: float = 10.0,
        every: int = 1,
        fraction: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(name, weight, every)
        self.fraction = check_share("fraction", fraction, "(0, 1]")
        if name not in GRADIENT_PENALTIES:
            raise ValueError(f"unknown penalty {name!r}; there are {', '.join(GRADIENT_PENALTIES)}")
        self._function, known = GRADIENT_PENALTIES[name]
        if unknown := options.keys() - known:
            raise TypeError(
                f"{name} has no option {sorted(unknown)[0]!r}; it has {', '.join(known) or 'none'}"
            )
        self.options = options
        if name.endswith("finite"):
            self.takes = "augmented"

    def forward(
        self,
        discriminator: Discriminator,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None = None,
        fake_labels: Tensor | None = None,
    ) -> Tensor:
        fake_labels = labels if fake_labels is None else fake_labels
        some = (
            x if x is None else x[: max(1, round(self.fraction * len(x)))]
            for x in (real, fake, labels, fake_labels)
        )
        return self._function(discriminator, *some, **self.options)


# A function of (discriminator, real, fake, labels, fake_labels), and its options.
GRADIENT_PENALTIES: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "r1": (lambda d, real, fake, labels, _: r1(d, real, labels), ()),
    "r2": (lambda d, real, fake, _, labels: r2(d, fake, labels), ()),
    "r1_r2": (
        lambda d, real, fake, labels, fake_labels: r1(d, real, labels) + r2(d, fake, fake_labels),
        (),
    ),
    "wgan_gp": (
        lambda d, real, fake, labels, _, **options: wgan_gp(d, real, fake, labels, **options),
        ("one_sided",),
    ),
    "dragan": (
        lambda d, real, fake, labels, _, **options: dragan(d, real, labels, **options),
        ("noise", "one_sided"),
    ),
    "r1_finite": (
        lambda d, real, fake, labels, _, **step: finite_difference(d, real, labels, **step),
        ("step",),
    ),
    "r2_finite": (
        lambda d, real, fake, _, labels, **step: finite_difference(d, fake, labels, **step),
        ("step",),
    ),
    "r1_r2_finite": (
        lambda d, real, fake, labels, fake_labels, **step: (
            finite_difference(d, real, labels, **step)
            + finite_difference(d, fake, fake_labels, **step)
        ),
        ("step",),
    ),
}


class LeCam(Regularizer):
    """E (D(real) - a_fake)² + E (D(fake) - a_real)², a_* moving averages of the mean logits.

    Averages are updated by each evaluation in training mode, before they are used, on the device
    and over all processes; they are free of the initial value (as Adam's are) and get no gradient.

    Args:
        weight: λ; the paper takes 0.3 with BigGAN's hinge loss.
        every: as in Regularizer; averages then see only the evaluated batches.
        decay: of the averages, in [0, 1); the paper takes 0.99.
        one_sided: penalise only real logits above a_fake and fake ones below a_real, as the
            authors' code does.

    Buffers: `anchors` [2], a_real and a_fake; `updates` [], how many they average.
    Source: Tseng et al. 2021, "Regularizing GANs under Limited Data", eq. 4.
    """

    takes = "logits"
    anchors: Tensor
    updates: Tensor

    def __init__(
        self,
        weight: float = 0.3,
        every: int = 1,
        *,
        decay: float = 0.99,
        one_sided: bool = False,
    ) -> None:
        super().__init__("lecam", weight, every)
        self.decay = check_share("decay", decay)
        self.one_sided = one_sided
        self.register_buffer("anchors", torch.zeros(2))
        self.register_buffer("updates", torch.zeros(()))

    def penalty(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The penalty of logits that are at hand, a scalar."""
        real, fake = widened(real_logits), widened(fake_logits)
        if self.training:
            self._update(real, fake)
        a_real, a_fake = self.anchors.clone().unbind()
        above, below = real - a_fake, a_real - fake
        if self.one_sided:
            above, below = F.relu(above), F.relu(below)
        return above.square().mean() + below.square().mean()

    def forward(
        self,
        discriminator: Discriminator,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None = None,
        fake_labels: Tensor | None = None,
    ) -> Tensor:
        """As `penalty`, with passes of its own over both batches."""
        fake_labels = labels if fake_labels is None else fake_labels
        real, fake = float_images("real", real), float_images("fake", fake)
        return self.penalty(
            logits_of(discriminator, real, labels), logits_of(discriminator, fake, fake_labels)
        )

    @torch.no_grad()
    def _update(self, real: Tensor, fake: Tensor) -> None:
        means = mean_over_processes(torch.stack([real.mean(), fake.mean()]))
        # A batch that is not finite would stay in the averages for good.
        finite = means.isfinite().all()
        self.updates.add_(finite)
        # 1 at the first update: a weighted mean of what was seen, without the initial zeros.
        weight = (1 - self.decay) / (1 - self.decay ** self.updates.clamp_min(1))
        moved = self.anchors.lerp(means.to(self.anchors.dtype), weight)
        self.anchors.copy_(torch.where(finite, moved, self.anchors))
