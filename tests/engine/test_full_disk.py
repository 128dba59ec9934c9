"""A disk that is full at any write of a run: an OSError, and a folder in which the run goes on."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgan.engine import find_checkpoint
from fastgan.engine.run_folder import RunFolder, read_run

from .conftest import all_tensors, tiny_trainer

SETTINGS = {"steps": 2, "checkpoint_every": 0, "log_every": 1, "sample_every": 0}


class Disk:
    """Counts the openings for writing, makings of folders and syncs below a folder; the n-th, and
    all after it, leave what they have made so far and find no room."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.writes, self.full_at = str(folder), 0, -1
        for owner, name in ((builtins, "open"), (io, "open")):
            monkeypatch.setattr(owner, name, self.watched_open(getattr(owner, name)))
        mkdir, fsync = os.mkdir, os.fsync
        monkeypatch.setattr(os, "mkdir", lambda *a, **k: (self.count(a[0]), mkdir(*a, **k))[1])
        monkeypatch.setattr(os, "fsync", lambda handle: (self.count(self.folder), fsync(handle))[1])

    def count(self, path: Any) -> None:
        if not str(path).startswith(self.folder):
            return
        self.writes += 1
        if 0 < self.full_at <= self.writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def watched_open(self, works: Callable[..., Any]) -> Callable[..., Any]:
        def watched(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            opened = works(file, mode, *more, **options)
            if set(mode) & set("wax+") and not isinstance(file, int):
                try:
                    self.count(file)
                except OSError:
                    opened.write(b"half" if "b" in mode else "half")
                    opened.close()
                    raise
            return opened

        return watched


def test_a_disk_that_is_full_at_any_write(tmp_path, recorder, monkeypatch):
    whole = tiny_trainer(**SETTINGS)
    whole.fit(tmp_path / "whole", reporter=recorder)
    expected = all_tensors(whole)
    disk = Disk(tmp_path / "run", monkeypatch)
    tiny_trainer(**SETTINGS).fit(tmp_path / "run0", reporter=recorder)
    writes = disk.writes
    assert writes > 10
    for full_at in range(1, writes + 1):
        out = tmp_path / f"run{full_at}"
        disk.writes, disk.full_at = 0, full_at
        with pytest.raises(OSError, match="No space left on device"):
            tiny_trainer(**SETTINGS).fit(out, reporter=recorder)
        disk.full_at = -1
        left = [p for p in out.rglob("*") if ".partial" in p.name]
        assert not left, f"write {full_at}"
        again = tiny_trainer(**SETTINGS)
        again.fit(out, resume=True, reporter=recorder)
        tensors = all_tensors(again)
        assert not [k for k, v in expected.items() if not torch.equal(v, tensors[k])], full_at
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("resume", [False, True])
def test_partials_that_a_killed_process_left_are_no_hindrance_and_are_cleared(tmp_path, resume):
    partials = [".run.json.partial", ".metrics.jsonl.partial", "samples/.step-00000001.png.partial"]
    for name in partials:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "checkpoints/.partial-step-00000001").mkdir(parents=True)
    RunFolder(tmp_path, resume=resume).close()
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name]


def test_a_run_whose_description_is_lost_is_still_a_run(tmp_path, recorder):
    out = tmp_path / "run"
    tiny_trainer(**SETTINGS).fit(out, reporter=recorder)
    (out / "run.json").unlink()
    with pytest.raises(FileExistsError, match="holds an unfinished run"):
        tiny_trainer(**SETTINGS).fit(out, reporter=recorder)
    assert find_checkpoint(out).step == 2
    tiny_trainer(**{**SETTINGS, "steps": 3}).fit(out, resume=True, reporter=recorder)
    assert (read_run(out) or {})["finished"]
