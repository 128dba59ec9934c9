"""What a user hands to worker processes can be pickled, and reads there what it reads here."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fastgan.data import ImageStream, load, make_loader, stream


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), value).save(out, "PNG")
    return out.getvalue()


def folder(root: Path) -> Path:
    for i in range(6):
        path = root / "set" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return root / "set"


def archive(root: Path) -> Path:
    with zipfile.ZipFile(root / "set.zip", "w") as out:
        for i in range(6):
            out.writestr(f"{i % 2}/{i}.png", png(i))
    return root / "set.zip"


def shard(root: Path) -> Path:
    with tarfile.open(root / "set.tar", "w") as out:
        for i in range(6):
            for kind, content in (("png", png(i)), ("cls", b"%d" % (i % 2))):
                member = tarfile.TarInfo(f"{i}.{kind}")
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    return root / "set.tar"


def array(root: Path) -> Path:
    np.save(root / "set.npy", np.arange(6, dtype=np.uint8).repeat(64).reshape(6, 8, 8))
    return root / "set.npy"


KINDS = [folder, archive, shard, array]


class Items(Dataset[Any]):
    """A stream as DataLoader takes it."""

    def __init__(self, images: ImageStream) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images.read(index)


@pytest.mark.parametrize("of", KINDS)
def test_streams_and_loaders_are_pickled(tmp_path: Path, of: Callable[[Path], Path]) -> None:
    source = of(tmp_path)
    images = stream(source)
    copied = pickle.loads(pickle.dumps(images))
    assert copied.shape == images.shape
    assert copied.fingerprint() == images.fingerprint()
    assert torch.equal(copied.some(6), images.some(6))
    for data in (images, load(source)):
        loader = make_loader(data, 2, 0, "cpu", True)
        loader.batch(0)  # threads and what is read ahead stay here
        other = pickle.loads(pickle.dumps(loader))
        for step in (0, 5):
            for own, copy in zip(loader.batch(step), other.batch(step), strict=True):
                assert own is copy is None or torch.equal(own, copy)


def test_a_mapped_array_travels_by_its_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1000, 32, 32), np.uint8))
    assert len(pickle.dumps(stream(tmp_path / "a.npy"))) < 100_000


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_worker_processes_read_the_same(tmp_path: Path, method: str) -> None:
    # A zip: its one open file must not be shared by processes, each of which would move its place.
    images = stream(archive(tmp_path))
    workers = DataLoader(Items(images), 2, num_workers=2, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(workers)), images.some(6))
