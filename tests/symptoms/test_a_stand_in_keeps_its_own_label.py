"""The image that stands in for a damaged file comes with its own label."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.data import load, make_loader, stream


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), value).save(out, "PNG")
    return out.getvalue()


def contents() -> dict[tuple[int, int], bytes]:
    """Four dark images of class 0, the last of them damaged, then four bright ones of class 1."""
    made = {(label, i): png(255 * label) for label in (0, 1) for i in range(4)}
    return made | {(0, 3): b"broken"}


def folder(root: Path) -> Path:
    for (label, i), content in contents().items():
        path = root / "set" / ("0dark", "1light")[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root / "set"


def shards(root: Path) -> Path:
    """The classes lie in two shards, so that the stand-in comes from another one."""
    for label in (0, 1):
        with tarfile.open(root / f"{label}.tar", "w") as shard:
            for i in range(4):
                for kind, content in (("png", contents()[label, i]), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{i}.{kind}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    return root


@pytest.mark.filterwarnings("ignore:.*broken|.*identify|.*skipped")
@pytest.mark.parametrize("of", [folder, shards])
def test_image_and_label_are_of_one_file(tmp_path: Path, of: Callable[[Path], Path]) -> None:
    source = of(tmp_path)
    for images in (stream(source), load(source)):
        loader = make_loader(images, 7, seed=0, device="cpu")
        for step in range(8):
            batch, labels = loader.batch(step)
            assert labels is not None
            assert torch.equal(batch[:, 0, 0, 0] > 0, labels == 1)


@pytest.mark.filterwarnings("ignore:.*broken|.*identify|.*skipped")
def test_ranks_and_a_resume_give_the_same_stand_ins(tmp_path: Path) -> None:
    source = folder(tmp_path)
    whole = make_loader(stream(source), 8, seed=3, device="cpu")
    ranks = [make_loader(stream(source), 4, 3, "cpu", rank=rank, world_size=2) for rank in (0, 1)]
    expected = [whole.batch(step) for step in range(4)]
    for step in (2, 3, 0, 1):  # as after a resume, each rank with what it alone has met
        parts = [loader.batch(step) for loader in ranks]
        for own, first, second in zip(expected[step], *parts, strict=True):
            assert torch.equal(torch.cat([first, second]), own)  # type: ignore[list-item, arg-type]
