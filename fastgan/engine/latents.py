"""Latent vectors: drawn, truncated, and on the way from one to the next."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def takes_no_noise(generator: nn.Module) -> bool:
    """Whether a generator draws nothing by itself, but makes something of what it is given."""
    return getattr(generator, "latent_dim", None) == 0


def inputs_of(noise: Tensor, labels: Tensor | None) -> list[Tensor]:
    """What a generator is called with: noise [N, 0], of one that draws nothing, is left out."""
    rows = [noise] if noise.shape[1] else []
    return rows if labels is None else [*rows, labels]


def draw_noise(
    generator: nn.Module | int, count: int, seed: int, truncation: float | None = None
) -> Tensor:
    """``[count, latent_dim]`` on the CPU, `truncated` if asked for; the first rows do not depend on
    ``count``. ``generator`` may also be a latent_dim.
    """
    latent_dim = generator if isinstance(generator, int) else generator.latent_dim
    assert isinstance(latent_dim, int)
    rng = torch.Generator().manual_seed(seed)
    noise = torch.stack([torch.randn(latent_dim, generator=rng) for _ in range(count)])
    return noise if truncation is None else truncated(noise, truncation)


def truncated(noise: Tensor, threshold: float) -> Tensor:
    """Normal values mapped to the normal distribution that is cut at ±threshold, in order.

    The truncation trick (Brock et al. 2019, arXiv:1809.11096) draws values anew until they lie
    within; this has the same distribution, and each vector keeps its direction as far as it can, so
    that a sample can be followed from one threshold to another.

    Raises:
        ValueError: ``threshold`` is not a positive number.
    """
    if not (math.isfinite(threshold) and threshold > 0):
        raise ValueError(f"truncation must be a positive number, got {threshold!r}")
    inside = math.erf(threshold / math.sqrt(2))
    share = torch.erf(noise.double() / math.sqrt(2)) * inside
    values = torch.erfinv(share) * math.sqrt(2)
    return values.clamp(-threshold, threshold).to(noise.dtype)


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation of [N, D] and [N, D] at shares [S] in [0, 1]: [N, S, D].

    Directions are turned at a constant rate and lengths are interpolated linearly, so that points
    between two normal samples are as long as normal samples are (White 2016, arXiv:1609.04468).
    Rows that are parallel, or zero, are interpolated linearly.
    """
    lengths = [torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (start, end)]
    units = [x / length.clamp_min(1e-12) for x, length in zip((start, end), lengths, strict=True)]
    cosine = (units[0] * units[1]).sum(-1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    t = share.view(1, -1, 1)
    turn = angle[:, None] * torch.cat([1 - t, t], 2)
    sine = angle.sin()[:, None]
    weights = turn.sin() / sine.clamp_min(1e-12)
    direction = weights[..., :1] * units[0][:, None] + weights[..., 1:] * units[1][:, None]
    length = lengths[0][:, None] * (1 - t) + lengths[1][:, None] * t
    straight = start[:, None] * (1 - t) + end[:, None] * t
    turns = (sine > 1e-4) & (torch.minimum(*lengths)[:, None] > 0)
    return torch.where(turns, direction * length, straight)


def closed_walk(points: Tensor, frames: int) -> Tensor:
    """From each of ``points`` [P, N, D] to the next and back to the first: [P * frames, N, D]."""
    share = torch.arange(frames) / frames
    legs = [slerp(start, end, share) for start, end in zip(points, points.roll(-1, 0), strict=True)]
    return torch.cat([leg.transpose(0, 1) for leg in legs])
