"""Streams: what they read, and that their loader gives the very batches of a resident one."""

from __future__ import annotations

import pickle
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgan.data import (
    DataError,
    ImageStream,
    ResidentLoader,
    StreamLoader,
    load,
    make_loader,
    open_images,
    stream,
)
from fastgan.data import loading as module

Png = Callable[..., bytes]


@pytest.fixture
def folder(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """30 images in two classes, of two sizes, every third grey."""
    rng = np.random.default_rng(0)
    for i in range(30):
        shape = (9 + i % 2, 12) if i % 3 == 0 else (9 + i % 2, 12, 3)
        path = tmp_path / "set" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(rng.integers(0, 256, shape, dtype=np.uint8)))
    return tmp_path / "set"


OPTIONS: dict[str, Any] = {"image_size": 8, "channels": 3}


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("of", [lambda folder: folder, zipped], ids=["folder", "zip"])
def test_batches_are_those_of_a_resident_set(folder: Path, of: Callable[[Path], Path]) -> None:
    source = of(folder)
    whole, opened = load(source, **OPTIONS), stream(source, workers=3, **OPTIONS)
    assert opened.shape == whole.shape
    assert opened.classes == whole.classes == ("a", "b")
    assert torch.equal(opened.some(7), whole.some(7))
    assert whole.some(99).shape == whole.shape
    resident = make_loader(whole, 4, 5, "cpu", flip=True)
    streamed = make_loader(opened, 4, 5, "cpu", flip=True)
    assert isinstance(resident, ResidentLoader)
    assert isinstance(streamed, StreamLoader)
    for step in [*range(20), 3, 50, 51, 0]:  # over epochs, and as a resume or a rollback would
        for own, other in zip(streamed.batch(step), resident.batch(step), strict=True):
            assert torch.equal(own, other)
        images, _ = streamed.batch(step)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_ranks_share_the_batch_of_one_process(folder: Path) -> None:
    opened = stream(folder, **OPTIONS)
    single = StreamLoader(opened, 6, 1, "cpu", True)
    ranks = [StreamLoader(opened, 2, 1, "cpu", True, rank, 3) for rank in range(3)]
    for step in range(7):
        whole = torch.cat([loader.batch(step)[0] for loader in ranks])
        assert torch.equal(whole, single.batch(step)[0])


def test_an_array_of_many_channels_is_mapped(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 7), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    opened = stream(tmp_path / "a.npy", layout="NCHW", limit=10)
    whole = load(tmp_path / "a.npy", layout="NCHW", limit=10)
    assert opened.shape == (10, 6, 5, 7)
    for step in range(5):
        own, other = (make_loader(s, 4, 0, "cpu").batch(step)[0] for s in (opened, whole))
        assert torch.equal(own, other)
    array[0, 0, 0, 0] ^= 1
    np.save(tmp_path / "a.npy", array)
    assert stream(tmp_path / "a.npy", layout="NCHW", limit=10).identity != opened.identity


@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [("<f4", (-1, 1)), (">f8", (0, 1)), ("<f2", (0, 255)), (">u2", (0, 65535))],
)
@pytest.mark.parametrize("resize", ["center-crop", "pad"])
def test_an_array_keeps_its_depth_in_memory_and_mapped(
    tmp_path: Path, dtype: str, value_range: Any, resize: Any
) -> None:
    low, high = value_range
    array = np.linspace(low, high, 10 * 13 * 6 * 8).reshape(10, 13, 6, 8).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    as_is = load(tmp_path / "a.npy", layout="NCHW")
    kept = np.float32 if dtype == ">f8" else array.dtype.newbyteorder("=")
    assert np.array_equal(as_is.images.numpy(), array.astype(kept))
    # With so many channels the layout can be told.
    options = {"channels": 13, "image_size": (6, 12), "resize": resize, "limit": 5}
    mapped, held = (make(tmp_path / "a.npy", **options) for make in (stream, load))
    assert mapped.shape == held.shape == (5, 13, 6, 12)
    assert mapped.value_range == held.value_range == as_is.value_range == value_range
    assert mapped.dtype == held.dtype == as_is.dtype
    for opened in (mapped, pickle.loads(pickle.dumps(mapped))):
        batches = [make_loader(s, 4, 0, "cpu").batch(0)[0] for s in (opened, held)]
        assert torch.equal(*batches)
        assert batches[0].abs().max() <= 1
    if resize == "pad":
        assert held.images[0, 0, :, 0].tolist() == [high] * 6
    travels = pickle.dumps(mapped)
    np.save(tmp_path / "b.npy", array.astype("u1"))
    (tmp_path / "b.npy").replace(tmp_path / "a.npy")  # what is mapped stays
    with pytest.raises(DataError, match=r"has changed: .*uint8, was"):
        pickle.loads(travels)


def test_what_an_array_cannot_be_is_said_before_it_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.full((4, 5, 6, 3), 300.0))
    with pytest.raises(DataError, match=r"a\.npy: images of dtype float64 .*got 300 to 300: scale"):
        stream(path)
    np.save(path, np.zeros((4, 13, 5, 6), np.float32))
    with pytest.raises(DataError, match=r"a\.npy: the layout .* cannot be told"):
        stream(path)
    with pytest.raises(DataError, match="channels=3 was asked for, but the images have 13"):
        stream(path, channels=3, layout="NCHW")


def counting(count: int = 12, delay: float = 0.0, fails_at: int = -1) -> tuple[ImageStream, list]:
    seen: list[tuple[int, str]] = []

    def read(index: int) -> torch.Tensor:
        time.sleep(delay)
        if index == fails_at:
            raise OSError(5, "Input/output error", "disk")
        seen.append((index, threading.current_thread().name))
        return torch.full((1, 2, 2), index, dtype=torch.uint8)

    return ImageStream(read, (count, 1, 2, 2), None, None, "made", "0" * 64, workers=2), seen


def test_batches_are_read_ahead_by_threads() -> None:
    opened, seen = counting()
    loader = StreamLoader(opened, 4, 0, "cpu", ahead=2)
    loader.batch(0)
    until = time.monotonic() + 10
    while len(seen) < 8 and time.monotonic() < until:
        time.sleep(0.002)
    assert len(seen) == 8  # steps 0 and 1, no more
    assert all(name.startswith("fastgan-data") for _, name in seen)
    loader.batch(1)
    loader.batch(2)
    # Threads note in any order: the three steps of an epoch, each image once, and of the next epoch
    # no more than was read ahead.
    times = Counter(i for i, _ in seen)
    assert times.keys() == set(range(12))
    assert max(times.values()) <= 2
    assert times.total() <= 12 + 4 * 2


def test_reading_goes_on_while_the_step_runs() -> None:
    opened, seen = counting(delay=0.002)
    loader = StreamLoader(opened, 4, 0, "cpu")
    loader.batch(0)
    time.sleep(0.2)  # the step
    assert len(seen) >= 12
    made = loader._read[1]
    assert made.done()


def test_threads_end_with_the_loader() -> None:
    opened, _ = counting()
    loader = StreamLoader(opened, 4, 0, "cpu")
    loader.batch(0)
    pool = loader._pool
    del loader
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)


def test_a_failing_disk_is_told_where_the_batch_is_asked_for() -> None:
    opened, _ = counting(fails_at=3)
    loader = StreamLoader(opened, 4, 0, "cpu")
    bad = next(s for s in range(3) if 3 in loader.order.draw(0)[0][s * 4 : s * 4 + 4])
    for step in range(bad):
        loader.batch(step)
    with pytest.raises(OSError, match="Input/output error"):
        loader.batch(bad)


def test_damaged_files_are_replaced_by_the_next(folder: Path, truncated_png: bytes) -> None:
    names = sorted(folder.rglob("*.png"))
    names[4].write_bytes(truncated_png)
    names[29].write_bytes(truncated_png)
    opened = stream(folder, **OPTIONS)
    with pytest.warns(UserWarning, match=r"a/08\.png.*: skipped"):
        assert torch.equal(opened.read(4), opened.read(5))
    assert opened.skipped == 1
    with pytest.warns(UserWarning, match=r"b/29\.png"):
        assert torch.equal(opened.read(29), opened.read(0))
    with pytest.raises(DataError, match=r"08\.png"):
        stream(folder, strict=True, **OPTIONS).read(4)


def test_all_damaged_and_unlike_images(tmp_path: Path, png: Png, truncated_png: bytes) -> None:
    (tmp_path / "1.png").write_bytes(truncated_png)
    with pytest.warns(match="skipped"), pytest.raises(DataError, match="none of 1 images could be"):
        stream(tmp_path)
    (tmp_path / "1.png").write_bytes(png(3))
    (tmp_path / "2.png").write_bytes(png((1, 2, 3)))
    (tmp_path / "3.png").write_bytes(png(3, width=9))
    opened = stream(tmp_path)
    assert opened.shape == (3, 1, 8, 8)
    with pytest.raises(DataError, match=r"2.png is 8x8 with 3 channels where the first .* 8x8 wi"):
        opened.read(1)
    with pytest.raises(DataError, match=r"3.png is 9x8 .* pass image_size and channels"):
        opened.read(2)


def test_fingerprint_follows_names_sizes_options_and_labels(folder: Path) -> None:
    def identity(**options: Any) -> str:
        return stream(folder, **{**OPTIONS, **options}).fingerprint()

    first = identity()
    assert identity() == identity(workers=3) == first
    assert len({first, identity(limit=29), identity(resize="squash"), identity(channels=1)}) == 4
    (folder / "a" / "00.png").rename(folder / "b" / "00.png")
    assert identity() != first


def test_what_is_streamed_and_what_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(loading: Any, source: Any = folder) -> str:
        return type(open_images(source, loading=loading, **OPTIONS)).__name__

    assert kind("auto") == kind("resident") == "ImageDataset"
    assert kind("stream") == "ImageStream"
    monkeypatch.setattr(module, "resident_bytes", lambda device: 30 * 8 * 8 * 3 - 1)
    assert kind("auto") == "ImageStream"
    assert kind("resident") == "ImageDataset"
    array = folder.parent / "a.npy"
    for dtype in (np.uint8, np.float32):
        np.save(array, np.zeros((40, 9, 9, 3), dtype))
        assert kind("auto", array) == "ImageStream"
    assert kind("auto", "mnist5k") == "ImageDataset"
    with pytest.raises(ValueError, match="source 'mnist5k' cannot be streamed"):
        kind("stream", "mnist5k")
    with pytest.raises(ValueError, match="loading must be one of"):
        kind("lazy")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        kind("stream", "nowhere")
    with pytest.raises(TypeError, match="workers must be an int"):
        StreamLoader(replace(counting()[0], workers=1.5), 2, 0, "cpu")  # type: ignore[arg-type]
