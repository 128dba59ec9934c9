"""Adversarial losses: pairs of functions that take logits and return a scalar.

Logits may have any shape (one an image, or a patch map); a loss is the mean over all of them, in
float32 for half-precision logits and in the logits' own precision otherwise. All are
differentiable to any order, and none waits for the device or branches on a value.

| name                 | discriminator                     | generator                   |
|----------------------|-----------------------------------|-----------------------------|
| non_saturating       | E s(-r) + E s(f)                  | E s(-f)                     |
| saturating           | E s(-r) + E s(f)                  | -E s(f)                     |
| lsgan                | ½ E (r - 1)² + ½ E f²             | ½ E (f - 1)²                |
| hinge                | E max(0, 1 - r) + E max(0, 1 + f) | -E f                        |
| wasserstein          | E f - E r                         | -E f                        |
| relativistic_average | E s(E f - r) + E s(f - E r)       | E s(E r - f) + E s(r - E f) |
| relativistic_pairing | E s(f - r)                        | E s(r - f)                  |

with r the logits of real and f those of generated images, and s = softplus. Sources, with their
arXiv numbers: Goodfellow et al. 2014, 1406.2661 (non-saturating, saturating or minimax; softplus is
binary cross-entropy on logits), Mao et al. 2017, 1611.04076 (least squares, labels 0 and 1), Lim
and Ye 2017, 1705.02894 (hinge), Arjovsky et al. 2017, 1701.07875 (Wasserstein; the critic needs a
Lipschitz constraint besides), Jolicoeur-Martineau 2018, 1807.00734 (relativistic average), Huang
et al. 2024, 2501.05441 (R3GAN's relativistic pairing; it needs R1 and R2 besides to converge).

Label smoothing moves the discriminator's target of real images from 1 to 1 - smooth_real (Salimans
et al. 2016, 1606.03498, one-sided) and that of fakes from 0 to smooth_fake (two-sided). It is
defined where the loss has a target for each side: cross-entropy and least squares. Generator losses
keep theirs.

Of networks that encode: `reconstruction_loss` and `kl_divergence`, whose sum is minus the evidence
lower bound of a variational autoencoder (Kingma and Welling 2014).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.checks import check_choice, unknown
from fastgan.ops.mean_loss import mean_loss
from fastgan.ops.mean_loss.reference import (
    CROSS_ENTROPY,
    HINGE,
    LINEAR,
    SATURATING,
    SQUARE,
    Term,
    cross_entropy,
    softplus,
)


class GeneratorLoss(Protocol):
    """The generator's half of a loss."""

    def __call__(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """A scalar; see GANLoss."""


class GANLoss(NamedTuple):
    """A pair of losses: `discriminator(real_logits, fake_logits)` and `generator(fake_logits)`.

    Attributes:
        relativistic: the generator's loss compares with real images, so it must be called as
            `generator(fake_logits, real_logits)` (ValueError if they are missing). The real logits
            are those of the discriminator as it stands; no gradient of the generator comes from
            them, so they can be computed without a graph. Other losses take and ignore them.
        name: of a loss of this package, with its targets where they are not 1 and 0.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: GeneratorLoss
    relativistic: bool = False
    name: str = ""

    def settings(self) -> dict[str, object]:
        """What tells this loss from others, so that a resume with another one is found."""
        halves = {"discriminator": self.discriminator, "generator": self.generator}
        others = {k: f for k, f in halves.items() if getattr(f, "__module__", None) != __name__}
        return {"name": self.name, **others}


def _check_logits(name: str, logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {logits.dtype}")
    if logits.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {list(logits.shape)}")


def _logits(name: str, logits: Tensor) -> Tensor:
    _check_logits(name, logits)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class _OfBoth:
    """The discriminator's half of a loss whose parts are means of a function of each logit."""

    def __init__(self, on_real: Term, on_fake: Term) -> None:
        self._on_real, self._on_fake = on_real, on_fake

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.with_means(real_logits, fake_logits)[0]

    def with_means(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, ...]:
        """(loss, mean of the real logits, mean of the fakes'), by one kernel on a GPU."""
        _check_logits("real_logits", real_logits)
        _check_logits("fake_logits", fake_logits)
        return mean_loss([(real_logits, self._on_real), (fake_logits, self._on_fake)])


def _pair(name: str, on_real: Term, on_fake: Term, on_generated: Term) -> GANLoss:
    """A GANLoss whose parts are means of a function of each logit."""

    def generator(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        _check_logits("fake_logits", fake_logits)
        return mean_loss([(fake_logits, on_generated)])[0]

    return GANLoss(_OfBoth(on_real, on_fake), generator, name=name)


def _relativistic(name: str, compare: Callable[[Tensor, Tensor], Tensor]) -> GANLoss:
    """A GANLoss that is `compare(real, fake)`, with the roles exchanged for the generator."""

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return compare(_logits("real_logits", real_logits), _logits("fake_logits", fake_logits))

    def generator(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        if real_logits is None:
            raise ValueError(f"real_logits: the generator's loss of {name} needs them, got None")
        return compare(_logits("fake_logits", fake_logits), _logits("real_logits", real_logits))

    return GANLoss(discriminator, generator, relativistic=True, name=name)


def _with_targets(name: str, real: float, fake: float) -> str:
    return name if (real, fake) == (1.0, 0.0) else f"{name}, targets {real} and {fake}"


def _smoothable(name: str, kind: int, on_generated: Term) -> Callable[[float, float], GANLoss]:
    """A loss whose discriminator tells sides by a target for each, from those targets."""

    def make(real: float, fake: float) -> GANLoss:
        of_both = Term(kind, real), Term(kind, fake)
        return _pair(_with_targets(name, real, fake), *of_both, on_generated)

    return make


def _make_relativistic_average(real: float, fake: float) -> GANLoss:
    def compare(winner: Tensor, loser: Tensor, high: float, low: float) -> Tensor:
        above = cross_entropy(winner - loser.mean(), high).mean()
        return above + cross_entropy(loser - winner.mean(), low).mean()

    name = "relativistic_average"
    smooth = _relativistic(_with_targets(name, real, fake), lambda r, f: compare(r, f, real, fake))
    plain = _relativistic(name, lambda f, r: compare(f, r, 1.0, 0.0))
    return smooth._replace(generator=plain.generator)


def _pairing(winner: Tensor, loser: Tensor) -> Tensor:
    if winner.shape != loser.shape:
        raise ValueError(
            "real_logits and fake_logits must have one shape to be paired, got "
            f"{list(winner.shape)} and {list(loser.shape)}"
        )
    return softplus(loser - winner).mean()


# Losses with a target for each side, from those targets.
_SMOOTHABLE: dict[str, Callable[[float, float], GANLoss]] = {
    "lsgan": _smoothable("lsgan", SQUARE, Term(SQUARE, 1.0)),
    "non_saturating": _smoothable("non_saturating", CROSS_ENTROPY, Term(CROSS_ENTROPY, 1.0)),
    "relativistic_average": _make_relativistic_average,
    "saturating": _smoothable("saturating", CROSS_ENTROPY, Term(SATURATING, 0.0)),
}

lsgan = _SMOOTHABLE["lsgan"](1.0, 0.0)
non_saturating = _SMOOTHABLE["non_saturating"](1.0, 0.0)
relativistic_average = _SMOOTHABLE["relativistic_average"](1.0, 0.0)
saturating = _SMOOTHABLE["saturating"](1.0, 0.0)
hinge = _pair("hinge", Term(HINGE, 1.0), Term(HINGE, -1.0), Term(LINEAR, 1.0))
wasserstein = _pair("wasserstein", Term(LINEAR, 1.0), Term(LINEAR, -1.0), Term(LINEAR, 1.0))
relativistic_pairing = _relativistic("relativistic_pairing", _pairing)

LOSSES = {
    "hinge": hinge,
    "lsgan": lsgan,
    "non_saturating": non_saturating,
    "relativistic_average": relativistic_average,
    "relativistic_pairing": relativistic_pairing,
    "saturating": saturating,
    "wasserstein": wasserstein,
}


def get_loss(name: str, *, smooth_real: float = 0.0, smooth_fake: float = 0.0) -> GANLoss:
    """The pair of losses called `name`.

    Args:
        smooth_real: the discriminator's target for real images is 1 - smooth_real.
        smooth_fake: its target for generated images is smooth_fake.

    Raises:
        ValueError: there is no such loss (suggestions are given), a smoothing lies outside
            [0, 0.5), or the loss has no targets that could be smoothed.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    smoothing = {"smooth_real": smooth_real, "smooth_fake": smooth_fake}
    for argument, value in smoothing.items():
        if not 0 <= value < 0.5:
            raise ValueError(f"{argument} must lie in [0, 0.5), got {value!r}")
        if value and name not in _SMOOTHABLE:
            raise ValueError(
                f"{argument}: the loss {name!r} has no labels to smooth, got {value!r}; "
                f"these have: {', '.join(_SMOOTHABLE)}"
            )
    if not (smooth_real or smooth_fake):
        return LOSSES[name]
    return _SMOOTHABLE[name](1.0 - smooth_real, float(smooth_fake))


Likelihood = Literal["bernoulli", "gaussian"]


def reconstruction_loss(decoded: Tensor, images: Tensor, likelihood: Likelihood) -> Tensor:
    """Minus the log-likelihood of images [N, ...] in [-1, 1], summed over pixels, a mean over N.

    Args:
        decoded: of the images' shape. "gaussian": the decoded images; the variance is 1, and the
            constant ½ log 2π a pixel is left out, so this is half the squared error. "bernoulli":
            the decoder's output u before its tanh; 2u is the logit of a white pixel, because
            tanh u = 2 σ(2u) - 1.
        likelihood: in nats for "bernoulli" on images of -1 and 1; between them it is the
            cross-entropy to a brightness (x + 1) / 2.

    Raises ValueError for shapes that differ, no images, or another likelihood.
    """
    if decoded.shape != images.shape or images.numel() == 0:
        raise ValueError(
            "decoded and images must have one shape that is not empty, got "
            f"{list(decoded.shape)} and {list(images.shape)}"
        )
    check_choice("likelihood", likelihood, get_args(Likelihood))
    decoded, images = _logits("decoded", decoded), _logits("images", images)
    if likelihood == "gaussian":
        return 0.5 * (decoded - images).square().sum() / len(images)
    brightness = (images + 1) / 2
    total = F.binary_cross_entropy_with_logits(2 * decoded, brightness, reduction="sum")
    return total / len(images)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp log_variance) | N(0, 1)) in nats, summed over [N, D]'s D, a mean over N.

    Source: Kingma and Welling 2014, appendix B.
    """
    if mean.shape != log_variance.shape or mean.numel() == 0:
        raise ValueError(
            "mean and log_variance must have one shape that is not empty, got "
            f"{list(mean.shape)} and {list(log_variance.shape)}"
        )
    mean, log_variance = _logits("mean", mean), _logits("log_variance", log_variance)
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * terms.sum() / len(mean)
