"""One GAN step as a plain function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan.losses import GANLoss


@dataclass(frozen=True)
class StepMetrics:
    """Scalars of one step, left on the device: reading one waits for the step to end."""

    loss_d: Tensor
    loss_g: Tensor
    real_logit: Tensor
    fake_logit: Tensor


def gan_step(
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: Optimizer,
    optimizer_d: Optimizer,
    loss: GANLoss,
    reals: Callable[[int], Tensor],
    noise: Callable[[], Tensor],
    discriminator_steps: int = 1,
) -> StepMetrics:
    """``discriminator_steps`` discriminator updates, then one generator update.

    As in the DCGAN algorithm (Radford et al. 2016), the fakes of the last discriminator update are
    those of the generator's: the generator does not change in between, so one pass serves both.
    Earlier discriminator updates draw fakes without a graph. During the generator's update the
    discriminator's weight gradients are not computed.

    Args:
        reals: ``reals(i)`` gives the real images of the i-th discriminator update, float
            ``[N, C, H, W]`` in [-1, 1].
        noise: gives a fresh latent ``[N, latent_dim]``.
    """
    for i in range(discriminator_steps):
        last = i == discriminator_steps - 1
        with torch.set_grad_enabled(last):
            fakes = generator(noise())
        real_logits = discriminator(reals(i))
        fake_logits = discriminator(fakes.detach())
        loss_d = loss.discriminator(real_logits, fake_logits)
        _update(optimizer_d, loss_d)

    with frozen(discriminator):
        loss_g = loss.generator(discriminator(fakes))
        _update(optimizer_g, loss_g)

    return StepMetrics(
        loss_d=loss_d.detach(),
        loss_g=loss_g.detach(),
        real_logit=real_logits.detach().float().mean(),
        fake_logit=fake_logits.detach().float().mean(),
    )


def _update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, ``module``'s parameters get no gradient; gradients still flow through it."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
