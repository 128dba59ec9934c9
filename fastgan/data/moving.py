"""Moving digits: short films of a digit that crosses a square and bounces off its sides.

After Srivastava, Mansimov, Salakhutdinov 2015, "Unsupervised Learning of Video Representations
using LSTMs" (arXiv:1502.04681), with one digit, in a smaller square.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from fastgan.checks import check_int
from fastgan.data.dataset import ImageDataset
from fastgan.data.embedded import load_mnist5k
from fastgan.data.options import LoadOptions

SPEEDS = (1.0, 3.0)
"""Pixels a frame, drawn uniform."""


def make_moving_digits(
    count: int, shape: Sequence[int] = (16, 32, 32), seed: int = 0
) -> ImageDataset:
    """Films uint8 [count, 1, T, H, W] of the embedded digits at half the smaller side.

    ValueError for fewer than two frames, or a side below 8.
    """
    check_int("count", count, 1)
    frames, *square = shape
    check_int("shape", frames, 2)
    for length in square:
        check_int("shape", length, 8)
    side = min(square) // 2
    digits = load_mnist5k(LoadOptions()).images.float()
    rng = np.random.default_rng(seed)
    chosen = digits[torch.from_numpy(rng.integers(len(digits), size=count))]
    small = F.interpolate(chosen, (side, side), mode="bilinear", antialias=True)
    room = torch.tensor([length - side for length in square]).double()
    angle, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(*SPEEDS, count)
    step = torch.from_numpy(np.stack([np.sin(angle), np.cos(angle)], 1) * speed[:, None])
    start = torch.from_numpy(rng.random((count, 2))) * room
    films = torch.zeros(count, 1, frames, *square, dtype=torch.uint8)
    pixels = small.round().clamp(0, 255).to(torch.uint8)
    for t in range(frames):
        # A way that is reflected is one that goes on in a mirrored square.
        along = (start + t * step).remainder(2 * room)
        places = torch.where(along > room, 2 * room - along, along).round().long().tolist()
        for film, digit, (y, x) in zip(films[:, :, t], pixels, places, strict=True):
            film[:, y : y + side, x : x + side] = digit
    return ImageDataset(films, name=f"moving-digits-{seed}")
