"""A set smaller than a batch is refused before the first step, and the message has both numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.data import load, make_loader, stream


@pytest.mark.parametrize("opened", [load, stream])
def test_refused(tmp_path: Path, opened: Any) -> None:
    for i in range(3):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    images = opened(tmp_path)
    with pytest.raises(ValueError, match=r"batch_size 4 is larger than the data: .* has 3 images"):
        make_loader(images, 4, 0, "cpu")
    with pytest.raises(ValueError, match=r"batch_size 2 times world_size 2 is larger .* 3 images"):
        make_loader(images, 2, 0, "cpu", world_size=2)
    assert len(make_loader(images, 3, 0, "cpu").batch(5)[0]) == 3
