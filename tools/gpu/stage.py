"""One stage of `make gpu` as it runs: its commands, what they print, and their time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.source import source_hash

from .outcomes import LEFT, Outcomes

ROOT = Path(__file__).resolve().parents[2]
STAGE_SECONDS = 520.0  # of a stage, so that it ends inside nine minutes
GRACE = 15.0  # seconds to finish what it is writing, once it is told to stop
SKIPPED = -1
OUT_OF_TIME = 124
NOT_BEGUN = -2
# What pytest exits with by itself: passed, failed, stopped by --maxfail, nothing collected.
NOTHING_RAN = 5
ENDED = (0, 1, NOTHING_RAN)


@dataclass
class Stage:
    """Where its results go, how long it may take, and whether it goes on where it was cut."""

    name: str
    results: Path
    more: list[str] = field(default_factory=list)
    ends: float = field(default_factory=lambda: time.monotonic() + STAGE_SECONDS)
    go_on: bool = False

    @property
    def log(self) -> Path:
        return self.results / "logs" / f"{self.name}.log"

    @property
    def left(self) -> float:
        return max(1.0, self.ends - time.monotonic())

    def say(self, text: str) -> None:
        """Print, and keep."""
        print(text, flush=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def run(self, command: list[str], **settings: str) -> int:
        """Run a command in the time that is left; what it prints is shown and kept.

        When time is out it is interrupted, as by Ctrl-C, so that it writes what it has, and ended
        if that takes too long.
        """
        self.say("+ " + " ".join(command))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **settings}
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, text=True, errors="replace", start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_hear_interrupts,
        )  # fmt: skip
        shown = threading.Thread(target=self._show, args=(process.stdout or (),), daemon=True)
        shown.start()
        code = _wait(process, self.left)
        shown.join(GRACE)
        return code

    def _show(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.say(line.rstrip("\n"))

    def pytest(self, *arguments: str, of: Iterable[str], seconds: int = 120) -> int:
        """Run tests in the time that is left; the status of them all, earlier calls included.

        Each outcome is kept as soon as it is known, with the code that it is of. A process that a
        test takes down with it is followed by another for the tests that are left.

        Args:
            of: what the outcomes depend on, as :func:`source_hash` takes it.
            seconds: after so long a test counts as one that hangs.
        """
        if importlib.util.find_spec("pytest") is None:
            self.say(f"{sys.executable} has no pytest: install pytest")
            return 1
        outcomes = Outcomes(self.results / f"{self.name}.txt", source_hash(of))
        outcomes.begin(self.go_on)
        code, known = OUT_OF_TIME, -1
        while len(outcomes.finished()) > known and self.left > GRACE:
            known = len(outcomes.finished())
            code = self.run([*self._pytest_command(outcomes, seconds), *arguments, *self.more])
            if code in ENDED or code == OUT_OF_TIME:
                break
        return _status(code, outcomes.read())

    def _pytest_command(self, outcomes: Outcomes, seconds: int) -> list[str]:
        # What stands there when the process begins: the same for every worker of a parallel run.
        before = self.log.with_suffix(".before.txt")
        before.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(outcomes.path, before)
        until = time.time() + self.left - min(GRACE, self.left / 4)
        # A file that cannot be imported is an error, and does not keep the others from running.
        options = ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
        options += ["-p", "tools.gpu.record", f"--record={outcomes.path}", f"--before={before}"]
        options += [f"--until={until:.0f}"]
        if not missing({"pytest_timeout": "pytest-timeout"}):
            # By a thread: a kernel that hangs hears no signal.
            options += [f"--timeout={seconds}", "--timeout-method=thread"]
        return [sys.executable, "-m", "pytest", *options]


def missing(packages: Mapping[str, str]) -> list[str]:
    """The names, as pip knows them, of what cannot be imported."""
    return [name for module, name in packages.items() if importlib.util.find_spec(module) is None]


def in_words(code: int) -> str:
    words = {0: "ok", SKIPPED: "skipped", OUT_OF_TIME: "out of time", NOT_BEGUN: "not begun"}
    return words.get(code, f"exit {code}")


def _status(code: int, outcomes: dict[str, str]) -> int:
    if code not in (0, NOTHING_RAN, OUT_OF_TIME):
        return code
    seen = set(outcomes.values())
    if seen & {"failed", "begun"}:
        return 1
    if code == OUT_OF_TIME or LEFT in seen:
        return OUT_OF_TIME
    return 0 if "passed" in seen else NOTHING_RAN


def _hear_interrupts() -> None:
    """For a run in the background of a shell, which has its processes ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(process: subprocess.Popen[str], seconds: float) -> int:
    """Its exit status; OUT_OF_TIME where it had to be stopped."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    for sent, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    return OUT_OF_TIME
