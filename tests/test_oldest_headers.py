"""The check of the oldest torch's headers: what it compiles, and that it can fail."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from tools import oldest_headers

ROOT = Path(__file__).resolve().parent.parent


def test_every_source_that_includes_torch_is_checked(monkeypatch):
    monkeypatch.setattr(oldest_headers.shutil, "which", lambda name: f"/usr/bin/{name}")
    include = Path("include")
    jobs = [*oldest_headers.cpu_commands(include), *oldest_headers.cuda_commands(include)]
    checked = {Path(word) for job in jobs for word in job if word.endswith((".cpp", ".cu"))}
    sources = [p for p in (ROOT / "csrc").rglob("*.c*") if p.suffix in (".cpp", ".cu")]
    with_torch = {p for p in sources if "#include <torch/" in p.read_text(encoding="utf-8")}
    # Built for the torch that is there, and done without elsewhere.
    assert {path.parent for path in with_torch - checked} == {ROOT / "csrc" / "eager"}
    assert all("-DTORCH_TARGET_VERSION=0x020b000000000000" in job for job in jobs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_what_the_headers_lack_is_told(tmp_path):
    source = tmp_path / "a.cpp"
    for text, told in (("int a;", ""), ("#include <torch/newer.h>", "torch/newer.h")):
        source.write_text(text)
        command = ["g++", "-fsyntax-only", *oldest_headers.flags(tmp_path), str(source)]
        found = oldest_headers.compile_one(command)
        assert told in found
        assert bool(found) == bool(told)


def test_headers_are_fetched_once_and_whole_or_not_at_all(tmp_path, monkeypatch):
    fetched = []

    def run(command: list[str], check: bool) -> None:
        fetched.append(command[-1])
        wheel = Path(command[command.index("-d") + 1]) / "torch-9.9.0-x.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("torch/include/torch/a.h", "")
            archive.writestr("torch/lib/large.so", "")
        if len(fetched) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(oldest_headers, "ROOT", tmp_path)
    monkeypatch.setattr(oldest_headers.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        oldest_headers.headers("9.9.0")
    for _ in range(2):
        include = oldest_headers.headers("9.9.0")
    assert fetched == ["torch==9.9.0"] * 2
    assert (include / "torch" / "a.h").exists()
    assert not list((tmp_path / "build").rglob("*.so"))
    assert len(list((tmp_path / "build").iterdir())) == 1
