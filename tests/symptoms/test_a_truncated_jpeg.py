"""A JPEG that is cut off is never half an image over grey: it is skipped or, strict, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgan.data import DataError, load, stream


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_skipped_or_refused(tmp_path: Path, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("1.jpg", "2.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 .*1\.jpg"):
        found = load(tmp_path)
    assert found.skipped == 1
    with pytest.warns(UserWarning, match=r"1\.jpg.*: skipped"):
        opened = stream(tmp_path)
    assert opened.some(2).equal(found.images.expand(2, -1, -1, -1))
    assert opened.damaged == {"1.jpg"}
    with pytest.raises(DataError, match=r"1\.jpg"):
        load(tmp_path, strict=True)
    with pytest.raises(DataError, match=r"1\.jpg"):
        stream(tmp_path, strict=True)
