from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgan.data import DataError, array
from fastgan.data.array import load_array, to_images, to_nchw
from fastgan.data.options import LoadOptions

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((5, 9, 8), "NHW"),
        ((1, 9, 8), "NHW"),
        ((9, 8, 3), "HWC"),
        ((9, 8, 1), "HWC"),
        ((2, 9, 8, 3), "NHWC"),
        ((2, 9, 8, 1), "NHWC"),
        ((2, 9, 8, 4), "NHWC"),
        ((2, 3, 9, 8), "NCHW"),
        ((7, 1, 9, 8), "NCHW"),
        ((7, 2, 9, 8), "NCHW"),
    ],
)
def test_layouts_that_can_be_told(shape: tuple[int, ...], layout: Any) -> None:
    image = noise(*shape)
    guessed, given = to_nchw(image), to_nchw(image, layout)
    assert np.array_equal(guessed, given)
    assert guessed.ndim == 4
    einsum = {"NHW": "nhw->nhw", "HWC": "hwc->chw", "NHWC": "nhwc->nchw", "NCHW": "nchw->nchw"}
    expected = np.einsum(einsum[layout], image)
    assert np.array_equal(guessed.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "shape", [(3, 9, 8), (2, 9, 3), (2, 3, 9, 3), (2, 1, 4, 1), (5, 9, 8, 7), (2, 2, 2)]
)
def test_layouts_that_cannot_be_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"cannot be told: pass layout='N"):
        to_nchw(noise(*shape))


def test_layout_given() -> None:
    image = noise(3, 9, 8)
    assert np.array_equal(to_nchw(image, "CHW"), image[None])
    assert np.array_equal(to_nchw(image, "NHW"), image[:, None])
    assert to_nchw(noise(2, 9, 8, 16), "NHWC").shape == (2, 16, 9, 8)
    with pytest.raises(DataError, match=r"layout='NCHW' does not fit.*\[3, 9, 8\]"):
        to_nchw(image, "NCHW")


@pytest.mark.parametrize("shape", [(), (9,), (9, 8), (1, 2, 9, 8, 3)])
def test_wrong_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected images in 3 or 4 dimensions"):
        to_nchw(np.zeros(shape, np.uint8))


def test_empty() -> None:
    with pytest.raises(DataError, match=r"\[0, 9, 8\] holds no image"):
        to_nchw(noise(0, 9, 8))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("low", [-1, 0])
def test_floats_of_both_unit_ranges_round_trip(dtype: str, low: int) -> None:
    levels = np.arange(256, dtype=np.float64).reshape(1, 1, 16, 16)
    scaled = levels / 255 if low == 0 else levels / 127.5 - 1
    assert np.array_equal(to_images(scaled.astype(dtype)).numpy(), levels)


def test_other_numbers() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for dtype in (np.int64, np.uint16, np.float32):
        assert np.array_equal(to_images(levels.astype(dtype)).numpy(), levels)
    assert to_images(np.array([[[[True, False]]]])).flatten().tolist() == [255, 0]
    assert to_images(np.full((1, 1, 1, 1), 99.6)).item() == 100


def test_more_images_than_a_chunk() -> None:
    values = RNG.random((2600, 1, 3, 3))
    values[2599] = -1.0
    out = to_images(values)
    assert np.array_equal(out.numpy(), np.rint(values.astype(np.float32) * 127.5 + 127.5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, np.nan], "NaN or infinite"),
        ([np.nan, 0.0], "NaN or infinite"),
        ([0.0, np.inf], "NaN or infinite"),
        ([-1.5, 1.0], r"must lie in \[0, 1\], \[-1, 1\] or \[0, 255\], got -1.5 to 1"),
        ([-0.5, 200.0], "must lie in"),
        ([0.0, 300.0], "got 0 to 300"),
    ],
)
def test_bad_floats(values: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_images(np.array(values).reshape(2, 1, 1, 1))


@pytest.mark.parametrize("where", [0, 1500, 2599])
def test_nan_in_any_chunk(where: int) -> None:
    values = np.zeros((2600, 1, 1, 1))
    values[where] = np.nan
    with pytest.raises(DataError, match="NaN"):
        to_images(values)


@pytest.mark.parametrize("values", [[-1, 5], [0, 256]])
def test_bad_integers(values: list[int]) -> None:
    with pytest.raises(DataError, match=r"dtype int64 must lie in 0\.\.255"):
        to_images(np.array(values).reshape(2, 1, 1, 1))


@pytest.mark.parametrize("dtype", ["complex64", "U3", "datetime64[s]"])
def test_bad_dtype(dtype: str) -> None:
    with pytest.raises(DataError, match="images must be numbers, got dtype"):
        to_images(np.zeros((1, 1, 2, 2), dtype))


def test_npy(tmp_path: Path, options: LoadOptions) -> None:
    images = noise(5, 9, 8, 3)
    np.save(tmp_path / "a.npy", images)
    dataset = load_array(tmp_path / "a.npy", options)
    assert np.array_equal(dataset.images.numpy(), images.transpose(0, 3, 1, 2))
    assert dataset.labels is None
    np.save(tmp_path / "f.npy", np.asfortranarray(images))
    assert torch.equal(load_array(tmp_path / "f.npy", options).images, dataset.images)


@pytest.mark.parametrize(
    ("image_key", "label_key"),
    [("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y")],
)
def test_npz(tmp_path: Path, options: LoadOptions, image_key: str, label_key: str) -> None:
    images, labels = noise(5, 9, 8), np.array([[3], [0], [1], [2], [3]])
    path = save(tmp_path / "a.npz", **{image_key: images, label_key: labels, "extra": [1]})
    dataset = load_array(path, options)
    assert np.array_equal(dataset.images[:, 0].numpy(), images)
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == [3, 0, 1, 2, 3]


def test_npz_splits_and_options(tmp_path: Path) -> None:
    train, test = noise(5, 9, 8), noise(6, 9, 8)
    path = save(tmp_path / "a.npz", x_train=train, y_train=[0] * 5, x_test=test, y_test=range(6))
    dataset = load_array(path, LoadOptions(split="test", limit=2, image_size=16, channels=3))
    assert dataset.images.shape == (2, 3, 16, 16)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 3]
    limited = load_array(path, LoadOptions(limit=2))
    assert np.array_equal(limited.images[:, 0].numpy(), train[[0, 2]])


def test_npz_with_a_single_array(tmp_path: Path, options: LoadOptions) -> None:
    assert len(load_array(save(tmp_path / "a.npz", faces=noise(5, 9, 8)), options)) == 5


def test_npz_without_images(tmp_path: Path, options: LoadOptions) -> None:
    path = save(tmp_path / "a.npz", a=noise(5, 9, 8), b=noise(5, 9, 8))
    with pytest.raises(DataError, match=r"expected one named images or x .*got a, b"):
        load_array(path, options)
    with pytest.raises(DataError, match=r"no array with test images"):
        load_array(save(tmp_path / "b.npz", images=noise(5, 9, 8)), LoadOptions(split="test"))
    np.save(tmp_path / "c.npy", noise(5, 9, 8))
    with pytest.raises(DataError, match="has no test split"):
        load_array(tmp_path / "c.npy", LoadOptions(split="test"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5), "labels must be integers, got dtype float64"),
        (np.zeros(4, int), r"labels must have shape \[5\].*\[4\]"),
        (np.eye(5, dtype=int), r"labels must have shape \[5\].*\[5, 5\]"),
        (np.full(5, -1), "labels must not be negative, got -1"),
    ],
)
def test_bad_labels(tmp_path: Path, options: LoadOptions, labels: Any, message: str) -> None:
    path = save(tmp_path / "a.npz", images=noise(5, 9, 8), labels=labels)
    with pytest.raises(DataError, match=message) as caught:
        load_array(path, options)
    assert str(path) in str(caught.value)


class Evil:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickles_are_refused_and_not_run(tmp_path: Path, options: LoadOptions, name: str) -> None:
    trap = tmp_path / "executed"
    content = np.array([Evil(trap)], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(DataError, match="pickled Python objects are never loaded"):
        load_array(tmp_path / name, options)
    assert not trap.exists()


@pytest.mark.parametrize("keep", [0, 5, 60, 200])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_truncated(tmp_path: Path, options: LoadOptions, name: str, keep: int) -> None:
    path = tmp_path / name
    (np.save if name.endswith("npy") else np.savez)(path, noise(5, 9, 8))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"NumPy file"):
        load_array(path, options)


def test_damaged_member(tmp_path: Path, options: LoadOptions) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=noise(5, 9, 8))
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged NumPy file.*CRC"):
        load_array(path, options)


def test_header_that_claims_too_much(tmp_path: Path, options: LoadOptions) -> None:
    path = tmp_path / "a.npy"
    np.save(path, noise(5, 9, 8))
    path.write_bytes(path.read_bytes().replace(b"(5, 9, 8), }      ", b"(5, 99999999, 888)}"))
    with pytest.raises(DataError, match="NumPy file"):
        load_array(path, options)


def test_bomb(tmp_path: Path, options: LoadOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.npz", images=np.zeros((50, 100, 100), np.uint8))
    monkeypatch.setattr(array, "MAX_UNPACKED_BYTES", 400_000)
    with pytest.raises(DataError, match=r"unpacks to \d+ bytes, more than 400000"):
        load_array(path, options)


def test_missing(tmp_path: Path, options: LoadOptions) -> None:
    with pytest.raises(FileNotFoundError):
        load_array(tmp_path / "a.npz", options)
    with zipfile.ZipFile(tmp_path / "b.npz", "w"):
        pass
    with pytest.raises(DataError, match="got none"):
        load_array(tmp_path / "b.npz", options)
