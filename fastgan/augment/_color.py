"""Colour changes, each image its own."""

from __future__ import annotations

import math

from torch import Tensor


def recolor(
    images: Tensor, offset: Tensor, gain: Tensor, luma: Tensor, hue: Tensor, saturation: Tensor
) -> Tensor:
    """Images [N, 3, H, W] with brightness, contrast, luma flip, hue and saturation changed.

    With an image split into its luma, the mean over channels, and the rest, its chroma, this is
    gain · (luma_sign · (luma + offset) + saturation · rotated chroma), which is what the five
    changes give one after the other: all of them keep the two parts apart.

    Args:
        offset: added to all channels.
        gain: factor of all channels.
        luma: 1, or -1 to negate the luma (a reflection about the plane of no luma).
        hue: angle by which the chroma is turned about the axis of greys, in radians.
        saturation: factor of the chroma. All five are [N].
    """
    offset, gain, luma, hue, saturation = (
        v.to(images.dtype).view(-1, 1, 1, 1) for v in (offset, gain, luma, hue, saturation)
    )
    grey = images.mean(1, keepdim=True)
    chroma = images - grey
    # The cross product with the axis (1, 1, 1) / √3.
    across = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / math.sqrt(3)
    chroma = saturation * (hue.cos() * chroma + hue.sin() * across)
    return gain * (luma * (grey + offset) + chroma)
