"""Where a run's numbers go: JSON lines always, TensorBoard if asked, and the person who waits."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fastgan.engine import records
from fastgan.system import to_json, whole_file

_LINE = records.record({"step": records.whole()})


class MetricsLog:
    """Appends a JSON object a line to ``path``, and scalars to TensorBoard if a folder is given.

    A value that is not finite is null in a line. (Before, it was a bare NaN or Infinity, which
    Python's own reader takes and others refuse.)

    Args:
        path: the JSON-lines file. Lines of steps after ``resume_step`` are dropped first: the run
            makes those steps again.
        resume_step: the step from which the run goes on; 0 starts a new file.
        tensorboard: folder of the event files, or None.

    ``dropped`` tells of lines that stood there and do not hold what was written into them.

    Raises:
        ModuleNotFoundError: TensorBoard was asked for and is not installed.
    """

    def __init__(self, path: Path, resume_step: int = 0, tensorboard: Path | None = None) -> None:
        self.dropped = _keep_until(path, resume_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._writer = _summary_writer(tensorboard, resume_step) if tensorboard else None

    def write(self, values: dict[str, Any]) -> None:
        self._file.write(to_json(values) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if name != "step":
                    self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def _keep_until(path: Path, step: int) -> list[str]:
    """Drop the lines after ``step``, and those that cannot be read; returns what is wrong there."""
    if not path.exists():
        return []
    kept, wrong = [], []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            values = records.parse(line)
            _LINE(values, "")
        except records.RecordError as error:
            if line.endswith(b"\n"):
                wrong.append(f"{path} line {number} is dropped: {error}")
            continue  # without an end: a line that a killed run did not finish
        if values["step"] <= step:
            kept.append(line.rstrip(b"\r\n") + b"\n")
    with whole_file(path) as file:
        file.write(b"".join(kept))
    return wrong


def _summary_writer(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError(
            "tensorboard=True needs TensorBoard: pip install 'fastgan[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=resume_step or None)


class Reporter(Protocol):
    """Tells a person how a run goes."""

    def start(self, total: int, done: int) -> None: ...
    def update(self, step: int, values: dict[str, float] | None) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


class SilentReporter:
    """Says nothing."""

    def start(self, total: int, done: int) -> None: ...
    def update(self, step: int, values: dict[str, float] | None) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


class BarReporter:
    """One live line with rich: progress, rate, losses and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )

    def start(self, total: int, done: int) -> None:
        self._task = self._progress.add_task("training", total=total, completed=done, status="")
        self._progress.start()

    def update(self, step: int, values: dict[str, float] | None) -> None:
        if values is None:
            self._progress.update(self._task, completed=step)
        else:
            self._progress.update(self._task, completed=step, status=_status(values))

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def stop(self) -> None:
        self._progress.stop()


class LineReporter:
    """A plain line at each log point, for files and pipes."""

    def start(self, total: int, done: int) -> None:
        self._total, self._first, self._since = total, done, time.monotonic()

    def update(self, step: int, values: dict[str, float] | None) -> None:
        if values is None:
            return
        elapsed = time.monotonic() - self._since
        left = elapsed / max(step - self._first, 1) * (self._total - step)
        self.note(f"step {step}/{self._total}  {_status(values)}  ETA {_clock(left)}")

    def note(self, text: str) -> None:
        print(text, flush=True)

    def stop(self) -> None: ...


def default_reporter() -> Reporter:
    """A live bar on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        return BarReporter(Console())
    return LineReporter()


def _status(values: dict[str, float]) -> str:
    losses = {name[5:]: value for name, value in values.items() if name.startswith("loss_")}
    named = [f"{k.upper() if len(k) == 1 else k} {value:.3f}" for k, value in losses.items()]
    return "  ".join([f"{values['img_per_s']:.0f} img/s", *named])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
