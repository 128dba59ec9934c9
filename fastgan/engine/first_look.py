"""Networks of other tutorials, recognised before they are trained: they would learn badly here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.data import normalised
from fastgan.engine.latents import inputs_of
from fastgan.engine.objectives import GANObjective
from fastgan.engine.train_state import TrainState
from fastgan.models import Discriminator, Generator
from fastgan.nn.modes import output_in_eval

_COUNT = 4


@torch.no_grad()
def unlike(trainer: TrainState) -> list[str]:
    """What of networks that are not fastgan's is not as the losses and the data want it.

    Looked at are a few images of each, in evaluation mode, so that nothing of the state moves.

    An error of a network itself is left to the first step.

    Raises:
        ValueError: the generator takes noise [N, latent_dim, 1, 1] alone.
    """
    found: list[str] = []
    if not isinstance(trainer.objective, GANObjective) or not trainer.latent_dim:
        return found
    labels = trainer.conditions(_COUNT)
    # So large that what ends in Tanh reaches both its ends.
    rng = torch.Generator().manual_seed(0)
    noise = 1000 * torch.randn(_COUNT, trainer.latent_dim, generator=rng).to(trainer.device)
    if _is_foreign(trainer.generator, Generator):
        images = _drawn(trainer.generator, noise, labels)
        if _within_0_and_1(images) and images.max() > images.min():
            found.append(
                "the generator's images lie in [0, 1], and the data's in [-1, 1]: end it with Tanh "
                "in place of a Sigmoid"
            )
    if _is_foreign(trainer.discriminator, Discriminator):
        some = normalised(trainer.dataset.some(_COUNT), trainer.dataset.value_range)
        reals = some[torch.arange(_COUNT) % len(some)].to(trainer.device)
        # Logits grow with images; probabilities stay where they are.
        given = (inputs_of(x, labels) for x in (reals, 1000 * reals))
        logits = (output_in_eval(trainer.discriminator, *inputs) for inputs in given)
        if all(map(_within_0_and_1, logits)):
            found.append(
                "the discriminator gives values in [0, 1] of any image: the losses take logits, so "
                "take the Sigmoid at its end away"
            )
    return found


def _is_foreign(network: nn.Module, own: type[nn.Module]) -> bool:
    """Whether it may be looked at and is not ours; a compiled one would be compiled once more."""
    has_weights = next(network.parameters(), None) is not None
    return has_weights and not isinstance(network, own) and not hasattr(network, "_orig_mod")


def _within_0_and_1(values: Any) -> bool:
    return isinstance(values, Tensor) and bool(values.min() >= 0 and values.max() <= 1)


def _drawn(generator: nn.Module, noise: Tensor, labels: Tensor | None) -> Any:
    images, width = output_in_eval(generator, *inputs_of(noise, labels)), noise.shape[1]
    square = inputs_of(noise[:, :, None, None], labels)
    if images is None and output_in_eval(generator, *square) is not None:
        raise ValueError(
            f"the generator takes noise [N, {width}, 1, 1], and is given [N, {width}]: put "
            f"nn.Unflatten(1, ({width}, 1, 1)) before its first layer"
        )
    return images
