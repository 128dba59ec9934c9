from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import DataError
from fastgan.data.image import (
    ImageFile,
    UndecodableImage,
    conform,
    decode,
    decode_all,
    fit,
    set_channels,
    set_depth,
)
from fastgan.data.options import LoadOptions, Resize

Encode = Callable[..., bytes]
RED, BLUE = (255, 0, 0), (0, 0, 255)


def read(content: bytes, **how: object) -> torch.Tensor:
    return decode(io.BytesIO(content), "picture", LoadOptions(**how))  # type: ignore[arg-type]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("size", [(5, 9), (1, 1), (16, 3)])
def test_lossless_colour_is_exact(encode: Encode, kind: str, size: tuple[int, int]) -> None:
    image = noise(*size, 3)
    how = {"lossless": True} if kind == "WEBP" else {}
    assert torch.equal(read(encode(image, kind, **how)), torch.from_numpy(image).permute(2, 0, 1))


def test_jpeg_grey_and_cmyk(encode: Encode) -> None:
    assert read(encode(Image.new("L", (9, 7), 77), "JPEG")).shape == (1, 7, 9)
    assert int(read(encode(Image.new("L", (9, 7), 77), "JPEG")).float().mean()) == 77
    cmyk = read(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk.shape == (3, 8, 8)
    assert cmyk[0].min() > 200
    assert cmyk[1:].max() < 60


def test_grey_bilevel_and_palette(encode: Encode) -> None:
    grey = noise(6, 5)
    assert torch.equal(read(encode(grey)), torch.from_numpy(grey)[None])
    bilevel = read(encode(Image.new("1", (4, 4), 1)))
    assert bilevel.shape == (1, 4, 4)
    assert bilevel.unique().tolist() == [255]
    palette = read(encode(Image.new("RGB", (4, 4), RED).quantize(4)))
    assert palette[:, 0, 0].tolist() == list(RED)


def test_16_bit_grey_keeps_its_values_and_is_rounded_to_8(encode: Encode) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    wide = read(encode(values))
    assert wide.flatten().tolist() == values[0].tolist()
    assert set_depth(wide, torch.uint8).flatten().tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize(
    ("background", "expected"), [((255, 255, 255), [255, 127, 127]), ((0, 0, 255), [127, 0, 127])]
)
def test_transparency_is_composited(
    encode: Encode, background: tuple[int, int, int], expected: list[int]
) -> None:
    half = read(encode(Image.new("RGBA", (3, 3), (*RED, 128))), background=background)
    assert (half[:, 1, 1].int() - torch.tensor(expected)).abs().max() <= 1
    clear = read(encode(Image.new("RGBA", (3, 3), (*RED, 0))), background=background)
    assert clear[:, 1, 1].tolist() == list(background)


def test_transparent_grey_stays_grey_over_grey_only(encode: Encode) -> None:
    content = encode(Image.new("LA", (3, 3), (10, 0)))
    assert read(content).tolist() == [[[255] * 3] * 3]
    assert read(content, background=BLUE)[:, 0, 0].tolist() == list(BLUE)


def test_transparent_colour_of_a_palette(encode: Encode) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    out = read(encode(image, transparency=0), background=(1, 2, 3))
    assert out[:, 0, 0].tolist() == [1, 2, 3]
    assert out[:, 0, 1].tolist() == list(BLUE)


def test_exif_orientation(encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = np.zeros((2, 4), np.uint8)
    image[1, 0] = 200  # bottom left comes to the top left
    out = read(encode(image, exif=exif))
    assert out.shape == (1, 4, 2)
    assert out[0, 0, 0] == 200


def test_bombs_are_refused_unread(encode: Encode, bomb_png: bytes) -> None:
    with pytest.raises(UndecodableImage, match=r"^picture: refused as a decompression bomb"):
        read(bomb_png)
    with pytest.raises(UndecodableImage, match=r"max_pixels = 99: refused as a decompression bomb"):
        read(encode(noise(10, 10)), max_pixels=99)
    assert read(encode(noise(10, 10)), max_pixels=100).shape == (1, 10, 10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncation_never_gives_other_pixels(encode: Encode, kind: str) -> None:
    whole = encode(noise(24, 24, 3), kind)
    expected = read(whole)
    with pytest.raises(UndecodableImage, match=r"^picture: ."):
        read(whole[: len(whole) // 2])
    told = 0
    for length in range(len(whole)):
        try:
            # What is cut may be a checksum after the last pixel: then the image is whole.
            assert torch.equal(read(whole[:length]), expected)
        except UndecodableImage:
            told += 1
    assert told >= len(whole) - 24


def test_other_formats_are_not_opened(encode: Encode) -> None:
    with pytest.raises(UndecodableImage, match="cannot identify"):
        read(encode(noise(4, 4), "TGA"))


def test_system_errors_are_not_taken_for_damage() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as caught:
        decode(Broken(b"x"), "picture", LoadOptions())
    assert not isinstance(caught.value, DataError)


def test_luma_is_pillows(encode: Encode) -> None:
    image = noise(32, 32, 3)
    expected = np.asarray(Image.fromarray(image).convert("L"))
    ours = set_channels(torch.from_numpy(image).permute(2, 0, 1)[None], 1)
    assert torch.equal(ours[0, 0], torch.from_numpy(expected.copy()))


def test_channels() -> None:
    grey = torch.from_numpy(noise(2, 1, 3, 3))
    assert torch.equal(set_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert torch.equal(set_channels(set_channels(grey, 3), 1), grey)
    assert set_channels(grey, None) is grey
    with pytest.raises(DataError, match="channels=3 was asked for, but the images have 2"):
        set_channels(torch.zeros(1, 2, 3, 3, dtype=torch.uint8), 3)


@pytest.mark.parametrize(("height", "width", "size"), [(50, 50, 32), (20, 20, 64), (100, 40, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resampling_is_pillows_antialiased_bicubic(
    height: int, width: int, size: int, channels: int
) -> None:
    image = noise(height, width, channels)
    ours = fit(torch.from_numpy(image).permute(2, 0, 1)[None], size, "squash", (0, 0, 0))
    pillow = Image.fromarray(image.squeeze(2) if channels == 1 else image)
    expected = np.asarray(pillow.resize((size, size), Image.Resampling.BICUBIC))
    found = ours[0].permute(1, 2, 0).numpy().reshape(expected.shape)
    # Both work in fixed point, with other roundings.
    assert np.abs(found.astype(int) - expected).max() <= 1


def stripes(height: int, width: int) -> torch.Tensor:
    """White, with a red half at the left (wide images) or at the top (tall ones)."""
    image = torch.full((1, 3, height, width), 255, dtype=torch.uint8)
    part = image[..., : width // 2] if width > height else image[..., : height // 2, :]
    part[:] = torch.tensor(RED, dtype=torch.uint8).view(1, 3, 1, 1)
    return image


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (1, 500), (500, 1), (7, 7), (31, 32)])
@pytest.mark.parametrize("mode", ["center-crop", "squash", "pad"])
def test_every_aspect_gives_the_size(shape: tuple[int, int], mode: Resize) -> None:
    assert fit(stripes(*shape), 16, mode, (0, 0, 0)).shape == (1, 3, 16, 16)


def test_center_crop_keeps_the_middle() -> None:
    image = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    image[..., 2:6] = torch.arange(1, 17, dtype=torch.uint8).view(4, 4)
    assert torch.equal(fit(image, 4, "center-crop", (0, 0, 0)), image[..., 2:6])


def test_pad_keeps_everything_on_the_background() -> None:
    wide = fit(stripes(16, 64), 16, "pad", (10, 20, 30))[0]
    assert wide[:, 0, 0].tolist() == wide[:, 15, 15].tolist() == [10, 20, 30]
    assert wide[:, 8, 0].tolist() == list(RED)
    assert wide[:, 8, 15].tolist() == [255, 255, 255]
    rows = (wide[0] != 10).any(1).nonzero().flatten().tolist()
    assert rows == [6, 7, 8, 9]
    grey = fit(torch.zeros(1, 1, 2, 8, dtype=torch.uint8), 8, "pad", (10, 20, 30))
    assert int(grey[0, 0, 0, 0]) == 18  # the luma of (10, 20, 30)


def test_same_size_is_untouched() -> None:
    image = torch.from_numpy(noise(3, 3, 28, 28))
    for mode in ("center-crop", "squash", "pad"):
        assert torch.equal(fit(image, 28, mode, (0, 0, 0)), image)  # type: ignore[arg-type]


def test_conform_works_in_chunks() -> None:
    images = torch.from_numpy(noise(2500, 1, 4, 4))
    out = conform(images, LoadOptions(image_size=8, channels=3))
    assert out.shape == (2500, 3, 8, 8)
    assert torch.equal(out[2499:], conform(images[2499:], LoadOptions(image_size=8, channels=3)))


def files(*contents: bytes) -> list[ImageFile]:
    return [
        ImageFile(f"{i}.png", lambda content=content: io.BytesIO(content))  # type: ignore[misc]
        for i, content in enumerate(contents)
    ]


def test_decode_all_skips_with_a_count(encode: Encode, truncated_png: bytes) -> None:
    good = encode(noise(32, 32))
    with pytest.warns(UserWarning, match=r"here: skipped 2 of 4 .* the first: 1\.png: "):
        images, kept, _ = decode_all(files(good, truncated_png, b"", good), LoadOptions(), "here")
    assert kept == [0, 3]
    assert images.shape == (2, 1, 32, 32)


def test_decode_all_strict(encode: Encode, truncated_png: bytes) -> None:
    with pytest.raises(UndecodableImage, match=r"1\.png: "):
        decode_all(files(encode(noise(3, 3)), truncated_png), LoadOptions(strict=True), "here")


def test_decode_all_with_nothing_left(truncated_png: bytes) -> None:
    with pytest.raises(DataError, match=r"here: none of 2 images could be decoded: 0\.png: "):
        decode_all(files(truncated_png, b"no image"), LoadOptions(), "here")


def test_decode_all_sizes(encode: Encode) -> None:
    two = files(encode(noise(4, 6)), encode(noise(6, 4)))
    with pytest.raises(DataError, match=r"0\.png is 6x4, 1\.png is 4x6.*pass image_size"):
        decode_all(two, LoadOptions(), "here")
    assert decode_all(two, LoadOptions(image_size=5), "here")[0].shape == (2, 1, 5, 5)


def test_decode_all_mixes_grey_and_colour(encode: Encode) -> None:
    grey, colour = noise(4, 4), noise(4, 4, 3)
    images, _, _ = decode_all(files(encode(grey), encode(colour)), LoadOptions(), "here")
    assert images.shape == (2, 3, 4, 4)
    assert torch.equal(images[0], torch.from_numpy(grey).expand(3, 4, 4))
    images, _, _ = decode_all(files(encode(colour)), LoadOptions(channels=1), "here")
    assert images.shape == (1, 1, 4, 4)


def test_no_bomb_warning_below_our_limit(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _, _ = decode_all(files(encode(noise(5, 5))), LoadOptions(), "here")
    assert images.shape == (1, 1, 5, 5)


@pytest.mark.parametrize("mode", ["center-crop", "squash", "pad"])
@pytest.mark.parametrize(("shape", "size"), [((16, 64), (6, 10)), ((64, 16), (6, 10))])
def test_other_aspects_than_squares(
    mode: Resize, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    image = torch.full((1, 3, *shape), 200, dtype=torch.uint8)
    made = fit(image, size, mode, (0, 0, 0))
    assert made.shape == (1, 3, *size)
    share = 1.0 if mode != "pad" else {16: 10 * 2, 64: 2 * 6}[shape[0]] / 60  # 10x2.5, 1.5x6
    assert abs(float((made == 200).float().mean()) - share) < 1e-6
    whole = torch.arange(4, dtype=torch.uint8).view(1, 1, 1, 4).expand(1, 1, 2, 4)
    assert fit(whole, (2, 2), "center-crop", (0, 0, 0))[0, 0, 0].tolist() == [1, 2]
    assert fit(whole, (1, 4), "center-crop", (0, 0, 0)).shape == (1, 1, 1, 4)
