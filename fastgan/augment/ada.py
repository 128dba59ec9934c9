"""Adaptive discriminator augmentation.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data"
(arXiv:2006.06676): the pipeline of appendix B in its order and with its strengths, and the control
of p of section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.augment._bands import BANDS, POWER, filter_bands, keep_power, make_bank
from fastgan.augment._base import Augmentation, checked, register
from fastgan.augment._color import recolor
from fastgan.augment._pixels import blit, coordinates
from fastgan.augment._warp import SYM6, warp
from fastgan.checks import check_int, check_share
from fastgan.nn.processes import mean_over_processes, process_count


@register("ada")
class ADA(Augmentation):
    """Each transformation of the pipeline acts on each image with probability p.

    p moves by itself: every `interval` updates the mean sign r of the discriminator's logits of
    real images is compared with `target`, and p goes up or down by so much that it would get from 0
    to 1 within `kimg` thousand images. At p = 0 images pass unchanged, to the bit.

    Args:
        target: of r, in (-1, 1); None keeps p where it is.
        kimg: thousands of real images in which p can rise from 0 to 1.
        interval: discriminator updates between adjustments.
        p: at first, in [0, 1].
        blit: mirroring, turning by right angles (by 180° if not square), integer translation.
        geometry: scaling, rotation, anisotropic scaling, fractional translation.
        color: brightness and contrast; on three channels luma flip, hue and saturation besides.
        filter: amplification of frequency bands.
        noise: white noise.
        cutout: a rectangle of half the image's sides set to zero.

    Buffers: `p`, and what was counted since its last adjustment: `signs` (the sum of the updates'
    mean signs), `updates`, `images`. With several processes, signs are averaged and images counted
    over all of them, so that p is the same everywhere.

    Raises ValueError for a bad number; in `forward` TypeError and ValueError for what is no batch
    of images. On CUDA the gradient of `blit` and `geometry` is summed in no fixed order, as
    grid_sample's is, so repeated runs may differ in the last bits.
    """

    p: Tensor
    signs: Tensor
    updates: Tensor
    images: Tensor
    taps: Tensor
    bank: Tensor
    power: Tensor

    def __init__(
        self,
        target: float | None = 0.6,
        kimg: float = 500.0,
        interval: int = 4,
        p: float = 0.0,
        *,
        blit: bool = True,
        geometry: bool = True,
        color: bool = True,
        filter: bool = False,
        noise: bool = False,
        cutout: bool = False,
    ) -> None:
        super().__init__()
        if target is not None and not -1 < target < 1:
            raise ValueError(f"target must lie in (-1, 1) or be None, got {target!r}")
        if not 0 < kimg < float("inf"):
            raise ValueError(f"kimg must be a positive number, got {kimg!r}")
        self.target, self.kimg = target, kimg
        self.interval = check_int("interval", interval, 1)
        self.register_buffer("p", torch.tensor(float(check_share("p", p, "[0, 1]"))))
        for count in ("signs", "updates", "images"):
            self.register_buffer(count, torch.zeros(()))
        wanted = {
            "blit": blit,
            "geometry": geometry,
            "color": color,
            "filter": filter,
            "noise": noise,
            "cutout": cutout,
        }
        self.parts = [part for part, on in wanted.items() if on]
        # Constants; float64, and rounded once to what they meet.
        self.register_buffer("taps", torch.tensor(SYM6, dtype=torch.float64), persistent=False)
        self.register_buffer("bank", make_bank(), persistent=False)
        self.register_buffer("power", POWER.clone(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = checked(images)
        # Images are data: autocast would round them to bfloat16 in the filters.
        with torch.autocast(x.device.type, enabled=False):
            for part in self.parts:
                x = getattr(self, f"_{part}")(x)
        return x.to(images.dtype)

    @torch.no_grad()
    def update(self, real_logits: Tensor) -> None:
        """Count the signs of one update's real logits, of any shape [N, ...], and move p if due."""
        if self.target is None:
            return
        sign = mean_over_processes(real_logits.float().sign().mean())
        self.signs.add_(sign)
        self.updates.add_(1)
        self.images.add_(len(real_logits) * process_count())
        due = self.updates >= self.interval
        direction = (self.signs / self.updates - self.target).sign()
        moved = (self.p + direction * self.images / (1000 * self.kimg)).clamp(0, 1)
        self.p.copy_(torch.where(due, moved, self.p))
        for count in (self.signs, self.updates, self.images):
            count.mul_(~due)

    def extra_repr(self) -> str:
        return f"target={self.target}, kimg={self.kimg}, parts={','.join(self.parts)}"

    def _chosen(self, x: Tensor, p: Tensor | None = None) -> Tensor:
        """Whether a transformation acts, bool [N]."""
        return _uniform(x) < (self.p if p is None else p)

    def _blit(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        flip = self._chosen(x) & (_uniform(x) < 0.5)
        if height == width:
            turns = torch.randint(4, (len(x),), device=x.device)
        else:
            turns = 2 * torch.randint(2, (len(x),), device=x.device)
        turns = turns * self._chosen(x)
        moves = self._chosen(x)
        down, right = (
            (_uniform(x, -1, 1) * 0.125 * side).round().long() * moves for side in (height, width)
        )
        return blit(x, flip, turns, down, right)

    def _geometry(self, x: Tensor) -> Tensor:
        rarely = 1 - (1 - self.p).sqrt()  # so that p is the chance of at least one rotation
        scales, first, stretches, second, moves = (
            self._chosen(x, rarely if rotation else self.p)
            for rotation in (False, True, False, True, False)
        )
        scale = _where(scales, (0.2 * _normal(x)).exp2(), 1.0)
        stretch = _where(stretches, (0.2 * _normal(x)).exp2(), 1.0)
        angles = [_where(turns, _uniform(x, -math.pi, math.pi), 0.0) for turns in (first, second)]
        shift = torch.stack([0.125 * side * _normal(x) * moves for side in x.shape[:1:-1]], -1)
        # Forward: scale, rotate, stretch, rotate, move. The samples come from the inverse.
        linear = _product(_rotation(-angles[0]), _diagonal(1 / stretch, stretch))
        linear = _product(linear, _rotation(-angles[1])) / scale.view(-1, 1, 1)
        constant = _product(linear, -shift.unsqueeze(-1))
        warped = warp(x, torch.cat([linear, constant], -1), self.taps)
        return _where(scales | first | stretches | second | moves, warped, x)

    def _color(self, x: Tensor) -> Tensor:
        brightens, contrasts = self._chosen(x), self._chosen(x)
        offset = _where(brightens, 0.2 * _normal(x), 0.0)
        gain = _where(contrasts, (0.5 * _normal(x)).exp2(), 1.0)
        if x.shape[1] != 3:
            shape = (-1, 1, 1, 1)
            return gain.to(x.dtype).view(shape) * (x + offset.to(x.dtype).view(shape))
        flips, turns, saturates = self._chosen(x), self._chosen(x), self._chosen(x)
        flips = flips & (_uniform(x) < 0.5)
        luma = _where(flips, -torch.ones_like(gain), 1.0)
        hue = _where(turns, _uniform(x, -math.pi, math.pi), 0.0)
        saturation = _where(saturates, _normal(x).exp2(), 1.0)
        colored = recolor(x, offset, gain, luma, hue, saturation)
        return _where(brightens | contrasts | flips | turns | saturates, colored, x)

    def _filter(self, x: Tensor) -> Tensor:
        chosen = torch.stack([self._chosen(x) for _ in range(BANDS)], -1)
        gains = torch.stack([_normal(x).exp2() for _ in range(BANDS)], -1)
        gains = keep_power(torch.where(chosen, gains, 1.0), self.power)
        return _where(chosen.any(-1), filter_bands(x, gains, self.bank), x)

    def _noise(self, x: Tensor) -> Tensor:
        sigma = 0.1 * _normal(x).abs() * self._chosen(x)
        return x + sigma.to(x.dtype).view(-1, 1, 1, 1) * torch.randn_like(x)

    def _cutout(self, x: Tensor) -> Tensor:
        inside = self._chosen(x).view(-1, 1, 1)
        for side, position in zip(x.shape[2:], coordinates(x), strict=True):
            centre = _uniform(x).view(-1, 1, 1)
            inside = inside & (((position + 0.5) / side - centre).abs() < 0.25)
        return x.masked_fill(inside.unsqueeze(1), 0.0)


def _uniform(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """A float32 number an image, [N]."""
    return torch.rand(len(x), device=x.device) * (high - low) + low


def _normal(x: Tensor) -> Tensor:
    return torch.randn(len(x), device=x.device)


def _where(chosen: Tensor, changed: Tensor, neutral: Tensor | float) -> Tensor:
    """`changed` where an image is chosen, `neutral` elsewhere."""
    return torch.where(chosen.view(-1, *[1] * (changed.dim() - 1)), changed, neutral)


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second], -1).diag_embed()


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for small matrices, without TF32."""
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)
