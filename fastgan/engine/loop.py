"""The loop around the step: what happens between two steps, and when."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastgan.engine.agreement import Agreement
from fastgan.engine.callbacks import Callback
from fastgan.engine.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    prune_checkpoints,
)
from fastgan.engine.config import TrainResult, intervals_of
from fastgan.engine.environment import environment
from fastgan.engine.evaluating import Evaluator
from fastgan.engine.first_look import unlike
from fastgan.engine.gallery import Gallery
from fastgan.engine.health import Health
from fastgan.engine.heartbeat import LostRankError
from fastgan.engine.intervals import Clock
from fastgan.engine.log import LineReporter, Reporter, RunLog, SilentReporter, default_reporter
from fastgan.engine.loggers import Logger, named_loggers
from fastgan.engine.memory import memory_used
from fastgan.engine.report import write_report
from fastgan.engine.resuming import resume_run
from fastgan.engine.run_folder import RunFolder, read_run
from fastgan.engine.scalars import non_finite, read_scalars
from fastgan.engine.signals import StopOnSignal
from fastgan.engine.spent import Spent
from fastgan.engine.state import (
    copy_state,
    is_finite,
    load_state,
    open_state,
    save_alone,
    save_state,
)
from fastgan.engine.train_state import TrainState
from fastgan.engine.watching import Watch
from fastgan.engine.writer import Writer
from fastgan.ops.core.cuda_libraries import cuda_libraries

# torchrun passes on the signal that the terminal has sent to all processes already.
_SAME_REQUEST_SECONDS = 5.0


class NonFiniteError(ArithmeticError):
    """Gradients that are infinite or not a number, and a policy that does not go on with them."""


class Loop:
    """One call of ``Trainer.fit``: the run's folder, its log, and the points of the clockwork.

    Every rank of a run goes through the same points; the first one writes.
    """

    def __init__(
        self,
        trainer: TrainState,
        callbacks: Sequence[Callback],
        out: Path,
        reporter: Reporter | None,
    ) -> None:
        self.trainer = trainer
        self.callbacks = callbacks
        self.config = trainer.config
        self.group = trainer.group
        self.out = out
        self.reporter = reporter or default_reporter()
        if not self.group.is_first:
            self.reporter = SilentReporter()
        # Made here, so that a package that is missing is told of before the folder stands.
        self._loggers = [c for c in callbacks if isinstance(c, Logger)]
        if self.group.is_first:
            self._loggers += named_loggers(trainer.config)
        self.health = Health(trainer)
        self._watch = Watch(trainer, self.health)
        self._unlike = unlike(trainer) if trainer.step == 0 else []
        self.samples: Path | None = None
        self.checkpoint: Path | None = None
        self._saved_at = self._drawn_at = self._tried = -1
        self._writer = Writer()
        self._spent, self._environment = Spent(), environment(trainer)
        self._evaluator = Evaluator.of(trainer)

    def fit(self, *, resume: bool, force: bool) -> TrainResult:
        opened: list[RunFolder] = []

        def open_folder() -> bool:
            opened.append(RunFolder(self.out, resume=resume, force=force))
            return opened[0].resumed

        # From before the folder is made until the run is described: a signal never cuts a write.
        with StopOnSignal(_SAME_REQUEST_SECONDS if self.group.size > 1 else 0.0) as signals:
            self._agreement = Agreement(self.trainer, signals)
            try:
                resumed = self.group.from_first(open_folder)
                self.folder = opened[0] if opened else RunFolder.seen(self.out)
                if resumed and (found := resume_run(self.trainer, self.folder, self.reporter)):
                    # A run killed after its last checkpoint has only the rest left to do.
                    self.checkpoint, self._saved_at = found.path, found.step
                    self.health.warnings = (read_run(self.out) or {}).get("warnings", [])
                elif resume and self.group.is_first:
                    self.reporter.note(f"nothing to resume in {self.out}: the run begins at step 0")
                self._describe(finished=False)
                precision, exact = self.trainer.gan.precision, self.config.deterministic
                with cuda_libraries(precision, deterministic=exact):
                    result = self._run()
                self._describe(finished=result.finished)
                if self.group.is_first and intervals_of(self.config)["report_every"].on:
                    write_report(self.out)
                return result
            finally:
                for folder in opened:
                    folder.close()

    def _run(self) -> TrainResult:
        trainer, config = self.trainer, self.config
        first, self._started = trainer.step, time.monotonic()
        self._marked = first, self._started
        self._clock = Clock(intervals_of(config), self.group)
        self._non_finite = int(non_finite(trainer))
        folder = self.folder if self.group.is_first else None
        self._record = RunLog(folder, self._loggers, lambda text: self.reporter.note(text))
        self._gallery = Gallery(trainer, self.callbacks, self.folder.samples, self._writer)
        self._open_record()
        self.reporter.start(config.steps, first)
        if trainer.device.type == "cuda":
            self.reporter.note(trainer.on_device())
        for note in trainer.notes + self._watch.left_out:
            self.reporter.note(note)
        self._warn(*(self.health.warn(text) for text in self._unlike if first == 0))
        try:
            stopped_by = self._agreement.signal(at_log_point=True)
            while not self._over() and stopped_by is None:
                stopped_by = self._step()
            if self._evaluator and stopped_by is None and self._evaluator.at != trainer.step:
                self._evaluate()
            if self._drawn_at != trainer.step:
                self._draw()
            if self._saved_at != trainer.step:
                self._save()
            self._look_at_writer(wait=True)
        except BaseException as error:
            self._rescue(error)
            raise
        finally:
            self._writer.close()
            self._record.close()
            self.reporter.stop()
        return self._result(first, stopped_by)

    def _step(self) -> int | None:
        """One step and what follows it; returns the signal that ends the run."""
        trainer, config, clock, spent = self.trainer, self.config, self._clock, self._spent
        self.group.require_all()
        with spent.on("data"):
            trainer.fetch()
        with spent.on("step"):
            trainer.train_step()
        for callback in self.callbacks:
            callback.on_step(trainer)
        at_log_point = trainer.step % config.log_every == 0 or trainer.step == config.steps
        if clock.due("watch_every", trainer.step, together=at_log_point):
            with spent.on("watch"):
                self._warn(*self._watch.look())
        values = None
        if at_log_point:
            with spent.on("log"):
                values = self._log()
        self.reporter.update(trainer.step, values)
        if at_log_point or (self.group.size == 1 and self._writer.has_news):
            self._look_at_writer()
        if clock.due("sample_every", trainer.step, together=at_log_point):
            with spent.on("grids"):
                self._draw()
        if clock.due("eval_every", trainer.step, together=at_log_point):
            self._evaluate()
        due = clock.due("checkpoint_every", trainer.step, together=at_log_point)
        if due and self._saved_at != trainer.step:
            with spent.on("checkpoints"):
                self._save()
        if clock.due("report_every", trainer.step, together=at_log_point):
            self._report()
        return self._agreement.signal(at_log_point)

    def _report(self) -> None:
        if self.group.is_first:
            self._writer.submit(lambda: write_report(self.out) and None)

    def _over(self) -> bool:
        gives_up = self._evaluator is not None and self._evaluator.gives_up
        return gives_up or self.trainer.step >= self.config.steps

    def _evaluate(self) -> None:
        evaluator = self._evaluator
        assert evaluator is not None
        with self._spent.on("evaluation"):
            self._record.scores(self.trainer.step, evaluator.evaluate(self.reporter.note))
        if evaluator.improved:
            self._save()

    def _open_record(self) -> None:
        """At the run's start, and where it goes back to an earlier step."""
        self._record.open(self.trainer.step, self.trainer.facts())
        if self._evaluator:
            self._evaluator.restart(self.folder.scores)

    def _look_at_writer(self, *, wait: bool = False) -> None:
        """Tell of what was written: checkpoints the callbacks, and pictures the loggers.

        An error of the writer is raised.
        """
        config = self.config
        made = self.group.from_first(lambda: self._writer.made(wait=wait))
        for step, name, path in self._gallery.written():
            if path.suffix == ".png":  # loggers take no arrays
                self._record.picture(step, name, path)
                self.reporter.picture(path)
        for path in made:
            self.checkpoint = path
            for callback in self.callbacks:
                callback.on_checkpoint(self.trainer, path)
            self._record.artifact(path)
        if not (made and self.group.is_first):
            return

        def prune() -> None:  # what the callbacks have seen
            best = max(config.keep_best, 1) if self._evaluator else config.keep_best
            prune_checkpoints(self.folder.checkpoints, config.keep_last, best)

        if wait:
            prune()
        else:
            self._writer.submit(prune)

    def _rescue(self, error: BaseException) -> None:
        """Save what was trained before ``error`` ends the run, where the state is that of a step.

        Of several ranks the one that the error is of saves alone: the others wait for it.
        """
        trainer, step = self.trainer, self.trainer.step
        failure = self._writer.drain()
        if failure is not None and failure is not error:
            self._note(error, f"the writer has met another error: {failure}")
        for path in self._writer.made():
            self.checkpoint = path
        if isinstance(error, NonFiniteError) or step in (0, self._saved_at, self._tried):
            return
        alone = self.group.size > 1 and not self._agreement.together
        if alone and (isinstance(error, LostRankError) or not isinstance(error, Exception)):
            return  # its device may wait without end, for a lost process or for one that stops too
        if alone and not self.group.is_first:
            self.reporter = LineReporter()
            self.reporter.note(f"process {self.group.rank} ends the run: {error}")
        if trainer.whole:
            self._note(error, self._saved_or_not(alone))
        else:
            where = f"; the newest checkpoint is {self.checkpoint}" if self.checkpoint else ""
            self._note(error, f"the run has ended in the middle of step {step + 1}{where}")

    def _saved_or_not(self, alone: bool = False) -> str:
        step = self.trainer.step
        try:
            path = self._write_checkpoint({}, alone)
        except Exception as error:
            return f"step {step} could not be saved either: {error}"
        return f"step {step} is saved in {path}: resume goes on from there"

    def _note(self, error: BaseException, text: str) -> None:
        self.reporter.note(text)
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(text)

    def _log(self) -> dict[str, float]:
        """Read the device's scalars, once for all of them; write them; look for bad gradients."""
        trainer, now = self.trainer, time.monotonic()
        values = read_scalars(trainer)
        bad = int(values.pop("non_finite"))
        images = self._images(trainer.step - self._marked[0])
        values["img_per_s"] = images / max(now - self._marked[1], 1e-9)
        if (memory := memory_used(trainer.device)) is not None:
            values["memory"] = memory
        if self.health.diversity is not None:
            values["diversity"] = self.health.diversity
        values |= self._watch.take()
        self._marked = trainer.step, now
        for callback in self.callbacks:
            callback.on_log(trainer, values)
        seconds = {"seconds": now - self._started, **self._spent.take()}
        self._record.write(trainer.step, seconds | values)
        new, self._non_finite = bad - self._non_finite, bad
        if new > 0:
            self._on_non_finite(new)
        self._warn(self.health.losses(values))
        return values

    def _warn(self, *texts: str | None) -> None:
        for text in filter(None, texts):
            self.reporter.note(text)
            if self.group.is_first:
                self._write_facts(finished=False)

    def _on_non_finite(self, new: int) -> None:
        trainer, config = self.trainer, self.config
        what = f"{new} updates by step {trainer.step} had gradients that were not finite"
        if config.nan_policy == "skip":
            self.reporter.note(f"{what}: skipped")
            return
        self._look_at_writer(wait=True)
        kept = self._newest()
        stop = config.nan_policy == "stop"
        if stop or kept is None or trainer.rollbacks >= config.max_rollbacks:
            if stop and self._saved_at != trainer.step and self._unspoiled():
                self.reporter.note(self._saved_or_not())
                kept = self._newest()
            newest = f"the newest checkpoint is {kept.path}" if kept else None
            where = newest or "there is no checkpoint yet"
            if not stop:
                raise NonFiniteError(f"{what} after {trainer.rollbacks} rollbacks; {where}")
            raise NonFiniteError(
                f"{what}, and were not made; {where}. A lower learning rate, clip_grad or another "
                "precision may help; nan_policy=skip goes on, rollback goes back to the checkpoint"
            )
        done = trainer.rollbacks + 1
        load_state(trainer, kept)
        # The same random numbers would lead to the same place.
        trainer.rollbacks = done
        trainer.reseed()
        self._non_finite = int(non_finite(trainer))
        self._marked = trainer.step, time.monotonic()
        self._open_record()
        self.reporter.note(f"{what}: back to step {trainer.step} (rollback {done})")

    def _unspoiled(self) -> bool:
        """Updates that were not made may still have spoiled statistics and averages."""
        return all(self.group.collect(is_finite(self.trainer)))

    def _newest(self) -> Checkpoint | None:
        return self.group.from_first(
            lambda: newest_checkpoint(self.folder.checkpoints, None, open_state)
        )

    def _draw(self) -> None:
        self._drawn_at = self.trainer.step
        self.samples = self.folder.samples / f"step-{self.trainer.step:08d}.png"
        if self.group.is_first:
            self.samples, images = self._gallery.draw()
            self._warn(self.health.samples(images))

    def _save(self) -> None:
        trainer = self.trainer
        scores = [s for c in self.callbacks if (s := c.score(trainer)) is not None]
        if self._evaluator:
            scores = self._evaluator.ranks(trainer.step)
        info = {"score": float(scores[0])} if scores and math.isfinite(scores[0]) else {}
        self._look_at_writer()
        write = copy_state(trainer, self.folder.checkpoints, **info)
        self._saved_at = self._tried = trainer.step
        if self.group.is_first:
            self._writer.submit(write)

    def _write_checkpoint(self, info: dict[str, Any], alone: bool = False) -> Path:
        self._tried, folder = self.trainer.step, self.folder.checkpoints
        if alone:
            self.checkpoint = save_alone(self.trainer, folder)
        else:
            self.checkpoint = save_state(self.trainer, folder, **info)
        self._saved_at = self.trainer.step
        return self.checkpoint

    def _result(self, first: int, stopped_by: int | None) -> TrainResult:
        assert self.samples is not None
        assert self.checkpoint is not None
        seconds = time.monotonic() - self._started
        finished, evaluator = self._over(), self._evaluator
        result = TrainResult(
            out=self.out,
            step=self.trainer.step,
            finished=finished,
            checkpoint=self.checkpoint,
            samples=self.samples,
            images_per_second=self._images(self.trainer.step - first) / max(seconds, 1e-9),
            # A signal that comes with the last step has nothing left to end.
            stopped_by=None if finished else stopped_by,
            best=evaluator.best_checkpoint(self.folder.checkpoints) if evaluator else None,
            best_score=evaluator.best if evaluator else None,
            warnings=tuple(self.health.warnings),
        )
        for callback in self.callbacks:
            callback.on_end(self.trainer, result)
        return result

    def _images(self, steps: int) -> int:
        return steps * self.config.batch_size * self.config.discriminator_steps

    def _describe(self, finished: bool) -> None:
        self.group.from_first(lambda: self._write_facts(finished))

    def _write_facts(self, finished: bool) -> None:
        facts = {**self.trainer.facts(), "environment": self._environment}
        facts |= {"warnings": self.health.warnings, "finished": finished}
        self.folder.describe(facts)
