"""gather_images in plain PyTorch, under the name and arguments of the raw kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_images(
    images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """uint8 (N, H, W, C) to (B, H, W, C)."""
    chosen = images.index_select(0, index)
    if flips is not None:
        chosen = torch.where(flips[:, None, None, None], chosen.flip(2), chosen)
    # By a tensor: torch multiplies by the reciprocal of a number on some devices.
    full_scale = torch.full((), 127.5, device=images.device)
    return (chosen.float() / full_scale - 1.0).to(dtype)
