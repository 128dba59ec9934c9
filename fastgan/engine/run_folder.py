"""The folder of a run: who may write into it, and where things lie.

run.json             what the run is (configuration, models, data), and whether it has finished
metrics.jsonl        one JSON object a line
scores.jsonl         the evaluations, if there were any: one JSON object a line
report.html          the run on one page, if asked for
samples/             step-00000500.png ...
checkpoints/         step-00000500/ ...
tensorboard/         event files, if asked for
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from fastgan.engine import records
from fastgan.engine.checkpoint import PARTIAL_CHECKPOINTS, list_checkpoints
from fastgan.engine.config import TrainConfig
from fastgan.system import partial_name, whole_file

RUN_FILE, METRICS_FILE, SCORES_FILE = "run.json", "metrics.jsonl", "scores.jsonl"
REPORT_FILE = "report.html"
_RUN = records.record(
    {},
    {
        "config": records.record({}, records.fields_of(TrainConfig)),
        "data": records.record({"fingerprint": records.text}),
        "objective": records.table(),
        "parts": records.table(),
        "rollbacks": records.whole(),
        "environment": records.table(),
        "warnings": records.sequence(records.text),
        "finished": records.flag,
    },
)
_CONTENT = (
    *(RUN_FILE, METRICS_FILE, SCORES_FILE, REPORT_FILE),
    *("samples", "checkpoints", "tensorboard", ".lock"),
)


class RunFolder:
    """A run's folder, held by this process until :meth:`close`.

    Args:
        path: the folder; made if it does not stand.
        resume: continue the run that stands there, if one does.
        force: clear the run that stands there.

    Raises:
        FileExistsError: a run stands there and neither ``resume`` nor ``force`` was given, the run
            to resume has finished, or the folder holds something that is not a run.
        BlockingIOError: another process is writing into the folder.
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path: Path, *, resume: bool = False, force: bool = False) -> None:
        if resume and force:
            raise ValueError(
                "resume and force exclude each other: one continues a run, one clears it"
            )
        self.path = path
        self._make()
        self._lock = self._take_lock()
        try:
            self.resumed = self._admit(resume, force)
            self._clear_partials()
        except BaseException:
            self.close()
            raise

    @classmethod
    def seen(cls, path: Path) -> RunFolder:
        """The folder of a run whose first process holds it: neither made nor locked."""
        folder = cls.__new__(cls)
        folder.path = path
        return folder

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def scores(self) -> Path:
        return self.path / SCORES_FILE

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def describe(self, info: dict[str, Any]) -> None:
        """Write ``run.json`` as a whole."""
        with whole_file(self.path / RUN_FILE) as file:
            file.write(json.dumps(info, indent=1).encode())

    def close(self) -> None:
        """Let other processes write into the folder."""
        os.close(self._lock)

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise FileExistsError(f"out folder {self.path} is a file") from error
        except OSError as error:
            raise OSError(
                error.errno, f"cannot make the out folder ({error.strerror})", str(self.path)
            ) from error

    def _take_lock(self) -> int:
        try:
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write into the out folder ({error.strerror})", str(self.path)
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise BlockingIOError(
                error.errno, "another process is training into this folder", str(self.path)
            ) from error
        return lock

    def _admit(self, resume: bool, force: bool) -> bool:
        stands = check_free(self.path, resume=resume, force=force)
        if stands and not resume:
            self._clear()
        return stands and resume

    def _clear_partials(self) -> None:
        """What a process that was killed, or had no room, has left beside the whole files."""
        for name in (RUN_FILE, METRICS_FILE, SCORES_FILE, REPORT_FILE):
            (self.path / partial_name(name)).unlink(missing_ok=True)
        for leftover in self.samples.glob(partial_name("*")):
            leftover.unlink(missing_ok=True)
        for leftover in self.checkpoints.glob(PARTIAL_CHECKPOINTS):
            shutil.rmtree(leftover, ignore_errors=True)

    def _clear(self) -> None:
        for name in _CONTENT:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            elif name != ".lock":
                target.unlink(missing_ok=True)


def check_free(path: Path, *, resume: bool, force: bool) -> bool:
    """Whether a run stands in a folder, which may not be there; FileExistsError where that may not
    be, or where something else does."""
    run = read_run(path)
    if run is None:
        own = {*_CONTENT, *map(partial_name, _CONTENT)}
        found = path.iterdir() if path.is_dir() else ()
        others = sorted(p.name for p in found if p.name not in own)
        if others:
            raise FileExistsError(
                f"out folder {path} is not empty and holds no run: found {others[0]}"
            )
        if not list_checkpoints(path / "checkpoints"):
            return False
        run = {}  # its description is lost, and the checkpoints hold another
    if not (resume or force):
        finished = run.get("finished")
        state = "a finished run" if finished else "an unfinished run"
        way = f"resume continues it{', with more steps' if finished else ''}, force clears it"
        raise FileExistsError(f"{path} holds {state}: {way}; or choose another out folder")
    return True


def read_run(path: Path) -> dict[str, Any] | None:
    """What ``path/run.json`` says, or None where no run stands.

    Raises:
        ValueError: ``run.json`` stands there and does not hold what was written into it.
    """
    try:
        run: dict[str, Any] = records.read(path / RUN_FILE, _RUN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return run


def next_free(parent: Path, name: str, suffix: str = "") -> Path:
    """``parent/name``, or ``parent/name-2``, ``-3`` ... : the first that does not stand yet.

    ``suffix`` comes after the number.
    """
    candidate, number = parent / f"{name}{suffix}", 1
    while candidate.exists():
        number += 1
        candidate = parent / f"{name}-{number}{suffix}"
    return candidate


def newest_unfinished(parent: Path, name: str) -> Path | None:
    """The unfinished run ``name`` or ``name-<number>`` in ``parent`` that was written last."""
    runs = [
        p
        for p in (parent.glob(f"{name}*") if parent.is_dir() else ())
        if p.name == name or p.name[len(name) :].lstrip("-").isdigit()
    ]
    unfinished = [p for p in runs if (run := read_run(p)) is not None and not run.get("finished")]
    return max(unfinished, key=lambda p: (p / RUN_FILE).stat().st_mtime, default=None)
