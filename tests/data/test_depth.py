"""16 bits stay 16 bits, from files to batches; and how large a set may be in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import DataError, ImageDataset, load, make_loader, stream
from fastgan.data.limits import device_memory, resident_bytes

VALUES = np.array([[0, 1, 255, 256], [40_000, 65_000, 65_534, 65_535]], np.uint16)


def save(folder: Path, name: str, values: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(values).save(folder / name)


@pytest.mark.parametrize("opened", [load, stream])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff"])
def test_16_bit_grey_keeps_every_value(tmp_path: Path, opened: Any, name: str) -> None:
    save(tmp_path, name, VALUES)
    found = opened(tmp_path)
    assert (found.dtype, found.value_range) == (torch.uint16, (0, 65535))
    assert found.some(1)[0, 0].tolist() == VALUES.tolist()
    images, _ = make_loader(found, 1, 0, "cpu").batch(0)
    torch.testing.assert_close(images[0, 0], torch.from_numpy(VALUES).float() / 32767.5 - 1)
    assert images.unique().numel() == 8


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_an_array_of_16_bits_keeps_them_where_it_needs_them(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", VALUES[None].astype(dtype))
    found = load(tmp_path / "a.npy", image_size=(2, 4), layout="NHW")
    assert (found.dtype, found.value_range) == (torch.uint16, (0, 65535))
    assert found.images[0, 0].tolist() == VALUES.tolist()
    np.save(tmp_path / "b.npy", np.array([[[0, 255, 7]] * 5], dtype))
    assert load(tmp_path / "b.npy", layout="NHW").dtype == torch.uint8


@pytest.mark.parametrize("opened", [load, stream])
def test_8_bit_images_among_them_have_the_same_range(tmp_path: Path, opened: Any) -> None:
    save(tmp_path, "a.png", VALUES)
    save(tmp_path, "b.png", np.array([[0, 1, 2, 255]] * 2, np.uint8))
    found = opened(tmp_path).some(2)
    assert found.dtype == torch.uint16
    assert found[1, 0, 0].tolist() == [0, 257, 514, 65535]


@pytest.mark.parametrize("resize", ["center-crop", "squash", "pad"])
def test_resizing_and_colour_keep_the_depth(tmp_path: Path, resize: Any) -> None:
    save(tmp_path, "a.png", np.full((8, 12), 40_001, np.uint16))
    found = load(tmp_path, image_size=(4, 4), channels=3, resize=resize)
    assert found.images[:, :, 1:3].int().unique().tolist() == [40_001]
    assert found.shape == (1, 3, 4, 4)
    if resize == "pad":
        assert found.images[0, 0, 3].tolist() == [65535] * 4
    assert load(tmp_path, image_size=(4, 4)).images[0].equal(found.images[0, :1]) or resize == "pad"


def test_tiff_of_8_bits_and_colour_is_an_image_like_any_other(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    save(tmp_path, "a.tif", pixels)
    assert load(tmp_path).images[0].permute(1, 2, 0).numpy().tolist() == pixels.tolist()


def test_pixels_of_32_bits_have_no_range(tmp_path: Path) -> None:
    save(tmp_path, "a.tif", np.full((2, 2), 0.5, np.float32))
    with pytest.raises(DataError, match=r"a\.tif: pixels of 32 bits.*as \.npy"):
        load(tmp_path, strict=True)


def test_bytes_of_16_bits() -> None:
    wide = ImageDataset(torch.tensor([[0, 128, 129, 65535]]).to(torch.uint16).view(1, 1, 2, 2))
    assert wide.as_bytes().images.flatten().tolist() == [0, 0, 1, 255]
    assert wide.as_bytes().value_range == (0, 255)
    assert wide.as_bytes().as_bytes().images.dtype == torch.uint8
    floats = ImageDataset(torch.tensor([-1.0, -0.5, 0.0, 1.0]).view(1, 1, 2, 2)).as_bytes()
    assert floats.images.flatten().tolist() == [0, 64, 128, 255]
    assert floats.value_range == (0, 255)
    with pytest.raises(ValueError, match=r"floats are needed, got torch\.float32 \[1, 1, 4\]"):
        ImageDataset(torch.zeros(1, 1, 4)).as_bytes()


def test_a_set_in_memory_takes_a_quarter_of_the_device_or_of_this_processs_share(
    monkeypatch,
) -> None:
    memory = {"cpu": 64 * 2**30, "cuda": 16 * 2**30}
    monkeypatch.setattr("fastgan.data.limits.device_memory", lambda device: memory[device.type])
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert resident_bytes(torch.device("cpu")) == 16 * 2**30
    assert resident_bytes(torch.device("cuda")) == 4 * 2**30
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert resident_bytes(torch.device("cuda")) == 2 * 2**30
    assert device_memory(torch.device("cpu")) > 2**28
