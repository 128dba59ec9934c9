"""Levels of tile games: a DCGAN whose output is a choice of tile at each place.

Source: Volz et al. 2018, "Evolving Mario Levels in the Latent Space of a Deep Convolutional
Generative Adversarial Network" (arXiv:1805.00728), with a softmax over tiles for the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.checks import check_choice

from ._base import ImageSize
from ._registry import register_model
from .dcgan import DCGANGenerator

# Of a tile in a picture: a palette of as many tiles as a game of this kind has.
_COLOURS = (
    (70, 70, 82), (236, 232, 220), (166, 110, 52), (120, 200, 120), (92, 150, 62),
    (64, 110, 220), (120, 80, 200), (220, 80, 80),
)  # fmt: skip


@register_model("tile_generator")
class TileGenerator(DCGANGenerator):
    """z [N, latent_dim] → maps [N, tiles, H, W], at each place 2p - 1 of the tiles' probabilities.

    Arguments: the DCGANGenerator's, with `tiles` for `channels`, and `choice`: "soft", the
    probabilities as they are; "hard", 1 for the most probable tile and 0 for the others, as real
    maps are, with the gradient of the probabilities (straight-through: Bengio et al. 2013,
    arXiv:1308.3432).
    """

    def __init__(
        self, latent_dim: int = 100, image_size: ImageSize = 16, tiles: int = 7, *args: Any,
        choice: str = "hard", **kwargs: Any,
    ) -> None:  # fmt: skip
        check_choice("choice", choice, ("soft", "hard"))
        super().__init__(latent_dim, image_size, tiles, *args, **kwargs)
        self.choice = choice

    def forward(self, z: Tensor) -> Tensor:
        logits = self.logits(z)
        shares = logits.softmax(1)
        if self.choice == "hard":
            chosen = torch.zeros_like(shares).scatter_(1, logits.argmax(1, keepdim=True), 1)
            shares = chosen + shares - shares.detach()
        return 2 * shares - 1

    def pictures(self, maps: Tensor) -> Tensor:
        """Maps [N, tiles, H, W] in colours, [N, 3, H, W] in [-1, 1]."""
        colours = maps.new_tensor(_COLOURS)[maps.argmax(1) % len(_COLOURS)]
        return colours.permute(0, 3, 1, 2) / 127.5 - 1
