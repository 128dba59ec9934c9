"""Seven images in batches of three: two whole batches an epoch, and no image twice in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.data import load, make_loader, stream


@pytest.mark.parametrize("opened", [load, stream])
def test_batches_are_whole(tmp_path: Path, opened: Any) -> None:
    for i in range(7):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    loader = make_loader(opened(tmp_path), 3, 0, "cpu")
    assert loader.order.steps_per_epoch == 2
    left_out = set()
    for epoch in range(12):
        batches = [loader.batch(2 * epoch + i)[0] for i in range(2)]
        assert all(batch.shape == (3, 1, 4, 4) for batch in batches)
        seen = {round(float((x[0, 0, 0] + 1) * 127.5)) for batch in batches for x in batch}
        assert len(seen) == 6
        left_out |= set(range(7)) - seen
    assert len(left_out) > 3  # another one each time
