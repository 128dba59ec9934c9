"""`fastgan doctor`: what it finds wrong, and what it says of it."""

from __future__ import annotations

import os
import re
from importlib import import_module, metadata
from pathlib import Path, PurePosixPath

import pytest
import torch

import fastgan
from fastgan.cli import main
from fastgan.doctor import troubles
from fastgan.ops.core import native

ROOT = Path(__file__).resolve().parent.parent


def _found(check: str) -> list[str]:
    return [f"{what} | {fix}" for what, fix in getattr(troubles, check)()]


class _File(PurePosixPath):
    def locate(self) -> Path:
        return Path("/site") / self


class _Distribution:
    """What metadata find of a package: its files, and the folder that they lie in."""

    def __init__(self, folder: str | Path, *files: str) -> None:
        self.files = [_File(file) for file in files]
        self.locate_file = lambda path: Path(folder, path)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("built_here", [True, False])
def test_a_checkout_that_shadows_the_installed_package(monkeypatch, installed, built_here):
    file = "fastgan/__init__.py" if installed else "fastgan.pth"
    found = [_Distribution(ROOT, "fastgan/__init__.py")] * built_here
    found.append(_Distribution("/site", file))
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(found))
    told = _found("_shadowed")
    assert len(told) == installed
    if installed:
        here = Path(fastgan.__file__).resolve().parent
        assert f"the checkout {here} shadows the installed package in /site/fastgan" in told[0]


@pytest.mark.parametrize("built_here", [True, False])
def test_a_package_that_is_not_installed(monkeypatch, built_here):
    found = [_Distribution(ROOT, "fastgan/__init__.py")] * built_here
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(found))
    assert "fastgan is not installed" in _found("_shadowed")[0]


@pytest.mark.parametrize(
    ("reason", "compiler", "fix"),
    [
        ("it does not load", "no-such-compiler", "install a C++ compiler (no-such-compiler is"),
        (
            "it does not load",
            "sh",
            "install fastgan again from its sources: pip install --no",
        ),
        (native.LEFT_OUT, "no-such-compiler", "take the wheel for this platform"),
    ],
)
def test_an_extension_that_cannot_be_used(monkeypatch, reason, compiler, fix):
    monkeypatch.setattr(native, "load", lambda: reason)
    monkeypatch.setenv("CXX", compiler)
    (line,) = _found("_not_built")
    assert f"the C++ extension cannot be used: {reason}; CPUs run PyTorch's own layers, at" in line
    assert f" | {fix}" in line


def test_an_extension_of_another_torch(monkeypatch):
    monkeypatch.setattr(native, "build_record", lambda: {"torch": "1.0"})
    assert f"built for torch 1.0, this is {torch.__version__}" in _found("_another_torch")[0]


@pytest.mark.parametrize(
    ("cuda", "hidden", "message"),
    [
        (None, None, "torch is built without CUDA"),
        ("13.0", "-1", "CUDA_VISIBLE_DEVICES='-1' hides every GPU"),
        ("13.0", None, "sees no GPU with this driver: NVRM version: 470"),
    ],
)
def test_a_gpu_that_is_not_seen(monkeypatch, tmp_path, cuda, hidden, message):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: 470\nGCC version: 8\n")
    monkeypatch.setattr(troubles, "_DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    (line,) = _found("_gpu")
    assert message in line


def test_kernels_that_are_not_of_this_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(native, "why_no_cuda", lambda: "built for sm_80")
    assert "CUDA kernels cannot be used, Triton's are: built for sm_80" in _found("_gpu")[0]


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()  # whoever runs the tests: no folder can be made in a file
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = _found("_caches")
    assert any("set TRITON_CACHE_DIR to a folder" in line for line in found)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "new"))
    assert not any("TRITON_CACHE_DIR" in line for line in _found("_caches"))


def test_more_threads_than_processors(monkeypatch, tmp_path):
    limit = tmp_path / "cpu.max"
    limit.write_text("150000 100000\n")
    monkeypatch.setattr(troubles, "_CPU_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert "takes 8 threads where this process may use 1.5 processors" in _found("_threads")[0]
    assert "set OMP_NUM_THREADS=1" in _found("_threads")[0]
    limit.write_text("max 100000\n")
    assert not _found("_threads")


def test_the_report_ends_with_what_was_found(monkeypatch, capsys):
    monkeypatch.setattr(troubles, "_shadowed", lambda: [troubles.Trouble("bad", "mend it")])
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "trouble\n" in out
    assert "  bad\n    → mend it" in out


def test_a_block_to_paste_names_the_system_and_hides_the_home(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    monkeypatch.setenv("CXX", str(Path.home() / "compiler"))
    assert main(["doctor", "--report"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("```text\n")
    assert out.endswith("\n```\n")
    assert "OMP_NUM_THREADS 1" in out
    assert "hidden" not in out
    assert "~/compiler" in out


def test_every_extra_that_is_named_is_there():
    """Those of the report, which a user may want, and those that a message or a page tells of."""
    written = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\n", written, re.DOTALL)
    extras = {line.split(" = ")[0] for line in section[1].splitlines()}
    known = set(import_module("fastgan.doctor.report")._EXTRAS)
    assert known <= extras
    assert extras - known == {"bench", "docs", "test", "dev"}
    pages = [*(ROOT / "fastgan").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = [n for p in pages for n in re.findall(r"fastgan\[([a-z,]+)\]", p.read_text("utf-8"))]
    assert {name for names in named for name in names.split(",")} <= extras
