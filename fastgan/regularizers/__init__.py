"""Regularisers of the discriminator: gradient penalties, LeCam, weight clipping.

The functions take a discriminator, real and generated images, and return a scalar that can be
differentiated with respect to the discriminator's parameters. A conditional discriminator is called
as `discriminator(images, labels)`. With d = ∇ D at an image, and ‖·‖ the norm over its pixels:

| name    | penalty                                       | source (arXiv); usual weight          |
|---------|-----------------------------------------------|---------------------------------------|
| r1      | ½ E ‖d(real)‖²                                | Mescheder et al. 2018, 1801.04406; 10 |
| r2      | ½ E ‖d(fake)‖²                                | Mescheder et al. 2018; 10             |
| r1_r2   | r1 + r2, zero-centred on both sides           | Huang et al. 2024, 2501.05441; 10     |
| wgan_gp | E (‖d(u real + (1 - u) fake)‖ - 1)²           | Gulrajani et al. 2017, 1704.00028; 10 |
| dragan  | E (‖d(real + noise)‖ - 1)²                    | Kodali et al. 2017, 1705.07215; 10    |
| lecam   | E (D(real) - a_fake)² + E (D(fake) - a_real)² | Tseng et al. 2021, 2104.03310; 0.3    |

`r1_finite`, `r2_finite` and `r1_r2_finite` are the first three without a second order, as
½ E ((D(x + ε z) - D(x)) / ε)² with z normal for each pixel: in the mean over z that is
½ E ‖d(x)‖² but for terms of ε² ("approximated R1" of Lin et al. 2025, "Diffusion Adversarial
Post-Training"). Two forward passes and a backward one take the place of a backward pass through a
backward pass.

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
StyleGAN2, arXiv:1912.04958, appendix B). A checkpoint holds the module's state_dict, which is empty
but for LeCam's anchors. After an update, `clip_weights_` is the constraint of Arjovsky et al. 2017
(arXiv:1701.07875).
"""

from __future__ import annotations

from typing import Any

from fastgan.checks import unknown
from fastgan.regularizers.modules import (
    GRADIENT_PENALTIES,
    GradientPenalty,
    LeCam,
    Regularizer,
)
from fastgan.regularizers.penalties import (
    Discriminator,
    clip_weights_,
    dragan,
    finite_difference,
    r1,
    r2,
    wgan_gp,
)

__all__ = [
    "REGULARIZERS",
    "Discriminator",
    "GradientPenalty",
    "LeCam",
    "Regularizer",
    "clip_weights_",
    "dragan",
    "finite_difference",
    "get_regularizer",
    "r1",
    "r2",
    "wgan_gp",
]

REGULARIZERS = (*GRADIENT_PENALTIES, "lecam")


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
