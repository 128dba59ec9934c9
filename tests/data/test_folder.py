from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fastgan.data import DataError, ImageDataset, load, stream
from fastgan.data import folder as module
from fastgan.data.folder import list_folder
from fastgan.data.listing import load_listing
from fastgan.data.options import LoadOptions

Png = Callable[..., bytes]


def put(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def load_folder(folder: Path, options: LoadOptions) -> ImageDataset:
    return load_listing(list_folder(folder), options)


def first_pixels(dataset: object) -> list[int]:
    return dataset.images[:, 0, 0, 0].tolist()  # type: ignore[attr-defined,no-any-return]


def test_flat_folder(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    put(tmp_path, {"b.PNG": png(2), "a.png": png(1), "notes.txt": b"x", ".hidden.png": b"x"})
    dataset = load_folder(tmp_path, options)
    assert first_pixels(dataset) == [1, 2]
    assert dataset.labels is None
    assert dataset.classes is None
    assert dataset.skipped == 0
    assert dataset.name == str(tmp_path)


def test_colour_that_becomes_grey_is_noted(tmp_path: Path, png: Png) -> None:
    put(tmp_path, {"a.png": png(2), "b.png": png((9, 8, 7))})
    grey = load_folder(tmp_path, LoadOptions(channels=1))
    assert grey.notes == (f"{tmp_path}: 1 of 2 images are in colour and become grey",)
    assert stream(tmp_path, channels=1).notes == ()  # its first image is grey
    for channels in (None, 3):
        assert load_folder(tmp_path, LoadOptions(channels=channels)).notes == ()
    (tmp_path / "a.png").write_bytes(png((9, 8, 7)))
    told = f"{tmp_path}: images in colour, such as a.png, become grey"
    assert stream(tmp_path, channels=1).notes == (told,)


def test_class_folders(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    put(
        tmp_path,
        {"dog/x.png": png(3), "cat/deep/er/y.png": png(1), "cat/z.png": png(2), ".git/q.png": b"x"},
    )
    (tmp_path / "empty").mkdir()
    dataset = load_folder(tmp_path, options)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels is not None
    assert first_pixels(dataset) == [1, 2, 3]
    assert dataset.labels.tolist() == [0, 0, 1]


def test_labels_stay_with_their_images_when_some_are_skipped(
    tmp_path: Path, png: Png, truncated_png: bytes, options: LoadOptions
) -> None:
    put(tmp_path, {"a/1.png": truncated_png, "a/2.png": png(5), "b/1.png": png(6)})
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 .*a/1\.png"):
        dataset = load_folder(tmp_path, options)
    assert dataset.skipped == 1
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"a/1\.png"):
        load_folder(tmp_path, LoadOptions(strict=True))


def test_mixed_depths_have_no_labels(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    put(tmp_path, {"a/1.png": png(5), "2.png": png(6)})
    with pytest.warns(UserWarning, match=r"1 of 2 images lie in no subfolder"):
        dataset = load_folder(tmp_path, options)
    assert dataset.labels is None
    assert len(dataset) == 2


def test_limit_spreads_over_classes(tmp_path: Path, png: Png) -> None:
    put(tmp_path, {f"{c}/{i}.png": png(10 * c + i) for c in range(3) for i in range(4)})
    dataset = load_folder(tmp_path, LoadOptions(limit=3))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 2]
    assert first_pixels(dataset) == [0, 10, 20]


def test_empty_folder(tmp_path: Path, options: LoadOptions) -> None:
    with pytest.raises(DataError, match=r"no image in this folder \(\.png, .*\)"):
        load_folder(tmp_path, options)


def test_links_are_followed_once(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    put(tmp_path / "store", {"1.png": png(7)})
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(folder)
    dataset = load_folder(folder, options)
    assert len(dataset) == 1
    assert dataset.classes == ("linked",)


def test_a_link_to_nothing_is_an_error_where_strict(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        list_folder(tmp_path, strict=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("what", ["a/1.png", "a"])
def test_unreadable(tmp_path: Path, png: Png, options: LoadOptions, what: str) -> None:
    put(tmp_path, {"a/1.png": png(1), "b/1.png": png(1)})
    (tmp_path / what).chmod(0)
    try:
        with pytest.raises(PermissionError, match="a"):
            load_folder(tmp_path, options)
    finally:
        (tmp_path / what).chmod(0o700)


def test_permission_error_is_no_damaged_image(
    tmp_path: Path, png: Png, options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As above, where the tests run as root.
    put(tmp_path, {"1.png": png(1), "2.png": png(1)})

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "open_regular", refuse)
    with pytest.raises(PermissionError, match=r"1\.png"):
        load_folder(tmp_path, options)


def test_a_folder_is_split_by_held_out(tmp_path: Path, png: Png) -> None:
    put(tmp_path, {f"{i}.png": png(i) for i in range(7)})
    train, test = (load(tmp_path, held_out=0.3, split=split) for split in ("train", "test"))
    assert first_pixels(train) == [0, 1, 2, 4, 5]
    assert first_pixels(test) == [3, 6]
    assert len(stream(tmp_path, held_out=0.3)) == 5
    with pytest.raises(
        DataError, match=r"of 7 images none is in the split test with held_out=0\.1"
    ):
        load(tmp_path, held_out=0.1, split="test")
    with pytest.raises(ValueError, match=r"held_out must lie in \[0, 1\), got 1"):
        load(tmp_path, held_out=1)
    with pytest.raises(ValueError, match="held_out is for a folder, a zip or shards"):
        load("mnist5k", held_out=0.3)


def test_bmp_and_gif_are_read_and_formats_that_are_not_are_named(tmp_path):
    for name in ("a.bmp", "b.gif", "c.PNG"):
        Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / name)
    put(tmp_path, {"phone/1.HEIC": b"x"})
    with pytest.raises(DataError, match=r"no image in this folder .*; left out .*: 1 \.heic"):
        load(tmp_path / "phone")
    (tmp_path / "2.heic").write_bytes(b"x")
    (tmp_path / "3.nef").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"not read: 2 \.heic, 1 \.nef; convert them") as told:
        assert load(tmp_path).images[:, :, 0, 0].tolist() == [[10, 20, 30]] * 3
    assert len(told) == 1
