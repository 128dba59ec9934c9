"""Regularisers of the discriminator: gradient penalties, LeCam, weight clipping.

The functions take a discriminator, real and generated images, and return a scalar that can be
differentiated with respect to the discriminator's parameters. A conditional discriminator is called
as `discriminator(images, labels)`. With d = ∇ D at an image, and |.| the norm over its pixels:

| name    | penalty                                       | source, usual weight          |
|---------|-----------------------------------------------|-------------------------------|
| r1      | ½ E |d(real)|²                                | Mescheder et al. 2018, γ = 10 |
| r2      | ½ E |d(fake)|²                                | Mescheder et al. 2018, γ = 10 |
| r1_r2   | r1 + r2, zero-centred on both sides           | Huang et al. 2024, γ = 10     |
| wgan_gp | E (|d(u real + (1 - u) fake)| - 1)²           | Gulrajani et al. 2017, λ = 10 |
| dragan  | E (|d(real + noise)| - 1)²                    | Kodali et al. 2017, λ = 10    |
| r1_finite, r2_finite, r1_r2_finite | the same without second order, below | as theirs |
| lecam   | E (D(real) - a_fake)² + E (D(fake) - a_real)² | Tseng et al. 2021, λ = 0.3    |

The finite ones are ½ E ((D(x + ε z) - D(x)) / ε)² with z normal for each pixel: in the mean over
z that is ½ E |d(x)|² but for terms of ε² ("approximated R1" of Lin et al. 2025, "Diffusion
Adversarial Post-Training"). Two forward passes and a backward one take the place of a backward
pass through a backward pass.

Logits may have any shape; those of one image are summed before the gradient is taken. Batch norm
couples the images of a batch, so that d is the gradient of the batch's summed logits with respect
to an image; Gulrajani et al. advise critics without it. The penalties run through the fused layers
at any rate.

Everything stays on the device and draws from its default random numbers, so a step with a penalty
can be captured as a CUDA graph. Gradients of half-precision images are squared in float32; under
float16 autocast they may underflow before, so call these outside it (bfloat16 is fine).

`get_regularizer(name)` gives them as modules that carry their weight and schedule. How an engine
uses one, at every discriminator update whose number is divisible by `every`:

    if regularizer.takes == "logits":
        penalty = regularizer.penalty(real_logits, fake_logits)  # no further pass
    else:
        penalty = regularizer(discriminator, real, fake)
    loss = loss + regularizer.scale * penalty

`scale` is weight · every: lazy regularisation keeps the mean strength (Karras et al. 2020,
StyleGAN2, appendix B). A checkpoint holds the module's state_dict, which is empty but for LeCam's
anchors. After an update, `clip_weights_` is the constraint of Arjovsky et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_int, unknown
from fastgan.nn.processes import mean_over_processes

Discriminator = Callable[..., Tensor]
"""Images `[N, C, H, W]`, and labels where it is conditional, to logits of any shape."""


def _images(name: str, images: Tensor) -> Tensor:
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {images.dtype}")
    if images.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {list(images.shape)}")
    return images.detach()


def _logits(discriminator: Discriminator, images: Tensor, labels: Tensor | None) -> Tensor:
    return discriminator(images) if labels is None else discriminator(images, labels)


def _gradient(discriminator: Discriminator, images: Tensor, labels: Tensor | None) -> Tensor:
    """∇ D at each of `images`, as a function of D's parameters; at least float32."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = _logits(discriminator, images, labels)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return _widened(gradient)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _squared(gradient: Tensor) -> Tensor:
    return 0.5 * gradient.square().sum() / gradient.shape[0]


def _distance_from_one(gradient: Tensor, one_sided: bool) -> Tensor:
    # vector_norm's gradient at zero is zero, where a square root's would be NaN.
    norm = torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.dim())))
    return (F.relu(norm - 1) if one_sided else norm - 1).square().mean()


def r1(discriminator: Discriminator, real: Tensor, labels: Tensor | None = None) -> Tensor:
    """½ E |∇D(real)|², a scalar. Its weight is the paper's γ (Mescheder et al. 2018, eq. 9)."""
    return _squared(_gradient(discriminator, _images("real", real), labels))


def r2(discriminator: Discriminator, fake: Tensor, labels: Tensor | None = None) -> Tensor:
    """½ E |∇D(fake)|², a scalar (Mescheder et al. 2018, eq. 10). `fake` gets no gradient."""
    return _squared(_gradient(discriminator, _images("fake", fake), labels))


def finite_difference(
    discriminator: Discriminator,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    step: float = 0.01,
) -> Tensor:
    """½ E ((D(x + ε z) - D(x)) / ε)² with normal z, a scalar: `r1` or `r2` of first order alone.

    Args:
        step: ε, in units of the images, which lie in [-1, 1].

    The discriminator must be the same function in both of its passes: augmentation that is random
    stands before it, and dropout is off. Call it in float32: of a difference of bfloat16 logits
    nothing is left. ValueError for a step that is not positive.
    """
    if not step > 0:
        raise ValueError(f"step must be positive, got {step!r}")
    images = _images("images", images)
    moved = _logits(discriminator, images + step * torch.randn_like(images), labels)
    slope = (_widened(moved) - _widened(_logits(discriminator, images, labels))) / step
    return _squared(slope.reshape(len(images), -1).sum(1))


def wgan_gp(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None = None,
    *,
    one_sided: bool = False,
) -> Tensor:
    """E (|∇D(x)| - 1)² at a random point x between each real image and a fake, a scalar.

    Args:
        one_sided: only norms above one are penalised.

    Where there are labels, real[i] and fake[i] must share labels[i]. ValueError for batches of
    different shapes.

    Source: Gulrajani et al. 2017, algorithm 1 and "two-sided penalty" in section 4.
    """
    real, fake = _images("real", real), _images("fake", fake)
    if real.shape != fake.shape:
        raise ValueError(
            "real and fake must have one shape to be mixed, got "
            f"{list(real.shape)} and {list(fake.shape)}"
        )
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype)
    return _distance_from_one(
        _gradient(discriminator, fake.lerp(real, share), labels), one_sided=one_sided
    )


def dragan(
    discriminator: Discriminator,
    real: Tensor,
    labels: Tensor | None = None,
    *,
    noise: float = 0.5,
    one_sided: bool = False,
) -> Tensor:
    """E (|∇D(real + δ)| - 1)² with normal δ, a scalar.

    Args:
        noise: δ's standard deviation, in standard deviations of the batch's pixels; the paper
            leaves the scale open, and its authors' code takes half of that deviation.

    Source: Kodali et al. 2017, "On Convergence and Stability of GANs", section 2.3.
    """
    if not noise >= 0:
        raise ValueError(f"noise must be at least 0, got {noise!r}")
    real = _images("real", real)
    near = real + noise * real.std() * torch.randn_like(real)
    return _distance_from_one(_gradient(discriminator, near, labels), one_sided=one_sided)


@torch.no_grad()
def clip_weights_(module: nn.Module, bound: float = 0.01) -> None:
    """Clip every trainable parameter of `module` to [-bound, bound], in place.

    The constraint of Arjovsky et al. 2017, algorithm 1, to be applied after every update of the
    critic. ValueError for a bound that is not positive.
    """
    if not bound > 0:
        raise ValueError(f"bound must be positive, got {bound!r}")
    parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    if parameters:
        torch._foreach_clamp_min_(parameters, -bound)
        torch._foreach_clamp_max_(parameters, bound)


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
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction!r}")
        self.fraction = fraction
        if name not in _GRADIENT_PENALTIES:
            raise ValueError(
                f"unknown penalty {name!r}; there are {', '.join(_GRADIENT_PENALTIES)}"
            )
        self._function, known = _GRADIENT_PENALTIES[name]
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
_GRADIENT_PENALTIES: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
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
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay!r}")
        self.decay = decay
        self.one_sided = one_sided
        self.register_buffer("anchors", torch.zeros(2))
        self.register_buffer("updates", torch.zeros(()))

    def penalty(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The penalty of logits that are at hand, a scalar."""
        real, fake = _widened(real_logits), _widened(fake_logits)
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
        real, fake = _images("real", real), _images("fake", fake)
        return self.penalty(
            _logits(discriminator, real, labels), _logits(discriminator, fake, fake_labels)
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


REGULARIZERS = (*_GRADIENT_PENALTIES, "lecam")


def get_regularizer(
    name: str, weight: float | None = None, every: int = 1, **options: Any
) -> Regularizer:
    """The regulariser called `name`.

    Args:
        weight: the usual one of the module's table, if not given.
        every: discriminator updates from one evaluation to the next.
        options: `one_sided` of wgan_gp, dragan and lecam, `noise` of dragan, `decay` of lecam,
            `step` of the finite, `fraction` of all but lecam.

    Raises:
        ValueError: there is no such regulariser (suggestions are given), or a bad value.
        TypeError: an option that the regulariser does not have.
    """
    if name not in REGULARIZERS:
        raise unknown("regularizer", name, REGULARIZERS)
    if weight is not None:
        options["weight"] = weight
    if name == "lecam":
        return LeCam(every=every, **options)
    return GradientPenalty(name, every=every, **options)
