from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fastgan.data import load
from fastgan.data.embedded import MNIST5K
from fastgan.data.fetch import cache_root
from fastgan.data.idx import find_idx

TOOL = Path(__file__).parents[2] / "tools/make_mnist_subset.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_mnist_subset", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_content() -> None:
    dataset = load("mnist5k")
    assert dataset.images.shape == (5000, 1, 28, 28)
    assert dataset.labels is not None
    assert dataset.labels.bincount().tolist() == [500] * 10
    assert dataset.classes == tuple("0123456789")
    assert dataset.name == "mnist5k"
    # MNIST's training file begins 5 0 4 1 9 2 1 3 1 4; its first image has 166 lit pixels.
    assert dataset.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert int((dataset.images[0] > 0).sum()) == 166
    known = "6860461377ace48c4b6f006df64c33ba85fbf8bc3249027ab0c657a3de88cd07"
    assert dataset.fingerprint() == known


def test_options() -> None:
    dataset = load("mnist5k", image_size=32, channels=3, limit=100)
    assert dataset.images.shape == (100, 3, 32, 32)
    assert dataset.labels is not None
    assert dataset.labels.unique().numel() == 10
    with pytest.raises(ValueError, match="mnist5k has only the train split, got split='test'"):
        load("mnist5k", split="test")


def test_licence_lies_beside_it() -> None:
    text = MNIST5K.with_name("LICENSE.mnist").read_text()
    for needed in ("LeCun", "Cortes", "Burges", "CC BY-SA 3.0", "first 500 of each"):
        assert needed in text


def test_small_enough() -> None:
    assert MNIST5K.stat().st_size < 900_000


def test_first_of_each_class() -> None:
    labels = np.array([1, 0, 1, 0, 0, 1, 1], np.uint8)
    tool = load_tool()
    assert tool.first_of_each_class(labels, 2).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="class 0 has 3 labels, 4 are needed"):
        tool.first_of_each_class(labels, 4)


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parents[1])}
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_tool_refuses_other_data(tmp_path: Path) -> None:
    nothing = run_tool(str(tmp_path))
    assert nothing.returncode == 1
    assert "no train-images-idx3-ubyte" in nothing.stderr
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + b"x")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\x05")
    other = run_tool(str(tmp_path), "--out", str(tmp_path / "out.npz"))
    assert other.returncode == 1
    assert "not MNIST's training file" in other.stderr
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.skipif(
    find_idx(cache_root() / "mnist", "train") is None,
    reason="full MNIST is not in the cache (fastgan data fetch mnist)",
)
def test_tool_makes_the_committed_file(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert run_tool(str(cache_root() / "mnist"), "--out", str(out)).returncode == 0
    assert load(out).fingerprint() == load("mnist5k").fingerprint()


def test_it_is_what_the_full_set_begins_with() -> None:
    # Chosen in file order, so sorted labels never come in blocks: any prefix is near balance.
    labels = load("mnist5k").labels
    assert labels is not None
    assert torch.bincount(labels[:1000], minlength=10).min() > 50
