"""Sets as StyleGAN's dataset_tool writes them: labels in dataset.json, images in chunk folders."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastgan.data import DataError, load, make_loader, stream
from fastgan.recipes import train

LABELS = [3, 0, 1, 1, 3, 0]
NAMES = [f"0000{i // 4}/img0000000{i}.png" for i in range(6)]

REST = [[name, 1] for name in NAMES[1:]]


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (28, 28), value).save(out, "PNG")
    return out.getvalue()


def contents(table: Any) -> dict[str, bytes]:
    files = {name: png(i) for i, name in enumerate(NAMES)}
    return files | {"dataset.json": json.dumps(table).encode()}


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(content)
    return root / "set"


def archive(root: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(root / "set.zip", "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
    return root / "set.zip"


def wrapped(root: Path, files: dict[str, bytes]) -> Path:
    return archive(root, {f"all/of/{name}": content for name, content in files.items()})


def shard(root: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(root / "set.tar", "w") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return root / "set.tar"


Put = Callable[[Path, dict[str, bytes]], Path]
SOURCES = [folder, archive, wrapped, shard]


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("put", SOURCES)
def test_labels_are_read(tmp_path: Path, put: Put) -> None:
    rows = [[name, label] for name, label in zip(NAMES, LABELS, strict=True)][::-1]
    source = put(tmp_path, contents({"labels": [*rows, ["00009/gone.png", 7]]}))
    for found in (load(source), stream(source)):
        assert found.labels is not None
        assert found.labels.tolist() == LABELS
        assert found.classes is None
        images, labels = make_loader(found, 6, 0, "cpu").batch(0)
        assert labels is not None
        values = images[:, 0, 0, 0].add(1).mul(127.5).round().to(torch.int64)
        assert labels.equal(torch.tensor(LABELS)[values])
    assert load(source, limit=3).labels.tolist() == LABELS[::2]  # type: ignore[union-attr]
    put(tmp_path, contents({"labels": [[name, 0] for name in NAMES]}))
    assert stream(source).fingerprint() != found.fingerprint()


@pytest.mark.parametrize("put", SOURCES)
@pytest.mark.parametrize("count", [3, 6])
def test_without_labels_chunk_folders_are_no_classes(tmp_path: Path, put: Put, count: int) -> None:
    files = contents({"labels": None})
    for name in NAMES[count:]:
        del files[name]
    source = put(tmp_path, files)
    for found in (load(source), stream(source)):
        assert len(found) == count
        assert found.labels is None
        assert found.classes is None


@pytest.mark.parametrize("put", SOURCES)
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"labels": [[name, 1] for name in NAMES[:-1]]}, rf"no label for '{NAMES[-1]}'"),
        ({"labels": []}, rf"no label for '{NAMES[0]}' and 5 more"),
        ({"labels": [*REST, [NAMES[0], -1]]}, rf"'{NAMES[0]}' .*from 0 to 2147483647, got -1"),
        ({"labels": [*REST, [NAMES[0], 1.0]]}, rf"'{NAMES[0]}' .*got 1.0"),
        ({"labels": [*REST, [NAMES[0], "cat"]]}, rf"'{NAMES[0]}' .*got 'cat'"),
        ({"labels": [*REST, [NAMES[0], True]]}, rf"'{NAMES[0]}' .*got True"),
        ({"labels": [*REST, [NAMES[0], None]]}, rf"'{NAMES[0]}' .*got None"),
        ({"labels": [*REST, [NAMES[0], [1.0]]]}, rf"'{NAMES[0]}' .*\[1.0"),
        ({"labels": [[NAMES[0], 1], [NAMES[0], 2]]}, rf"'{NAMES[0]}' has two labels, 1 and 2"),
        ({"labels": [[NAMES[0]]]}, r"expected pairs \[name, label\], got \['00000"),
        ({"labels": [NAMES[0]]}, r"expected pairs \[name, label\], got '00000"),
        ({"labels": [[[], 1]]}, r"expected pairs \[name, label\]"),
    ],
)
def test_bad_labels_are_errors_that_name_the_file(
    tmp_path: Path, put: Put, table: Any, message: str
) -> None:
    source = put(tmp_path, contents(table))
    for opened in (load, stream):
        with pytest.raises(DataError, match=rf"set.*dataset\.json.*{message}"):
            opened(source)


@pytest.mark.parametrize("put", SOURCES)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"labels": 1e}'])
def test_damaged(tmp_path: Path, put: Put, content: bytes) -> None:
    source = put(tmp_path, contents(None) | {"dataset.json": content})
    for opened in (load, stream):
        with pytest.raises(DataError, match=r"set.*dataset\.json.*no JSON"):
            opened(source)


@pytest.mark.parametrize("put", SOURCES)
def test_vectors_are_no_classes(tmp_path: Path, put: Put) -> None:
    source = put(tmp_path, contents({"labels": [[name, [0.5, 1.0]] for name in NAMES]}))
    for opened in (load, stream):
        with pytest.warns(UserWarning, match=r"dataset\.json.*vectors.*no labels"):
            assert opened(source).labels is None


@pytest.mark.parametrize("put", [folder, archive])
@pytest.mark.parametrize("table", [{"name": "mine"}, {"labels": {"0": "cat"}}, [1, 2], 5])
def test_of_another_tool_it_is_ignored_aloud(tmp_path: Path, put: Put, table: Any) -> None:
    source = put(tmp_path, contents(table))
    for opened in (load, stream):
        with pytest.warns(UserWarning, match=r"dataset\.json is not StyleGAN's .*: ignored"):
            assert opened(source).classes == ("00000", "00001")


@pytest.mark.parametrize("loading", ["resident", "stream"])
def test_conditional_training(tmp_path: Path, loading: Any) -> None:
    rows = [[name, label] for name, label in zip(NAMES, LABELS, strict=True)]
    source = folder(tmp_path, contents({"labels": rows}))
    settings: Any = {"steps": 1, "batch_size": 2, "device": "cpu", "loading": loading}
    train("cdcgan", data=str(source), out=tmp_path / "run", **settings)
    folder(tmp_path, contents({"labels": None}))
    with pytest.raises(ValueError, match="conditional needs labels"):
        train("cdcgan", data=str(source), out=tmp_path / "other", **settings)
