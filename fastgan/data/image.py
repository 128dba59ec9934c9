"""Image files to tensors: decoding, colour, size. Every source resizes through here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from fastgan.checks import sides
from fastgan.data.depth import is_deep_colour, read_deep
from fastgan.data.options import LoadOptions, Resize
from fastgan.data.source import DataError, ValueRange
from fastgan.system import tell

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_TRANSPARENT_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_CHUNK = 1024

# What each EXIF orientation asks for; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UndecodableImage(DataError):
    """One image that is damaged or refused: left out and counted, unless the caller is strict."""


@dataclass(frozen=True)
class ImageFile:
    """A named image that can be opened when its turn comes.

    Attributes:
        mark: what changes if the content does, as far as it is known without reading: size,
            checksum.
        decode: for other formats, the function that stands in for `decode`.
    """

    name: str
    open: Callable[[], BinaryIO]
    mark: str = ""
    decode: Callable[[BinaryIO, str, LoadOptions], Tensor] | None = None

    def read(self, options: LoadOptions) -> Tensor:
        """Decode and `conform` it: uint8 or uint16 [C, H, W]; raises what its `decode` raises."""
        return conform(self.decoded(options)[None], options)[0]

    def decoded(self, options: LoadOptions) -> Tensor:
        """Its pixels, in the colours and mostly the size of the file."""
        try:
            with self.open() as stream:
                return (self.decode or decode)(stream, self.name, options)
        except OSError as error:
            error.filename = error.filename or self.name  # a failing disk does not tell
            raise


def decode(stream: BinaryIO, name: str, options: LoadOptions) -> Tensor:
    """Decode one PNG, JPEG, WebP, TIFF, BMP or GIF into uint8 [C, H, W], C = 1 for grey, else 3.

    Of 16 bits it is uint16: colour where OpenCV is installed (fastgan[depth]), else as 8 bits with
    a warning. EXIF orientation is applied, damaged EXIF ignored; transparency is composited over
    `options.background`; CMYK and palettes become RGB; of an animation, the first frame. A JPEG of
    more than `options.max_pixels` is decoded at a half, a quarter or an eighth of its sides where
    it is to be resized anyway.

    Raises:
        UndecodableImage: damaged, none of the formats, of 32 bits, or more than
            `options.max_pixels`.
        OSError: the file itself cannot be read.
    """
    try:
        with Image.open(stream, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > options.max_pixels and not _reduced(image, options):
                raise UndecodableImage(
                    f"{name}: {width}x{height} pixels are more than max_pixels = "
                    f"{options.max_pixels}: refused as a decompression bomb"
                )
            read = is_deep_colour(image) and read_deep(stream, image.mode)
            image.load()
            if isinstance(read, np.ndarray):
                array = _flatten_deep(read, image, options.background)
            else:
                array = _flatten(_upright(image), options.background, name)
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UndecodableImage(f"{name}: refused as a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        # Pillow's text names the stream, not the file.
        raise UndecodableImage(
            f"{name}: cannot identify a PNG, JPEG, WebP, TIFF, BMP or GIF image"
        ) from error
    except OSError as error:
        # The system's own failures carry a number; Pillow's "image file is truncated" has none.
        if error.errno is not None:
            raise
        raise UndecodableImage(f"{name}: {error}") from error
    except Exception as error:
        # Given damaged bytes, Pillow's plugins raise SyntaxError, struct.error, KeyError and more.
        raise UndecodableImage(f"{name}: {error or type(error).__name__}") from error
    tensor = torch.from_numpy(array)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


def _reduced(image: Image.Image, options: LoadOptions) -> bool:
    """Have a JPEG decoded with fewer pixels, as its blocks allow; False where that is no help."""
    width, height = image.size
    for divisor in (2, 4, 8):
        if width // divisor * (height // divisor) <= options.max_pixels:
            # By its aspect alone an image that keeps its size would be told from the others.
            asked = options.image_size is not None
            return asked and image.draft(None, (width // divisor, height // divisor)) is not None
    return False


def _upright(image: Image.Image) -> Image.Image:
    """Return decoded `image` as its EXIF orientation says; as it is, where that cannot be read."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        # Pillow reads EXIF as TIFF, and of other bytes raises SyntaxError, struct.error and more.
        return None


def _flatten_deep(
    pixels: NDArray[Any], image: Image.Image, background: tuple[int, int, int]
) -> NDArray[Any]:
    """uint16 [H, W, 3 or 4], RGB and perhaps opacity, of what `image` holds in 8 bits, upright and
    without transparency; one channel of grey."""
    grey = image.mode in ("L", "LA", "La") and len(set(background)) == 1
    if (turn := _turn(image)) is not None:
        channels = (Image.fromarray(np.ascontiguousarray(c)) for c in np.moveaxis(pixels, -1, 0))
        pixels = np.stack([np.array(channel.transpose(turn)) for channel in channels], -1)
    if pixels.shape[-1] == 4:
        opacity = pixels[..., 3:] / 65535
        over = pixels[..., :3] * opacity + np.array(background) * 257 * (1 - opacity)
        pixels = np.rint(over).astype(np.uint16)
    return pixels[..., 0] if grey else pixels


def _flatten(image: Image.Image, background: tuple[int, int, int], name: str) -> NDArray[Any]:
    """The pixels of `image`, grey or RGB, without transparency."""
    if image.mode.startswith(("I", "F")):
        # 16-bit grey; older Pillow gives it as 32-bit integers.
        wide = np.array(image)
        if image.mode == "F" or wide.min() < 0 or wide.max() > 65535:
            raise UndecodableImage(
                f"{name}: pixels of 32 bits, which have no range: give them as .npy"
            )
        return wide.astype(np.uint16)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, (*background, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        image, grey = canvas, grey and len(set(background)) == 1
    return np.array(image.convert("L" if grey else "RGB"))


def set_channels(images: Tensor, channels: int | None) -> Tensor:
    """Convert [N, C, H, W] between grey and RGB; None leaves it as it is.

    RGB to grey is the luma of ITU-R BT.601, of integers in 16-bit fixed point as in Pillow's mode
    L, of floating point in float32.

    Raises:
        DataError: another conversion is asked for.
    """
    have = images.shape[1]
    if channels is None or channels == have:
        return images
    if {have, channels} != {1, 3}:
        raise DataError(f"channels={channels} was asked for, but the images have {have} channels")
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    floats = images.is_floating_point()
    red, green, blue = images.to(torch.float32 if floats else torch.int64).unbind(1)
    luma = red * 19595 + green * 38470 + blue * 7471
    luma = luma / 0x10000 if floats else (luma + 0x8000) >> 16
    return luma.to(images.dtype)[:, None]


def set_depth(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 or uint16 images as uint8 or uint16: 0 stays 0 and the largest value the largest."""
    if images.dtype == dtype:
        return images
    wide = images.int()
    return (wide * 257 if dtype == torch.uint16 else (wide + 128) // 257).to(dtype)


def fit(
    images: Tensor,
    size: int | tuple[int, int],
    resize: Resize,
    background: tuple[int, int, int],
    value_range: ValueRange = (0.0, 65535.0),
) -> Tensor:
    """Resize [N, C, H, W] of uint8, uint16 or floats in a range to a square or (height, width),
    antialiased and bicubic.

    `center-crop` takes the largest centred part of that aspect, `squash` ignores the aspect, `pad`
    keeps the whole image and fills the rest with `background` (its luma where C is not 3).
    """
    size = sides(size)
    height, width = images.shape[-2:]
    if resize == "center-crop":
        inner_h = min(height, max(1, round(width * size[0] / size[1])))
        inner_w = min(width, max(1, round(height * size[1] / size[0])))
        top, left = (height - inner_h) // 2, (width - inner_w) // 2
        images = images[..., top : top + inner_h, left : left + inner_w]
    elif resize == "pad" and height * size[1] != width * size[0]:
        return _pad(images, size, background, value_range)
    return _interpolate(images, *size, value_range)


def _pad(
    images: Tensor,
    size: tuple[int, int],
    background: tuple[int, int, int],
    value_range: ValueRange,
) -> Tensor:
    count, channels, height, width = images.shape
    scale = min(size[0] / height, size[1] / width)
    inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
    colour = torch.tensor(background, dtype=torch.uint8).view(1, 3, 1, 1)
    if channels != 3:
        colour = set_channels(colour, 1)
    if images.is_floating_point():
        low, high = value_range
        colour = (colour / 255 * (high - low) + low).to(images.dtype)
    else:
        colour = set_depth(colour, images.dtype)
    canvas = colour.expand(count, channels, *size).contiguous()
    top, left = (size[0] - inner_h) // 2, (size[1] - inner_w) // 2
    inner = _interpolate(images, inner_h, inner_w, value_range)
    canvas[..., top : top + inner_h, left : left + inner_w] = inner
    return canvas


def _interpolate(images: Tensor, height: int, width: int, value_range: ValueRange) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images.contiguous()
    if images.dtype == torch.uint8:
        return interpolate(images.contiguous(), (height, width), mode="bicubic", antialias=True)
    resized = interpolate(images.float(), (height, width), mode="bicubic", antialias=True)
    if images.is_floating_point():
        return resized.clamp(*value_range).to(images.dtype)
    return resized.round().clamp(0, 65535).to(torch.int32).to(images.dtype)


def conform(
    images: Tensor, options: LoadOptions, value_range: ValueRange = (0.0, 65535.0)
) -> Tensor:
    """Apply `options.channels` and `options.image_size` to [N, C, H, W] of uint8, uint16 or floats
    in a range.
    """
    parts = []
    for part in images.split(_CHUNK):
        part = set_channels(part, options.channels)
        if options.image_size is not None:
            part = fit(part, options.image_size, options.resize, options.background, value_range)
        parts.append(part)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


class Decoded(NamedTuple):
    """What `decode_all` made of files.

    Attributes:
        images: [N, C, H, W], uint16 if one of them is, else uint8.
        kept: the indices of the files that could be decoded.
        grey: how many of these were in colour and are not any more.
    """

    images: Tensor
    kept: list[int]
    grey: int


def decode_all(files: Sequence[ImageFile], options: LoadOptions, source: str) -> Decoded:
    """Decode and `conform` files.

    Damaged files are left out with one warning that counts them. Without `options.channels`,
    C is 1 if every image is grey, else 3.

    Raises:
        UndecodableImage: a damaged file, and `options.strict` is set.
        DataError: no image left, a decompression bomb, or sizes that differ while
            `options.image_size` is None.
    """

    in_colour = []  # the names of files

    def one(file: ImageFile) -> Tensor | UndecodableImage:
        try:
            image = file.decoded(options)
            if len(image) == 3:
                in_colour.append(file.name)
            return conform(image[None], options)
        except UndecodableImage as error:
            if options.strict:
                raise UndecodableImage(f"{source}: {error}") from error
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # max_pixels decides; Pillow's warning below its own limit would only repeat it.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        results = []
        for result in pool.map(one, files):
            results.append(result)
            tell("reading images", len(results), len(files))
    bad = [result for result in results if isinstance(result, UndecodableImage)]
    kept = [i for i, result in enumerate(results) if isinstance(result, Tensor)]
    images = [result for result in results if isinstance(result, Tensor)]
    if not images:
        raise DataError(f"{source}: none of {len(files)} images could be decoded: {bad[0]}")
    if bad:
        warnings.warn(
            f"{source}: skipped {len(bad)} of {len(files)} images that could not be decoded; "
            f"the first: {bad[0]}",
            stacklevel=2,
        )
    _check_same_size(images, [files[i].name for i in kept], source)
    channels = max(image.shape[1] for image in images)
    dtype = next((image.dtype for image in images if image.dtype != torch.uint8), torch.uint8)
    alike = (set_channels(set_depth(image, dtype), channels) for image in images)
    return Decoded(torch.cat(list(alike)), kept, len(in_colour) if channels == 1 else 0)


def _check_same_size(images: Sequence[Tensor], names: Sequence[str], source: str) -> None:
    first = images[0].shape[-2:]
    for image, name in zip(images, names, strict=True):
        if image.shape[-2:] != first:
            (h0, w0), (h1, w1) = first, image.shape[-2:]
            raise DataError(
                f"{source}: images differ in size ({names[0]} is {w0}x{h0}, {name} is {w1}x{h1}); "
                "pass image_size to resize them"
            )
