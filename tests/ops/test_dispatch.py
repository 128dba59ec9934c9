"""Which backend runs, and what is said of those that cannot."""

from __future__ import annotations

import pytest
import torch

import fastgan
from fastgan.ops import _dispatch, _native, available, norm_act


def test_the_setting_holds_until_the_block_ends() -> None:
    with fastgan.backend("reference"):
        assert _dispatch.setting() == "reference"
        with fastgan.backend("auto"):
            assert _dispatch.setting() == "auto"
        assert _dispatch.setting() == "reference"
    assert _dispatch.setting() == "auto"


def test_the_setting_holds_without_a_block() -> None:
    fastgan.backend("reference")
    assert _dispatch.setting() == "reference"


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="'gpu' is not one of auto, reference, cpu"):
        fastgan.backend("gpu")
    assert _dispatch.setting() == "auto"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("cuda", "the tensors are on cpu"), ("triton", "TRITON_INTERPRET=1|not installed")],
)
def test_an_explicit_choice_never_falls_back(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with (
        fastgan.backend(name),
        pytest.raises(RuntimeError, match=f"backend '{name}' cannot run: .*({reason})"),
    ):
        norm_act(torch.randn(4, 3), None, None, training=True)


def test_without_the_library_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "load", lambda: "no C++ compiler")
    monkeypatch.setattr(_dispatch, "choices", {})
    x = torch.randn(4, 3)
    norm_act(x, None, None, training=True)
    chosen = ("reference", {"cpu": "no C++ compiler"})
    assert _dispatch.choices == {("cpu", torch.float32): chosen}
    assert available()["cpu"] == "no C++ compiler"
    with fastgan.backend("cpu"), pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        norm_act(x, None, None, training=True)


def test_automatic_choice_takes_the_library(native: None) -> None:
    assert _dispatch.resolve("auto", torch.ones(1)) == "cpu"
    assert _dispatch.choices["cpu", torch.float32] == ("cpu", {})


def test_available_names_every_backend() -> None:
    found = available()
    assert list(found) == ["reference", "cpu", "triton", "cuda"]
    assert found["reference"] is None
    assert all(reason is None or reason for reason in found.values())


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "_native.so").write_bytes(b"not a library")
    monkeypatch.setattr(_native, "_PACKAGE", tmp_path)
    assert "does not load" in _native.load.__wrapped__()
    assert "not installed" in _native.build_record.__wrapped__()["reason"]
