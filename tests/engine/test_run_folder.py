from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgan.engine.run_folder import RunFolder, newest_unfinished, next_free, read_run

from .conftest import all_tensors, tiny_trainer


def make_run(path: Path, **facts) -> Path:
    folder = RunFolder(path)
    folder.describe(facts)
    folder.close()
    return path


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    assert not folder.resumed
    folder.close()
    assert (tmp_path / "a" / "b").is_dir()


def test_an_unfinished_run_asks_for_resume_or_force(tmp_path):
    path = make_run(tmp_path / "run", finished=False)
    with pytest.raises(FileExistsError, match="unfinished run: resume continues it, force clears"):
        RunFolder(path)
    resumed = RunFolder(path, resume=True)
    assert resumed.resumed
    resumed.close()


def test_force_clears_the_run_and_nothing_else(tmp_path):
    path = make_run(tmp_path / "run", finished=True)
    (path / "samples").mkdir()
    (path / "samples" / "old.png").touch()
    (path / "my-notes.txt").write_text("keep")
    folder = RunFolder(path, force=True)
    folder.close()
    assert read_run(path) is None
    assert sorted(p.name for p in path.iterdir()) == [".lock", "my-notes.txt"]


def test_a_folder_of_other_things_is_never_used(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for force in (False, True):
        with pytest.raises(FileExistsError, match=r"holds no run: found thesis\.tex"):
            RunFolder(tmp_path, force=force)
    assert (tmp_path / "thesis.tex").exists()


def test_resume_and_force_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        RunFolder(tmp_path / "run", resume=True, force=True)


def test_two_processes_cannot_write_one_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from fastgan.engine.run_folder import RunFolder\n"
        "try: RunFolder(Path(sys.argv[1]), resume=True)\n"
        "except BlockingIOError as e: sys.exit(str(e))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process is training into this folder" in done.stderr
    folder.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(FileExistsError, match="run is a file"):
        RunFolder(tmp_path / "run")
    with pytest.raises(OSError, match="cannot make the out folder"):
        RunFolder(tmp_path / "run" / "inner")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "sealed").mkdir(mode=0o555)
    with pytest.raises(OSError, match="cannot make the out folder"):
        RunFolder(tmp_path / "sealed" / "run")
    with pytest.raises(OSError, match="cannot write into the out folder"):
        RunFolder(tmp_path / "sealed")


def test_a_folder_that_no_user_can_write_is_an_error():
    """Root too: the kernel's own file systems take no folders."""
    with pytest.raises(OSError, match="cannot make the out folder"):
        RunFolder(Path("/proc/fastgan-run"))


def test_parts_of_a_killed_save_are_removed(tmp_path):
    path = make_run(tmp_path / "run", finished=False)
    partial = path / "checkpoints" / ".partial-step-00000004"
    partial.mkdir(parents=True)
    (partial / "generator.safetensors").write_bytes(b"half")
    RunFolder(path, resume=True).close()
    assert not partial.exists()


def test_an_unreadable_description_is_an_error(tmp_path):
    path = make_run(tmp_path / "run", finished=False)
    (path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: not valid JSON"):
        RunFolder(path, resume=True)
    (path / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json: the file must be an object"):
        read_run(path)


def test_default_names_count_up_and_the_newest_unfinished_is_found(tmp_path):
    assert next_free(tmp_path, "digits") == tmp_path / "digits"
    assert newest_unfinished(tmp_path / "nowhere", "digits") is None
    make_run(tmp_path / "digits", finished=False)
    assert next_free(tmp_path, "digits") == tmp_path / "digits-2"
    make_run(tmp_path / "digits-2", finished=False)
    make_run(tmp_path / "digits-3", finished=True)
    make_run(tmp_path / "digits-large", finished=False)
    os.utime(tmp_path / "digits" / "run.json", (1, 1))
    assert newest_unfinished(tmp_path, "digits") == tmp_path / "digits-2"


def test_the_clock_decides_nothing(tmp_path, monkeypatch, recorder):
    """It may jump, and checkpoints may carry any time: the newest is that of the largest step."""
    hour = iter(range(10**9, 0, -3600))
    monkeypatch.setattr("time.time", lambda: float(next(hour)))
    whole = tiny_trainer(steps=6)
    whole.fit(tmp_path / "whole", reporter=recorder)
    tiny_trainer(steps=4).fit(tmp_path / "run", reporter=recorder)
    for i, path in enumerate(sorted((tmp_path / "run" / "checkpoints").iterdir())):
        os.utime(path, (10**9 - i, 10**9 - i))
    again = tiny_trainer(steps=6)
    again.fit(tmp_path / "run", resume=True, reporter=recorder)
    assert any("at step 4" in note for note in recorder.notes)
    expected = all_tensors(whole)
    assert not [k for k, v in all_tensors(again).items() if not torch.equal(v, expected[k])]
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "run/metrics.jsonl").open()]
    assert min(seconds) >= 0


def test_a_run_folder_that_is_lost_ends_the_run_and_the_moved_one_resumes(tmp_path, recorder):
    out, moved = tmp_path / "run", tmp_path / "moved"

    def lose(step, _values):
        if step == 4:
            out.rename(moved)
            out.touch()  # nothing can be made in its place

    recorder.update = lose
    trainer = tiny_trainer(steps=6, checkpoint_every=2)
    with pytest.raises(OSError, match=r"step-00000004|checkpoints|Not a directory"):
        trainer.fit(out, reporter=recorder)
    del recorder.update
    again = tiny_trainer(steps=6)
    again.fit(moved, resume=True, reporter=recorder)
    whole = tiny_trainer(steps=6)
    whole.fit(tmp_path / "whole", reporter=recorder)
    expected = all_tensors(whole)
    assert not [k for k, v in all_tensors(again).items() if not torch.equal(v, expected[k])]
