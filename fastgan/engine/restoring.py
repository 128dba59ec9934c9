"""Images of any size through networks from images to images: larger, filled in, translated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_choice, check_int
from fastgan.data.conditions import with_hole
from fastgan.data.files import open_regular
from fastgan.data.image import ImageFile
from fastgan.data.options import LoadOptions
from fastgan.data.source import normalised, whole_range
from fastgan.engine.grid import save_picture
from fastgan.models import CycleGenerator, Inpainter, SRResNet, Translator


def read_image(path: str | Path, channels: int) -> Tensor:
    """The image in a file as [1, C, H, W] in [-1, 1], grey or RGB as asked for.

    What is transparent is white. OSError, or DataError for a file that holds no image.
    """
    path = Path(path)
    options = LoadOptions(channels=channels)
    image = ImageFile(str(path), lambda: open_regular(path)).read(options)[None]
    return normalised(image, whole_range(image.dtype))


def write_image(image: Tensor, path: Path) -> Path:
    """One image [1, C, H, W] in [-1, 1] with 8 bits, in a format of :func:`save_picture`."""
    pixels = ((image[0].float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    return save_picture(array, path)


@torch.no_grad()
def upscale(generator: nn.Module, image: Tensor, tile: int = 256) -> Tensor:
    """An image [N, C, H, W] of any size at `generator.scale` times the sides, in eval mode.

    Worked through in tiles of `tile` pixels a side, each with the pixels around it that its own
    depend on, so that memory is bounded and no seam is seen: the whole at once is the same but for
    rounding.

    ValueError for a generator that makes nothing larger, or a tile below 1.
    """
    check_int("tile", tile, 1)
    if not isinstance(generator, SRResNet):
        raise ValueError(
            f"upscale needs the generator of a super-resolution run, got {type(generator).__name__}"
        )
    device = next(generator.parameters()).device
    scale, reach = generator.scale, generator.reach
    count, channels, height, width = generator.check_condition(image).shape
    whole = image.new_empty(count, channels, height * scale, width * scale)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            rows = slice(max(top - reach, 0), bottom + reach)
            columns = slice(max(left - reach, 0), right + reach)
            made = generator(image[..., rows, columns].to(device))
            y, x = (top - rows.start) * scale, (left - columns.start) * scale
            high, wide = (bottom - top) * scale, (right - left) * scale
            whole[..., top * scale : bottom * scale, left * scale : right * scale] = made[
                ..., y : y + high, x : x + wide
            ]
    return whole


def inpaint(generator: nn.Module, image: Tensor, mask: Tensor) -> Tensor:
    """Images [N, C, H, W] of any size with their holes filled; all else is as it was, to the bit.

    Args:
        mask: [N, 1, H, W]: the hole is where it is above 0.

    ValueError for another generator than an inpainting run's, or a mask of another size.
    """
    if not isinstance(generator, Inpainter):
        raise ValueError(
            f"inpaint needs the generator of an inpainting run, got {type(generator).__name__}"
        )
    expected = (len(image), 1, *image.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"mask must be of the image's size, {image.shape[3]}x{image.shape[2]}, got "
            f"{mask.shape[-1]}x{mask.shape[-2]}"
        )
    hole = (mask > 0).to(image.dtype)
    made = translate(generator, with_hole(image, hole))
    return torch.where(hole > 0, made.to(image.dtype), image)


def towards(generator: nn.Module, domain: str | None) -> nn.Module:
    """The generator of images of a domain, "a" or "b" (by default), of one that goes both ways;
    another generator as it is.

    ValueError for a domain, and a generator that goes one way.
    """
    if isinstance(generator, CycleGenerator):
        check_choice("to", domain or "b", ("a", "b"))
        return generator.back if domain == "a" else generator.forth
    if domain is not None:
        raise ValueError(
            "to is of a generator between two domains, such as a cyclegan run's, got "
            f"{type(generator).__name__}"
        )
    return generator


def translator(generator: nn.Module) -> Translator:
    """The generator, if it makes images of images; else ValueError."""
    if not isinstance(generator, Translator):
        raise ValueError(
            "translate needs a generator that takes images, such as a pix2pix run's, got "
            f"{type(generator).__name__}"
        )
    return generator


@torch.no_grad()
def translate(generator: nn.Module, condition: Tensor) -> Tensor:
    """What a generator makes of conditions [N, C, H, W] of any size, on the CPU.

    Sides that are no multiples of `generator.multiple` are extended by their border's pixels, and
    the result is cut. ValueError for a generator that takes none.
    """
    generator = translator(generator)
    height, width = condition.shape[2:]
    below, beside = -height % generator.multiple, -width % generator.multiple
    device: Any = next(generator.parameters()).device
    padded = F.pad(condition.to(device), (0, beside, 0, below), mode="replicate")
    made = generator(padded).float().cpu()
    return made[..., : height * generator.scale, : width * generator.scale]
