"""Scores of generators that are given something of an image, beside what needs no training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.data import ImageDataset
from fastgan.engine.translating import TranslationStep
from fastgan.metrics import Reconstruction, Score, sharpness, video_luma
from fastgan.metrics.score import setting_of

# Of an image in [-1, 1] and what is made of it: [N, C, H, W] of both.
Way = Callable[[Tensor, Tensor], Tensor]
_AT_ONCE = 64


@torch.no_grad()
def translation_scores(
    generator: nn.Module, step: TranslationStep, reals: ImageDataset, seed: int = 0
) -> list[Score]:
    """PSNR and SSIM of what the generator makes, and of the ways that need no training, by suffix.

    Of RGB, and of Y with the border shaved that the scale has (`psnr_y`, `ssim_y`). With a hole,
    only pixels inside it count. Of smaller images also the `sharpness`, that of the images
    themselves as `sharpness_real`. Values are not rounded to 8 bits.

    Args:
        seed: of random conditions.

    ValueError for images without what the conditions need, such as other halves of pairs.
    """
    if step.condition == "pairs":
        raise ValueError("pairs cannot be measured: the set holds images without other halves")
    device = next(generator.parameters()).device
    scale = int(getattr(generator, "scale", 1))
    hole = step.condition in ("box", "free-form")
    ways: dict[str, Way] = {"": lambda given, _: generator(given), **_untrained(step, reals)}
    found = {name: _Measured(scale if scale > 1 else 0) for name in ways}
    real_sharpness: list[Tensor] = []
    for number, part in enumerate(reals.images.split(_AT_ONCE)):
        images = (part.float() / 127.5 - 1).to(device)
        given = step.fixed(images, None, seed + number)
        real_sharpness.append(sharpness(images))
        for name, way in ways.items():
            found[name].update(images, way(given, images), given[:, -1:] if hole else None)
    setting: dict[str, Any] = {
        "condition": step.condition,
        **setting_of(reals, len(reals)),
        "seed": seed,
    }
    setting |= {"inside": "hole"} if hole else {}
    scores = [
        Score(f"{metric}_{name}" if name else metric, value, None, setting | extra)
        for name, measured in found.items()
        for metric, value, extra in measured.values(sharp=scale > 1)
    ]
    if scale > 1:
        scores.append(
            Score("sharpness_real", float(torch.cat(real_sharpness).mean()), None, setting)
        )
    return scores


class _Measured:
    def __init__(self, border: int) -> None:
        self.border = border
        self.rgb, self.luma = Reconstruction(), Reconstruction()
        self.in_colour = False
        self.sharp: list[Tensor] = []

    def update(self, images: Tensor, made: Tensor, mask: Tensor | None) -> None:
        self.rgb.update(images, made, mask)
        self.sharp.append(sharpness(made.float()))
        self.in_colour = images.shape[1] == 3
        if self.in_colour:
            b = self.border
            inner = slice(b, -b or None)
            cut = [None if x is None else x[..., inner, inner] for x in (images, made, mask)]
            self.luma.update(video_luma(cut[0]), video_luma(cut[1].clamp(-1, 1)), cut[2])  # type: ignore[arg-type,union-attr]

    def values(self, *, sharp: bool) -> list[tuple[str, float, dict[str, Any]]]:
        found: list[tuple[str, float, dict[str, Any]]] = [
            ("psnr", self.rgb.psnr(), {"unit": "dB"}),
            ("ssim", self.rgb.ssim(), {}),
        ]
        if self.in_colour:
            of = {"of": "Y, BT.601", "border": self.border}
            found += [
                ("psnr_y", self.luma.psnr(), of | {"unit": "dB"}),
                ("ssim_y", self.luma.ssim(), of),
            ]
        if sharp:
            found.append(("sharpness", float(torch.cat(self.sharp).mean()), {}))
        return found


def _untrained(step: TranslationStep, reals: ImageDataset) -> dict[str, Way]:
    """What a person would do without a network, by name."""
    if step.condition.startswith("lower-"):
        return {"bicubic": _resized("bicubic"), "nearest": _resized("nearest")}
    if step.condition in ("box", "free-form"):
        ways: dict[str, Way] = {"mean_fill": _mean_fill}
        if importlib.util.find_spec("cv2") is not None:
            ways |= {
                "telea": _by_opencv("INPAINT_TELEA"),
                "navier_stokes": _by_opencv("INPAINT_NS"),
            }
        return ways
    colour = (reals.images.float().mean((0, 2, 3)) / 127.5 - 1).view(-1, 1, 1)
    found: dict[str, Way] = {"mean_colour": lambda _, images: colour.to(images).expand_as(images)}
    if step.condition == "grey":
        found["grey"] = lambda given, images: given.expand_as(images)
    return found


def _resized(mode: str) -> Way:
    return lambda given, images: F.interpolate(given, images.shape[2:], mode=mode).clamp(-1, 1)


def _mean_fill(given: Tensor, _: Tensor) -> Tensor:
    """Each image's mean colour outside its hole, inside it."""
    images, mask = given[:, :-1], given[:, -1:]
    known = 1 - mask
    mean = (images * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp_min(1)
    return torch.where(mask > 0, mean, images)


def _by_opencv(method: str) -> Way:
    """cv2.inpaint, of 8 bits, with a radius of 3 pixels."""

    def fill(given: Tensor, _: Tensor) -> Tensor:
        import cv2

        made = []
        for image, mask in zip(given[:, :-1].cpu(), given[:, -1].cpu(), strict=True):
            pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
            filled = cv2.inpaint(pixels, mask.byte().numpy(), 3, getattr(cv2, method))
            filled = torch.from_numpy(filled).view(*pixels.shape).permute(2, 0, 1)
            made.append(filled.float() / 127.5 - 1)
        return torch.stack(made).to(given.device)

    return fill
