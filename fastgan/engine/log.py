"""Where a run's numbers go: JSON lines always, loggers if asked, and the person who waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from fastgan.engine import records
from fastgan.engine.loggers import Logger, Loggers
from fastgan.engine.preview import Preview, terminal_preview
from fastgan.engine.run_folder import RunFolder
from fastgan.metrics import Score
from fastgan.system import how_far, listening, to_json, whole_file

_LINE = records.record({"step": records.whole()})
_SCORES = records.record(
    {
        "step": records.whole(),
        "scores": records.sequence(
            records.record({"metric": records.text, "value": records.scalar})
        ),
    }
)


class MetricsLog:
    """Appends a JSON object a line to ``path``.

    A value that is not finite is null in a line. (Before, it was a bare NaN or Infinity, which
    Python's own reader takes and others refuse.)

    Args:
        path: the JSON-lines file. Lines of steps after ``resume_step`` are dropped first: the run
            makes those steps again.
        resume_step: the step from which the run goes on; 0 starts a new file.

    ``dropped`` tells of lines that stood there and do not hold what was written into them.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        self.dropped = _keep_until(path, resume_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, values: dict[str, Any]) -> None:
        self._file.write(to_json(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class RunLog:
    """The metrics file of a run's folder, and the loggers beside it.

    Args:
        folder: None, of the processes that do not write, for one that takes no note of anything.
        loggers: none of them can end the run; the metrics file can.
        note: told of what goes wrong.
    """

    def __init__(
        self, folder: RunFolder | None, loggers: Sequence[Logger], note: Callable[[str], None]
    ) -> None:
        self._folder, self._note = folder, note
        self._loggers = Loggers(loggers if folder else (), note)
        self._metrics: MetricsLog | None = None
        self._scores: MetricsLog | None = None

    def open(self, step: int, facts: dict[str, Any]) -> None:
        """At the run's start, and again where it goes back to an earlier step."""
        if self._folder is not None:
            self._close_files()
            self._metrics = MetricsLog(self._folder.metrics, step)
            self._scores = MetricsLog(self._folder.scores, step)
            for problem in self._metrics.dropped + self._scores.dropped:
                self._note(problem)
            self._loggers.start(self._folder.path, facts, step)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write({"step": step, **values})
            self._loggers.metrics(step, values)

    def scores(self, step: int, scores: Sequence[Score]) -> None:
        """An evaluation, with all that its numbers depend on."""
        if self._scores is not None:
            self._scores.write({"step": step, "scores": [score.as_dict() for score in scores]})
            self._loggers.metrics(step, {score.metric: score.value for score in scores})

    def picture(self, step: int, name: str, path: Path) -> None:
        self._loggers.picture(step, name, path)

    def artifact(self, path: Path) -> None:
        self._loggers.artifact(path)

    def close(self) -> None:
        self._close_files()
        self._loggers.close()

    def _close_files(self) -> None:
        for file in (self._metrics, self._scores):
            if file is not None:
                file.close()


def read_scores(path: Path) -> list[tuple[int, list[Score]]]:
    """The evaluations of a run's ``scores.jsonl``, by their steps; none where it has none.

    A line that does not hold what was written into it is left out.
    """
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            values = records.parse(line)
            _SCORES(values, "")
            found.append((values["step"], [Score.of(entry) for entry in values["scores"]]))
        except (records.RecordError, TypeError):
            continue
    return found


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


class Reporter(Protocol):
    """Tells a person how a run goes."""

    def start(self, total: int, done: int) -> None: ...
    def update(self, step: int, values: dict[str, float] | None) -> None: ...
    def note(self, text: str) -> None: ...
    def picture(self, path: Path) -> None: ...
    def stop(self) -> None: ...


class SilentReporter:
    """Says nothing."""

    def start(self, total: int, done: int) -> None: ...
    def update(self, step: int, values: dict[str, float] | None) -> None: ...
    def note(self, text: str) -> None: ...
    def picture(self, path: Path) -> None: ...
    def stop(self) -> None: ...


class BarReporter:
    """One live line with rich: progress, rate, losses and time left; above it what ``preview``
    makes of the samples."""

    def __init__(self, console: Console, preview: Preview | None = None) -> None:
        self._preview = preview
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )

    def start(self, total: int, done: int) -> None:
        self._task = self._progress.add_task("training", total=total, completed=done, status="")
        self._listening = listening(self._busy)
        self._listening.__enter__()
        self._progress.start()

    def update(self, step: int, values: dict[str, float] | None) -> None:
        if values is None:
            self._progress.update(self._task, completed=step)
        else:
            self._progress.update(self._task, completed=step, status=_status(values))

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def picture(self, path: Path) -> None:
        if self._preview is not None:
            with suppress(Exception):  # the file is there; that it cannot be shown ends no run
                self._progress.console.print(self._preview(path))

    def stop(self) -> None:
        self._progress.stop()
        self._listening.__exit__(None, None, None)

    def _busy(self, what: str, done: int, total: int) -> None:
        self._progress.update(self._task, status=f"{what} {how_far(done, total)}")


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

    def picture(self, path: Path) -> None: ...
    def stop(self) -> None: ...


def default_reporter() -> Reporter:
    """A live bar on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        console = Console()
        return BarReporter(console, terminal_preview(console))
    return LineReporter()


def _status(values: dict[str, float]) -> str:
    losses = {name[5:]: value for name, value in values.items() if name.startswith("loss_")}
    named = [f"{k.upper() if len(k) == 1 else k} {value:.3f}" for k, value in losses.items()]
    rate = f"{values['img_per_s']:.0f} img/s"
    logits = {"D(real)": values.get("real_logit"), "D(fake)": values.get("fake_logit")}
    named += [f"{name} {value:+.2f}" for name, value in logits.items() if value is not None]
    memory = [f"{values['memory'] / 1e9:.1f} GB"] if "memory" in values else []
    return "  ".join([rate, *named, *memory])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
