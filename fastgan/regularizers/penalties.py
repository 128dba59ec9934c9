"""The penalties on gradients as functions, and the weights' bound; see the package's text."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.ops.conv.second_order import differentiated_twice

Discriminator = Callable[..., Tensor]
"""Images `[N, C, H, W]`, and labels where it is conditional, to logits of any shape."""


def float_images(name: str, images: Tensor) -> Tensor:
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {images.dtype}")
    if images.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {list(images.shape)}")
    return images.detach()


def logits_of(discriminator: Discriminator, images: Tensor, labels: Tensor | None) -> Tensor:
    return discriminator(images) if labels is None else discriminator(images, labels)


def _gradient(discriminator: Discriminator, images: Tensor, labels: Tensor | None) -> Tensor:
    """∇ D at each of `images`, as a function of D's parameters; at least float32."""
    with torch.enable_grad(), differentiated_twice():
        images = images.detach().requires_grad_()
        logits = logits_of(discriminator, images, labels)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return widened(gradient)


def widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _squared(gradient: Tensor) -> Tensor:
    return 0.5 * gradient.square().sum() / gradient.shape[0]


def _distance_from_one(gradient: Tensor, one_sided: bool) -> Tensor:
    # vector_norm's gradient at zero is zero, where a square root's would be NaN.
    norm = torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.dim())))
    return (F.relu(norm - 1) if one_sided else norm - 1).square().mean()


def r1(discriminator: Discriminator, real: Tensor, labels: Tensor | None = None) -> Tensor:
    """½ E |∇D(real)|², a scalar. Its weight is the paper's γ (Mescheder et al. 2018, eq. 9)."""
    return _squared(_gradient(discriminator, float_images("real", real), labels))


def r2(discriminator: Discriminator, fake: Tensor, labels: Tensor | None = None) -> Tensor:
    """½ E |∇D(fake)|², a scalar (Mescheder et al. 2018, eq. 10). `fake` gets no gradient."""
    return _squared(_gradient(discriminator, float_images("fake", fake), labels))


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
    images = float_images("images", images)
    moved = logits_of(discriminator, images + step * torch.randn_like(images), labels)
    slope = (widened(moved) - widened(logits_of(discriminator, images, labels))) / step
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
    real, fake = float_images("real", real), float_images("fake", fake)
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
    real = float_images("real", real)
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
