"""pytorch#13350, #55368: spectral norm, two passes of the discriminator, one backward, and R1.

The second pass overwrote the vectors that the first one's backward needed.
Right: the gradients of D(fake) - D(real) and of the penalty, and one step of the power iteration
for each pass, are those of plain layers.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ways import Results, Way, assert_right, backward, like

from fastgan.models import spectral_norm
from fastgan.regularizers import r1


def by_hooks(model: nn.Module) -> nn.Module:
    """The older spectral norm of torch.nn, which many published models hold."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.utils.spectral_norm(layer)
    return model


@pytest.mark.parametrize("normalised", [spectral_norm, by_hooks])
def test_two_passes_and_a_penalty_are_differentiated(way: Way, normalised: Way) -> None:
    discriminator = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 4),
    )
    normalised(discriminator)
    real, fake = torch.randn(2, 4, 3, 16, 16)

    def compute(model: nn.Module) -> Results:
        images, fakes = like(model, real), like(model, fake)
        of_fakes, of_images = model(fakes), model(images)
        loss = of_fakes.mean() - of_images.mean() + r1(model, images)
        # The loss itself is next to nothing beside what it is the difference of.
        return backward(model, loss, fake=fakes) | {"D(fake)": of_fakes, "D(real)": of_images}

    assert_right(way, discriminator, compute)
