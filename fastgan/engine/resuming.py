"""Going on with the run that stands in a folder."""

from __future__ import annotations

from pathlib import Path

from fastgan.engine.checkpoint import Checkpoint, CheckpointError, newest_checkpoint
from fastgan.engine.config import changed_fields
from fastgan.engine.log import Reporter
from fastgan.engine.objectives import changed_objective
from fastgan.engine.parts import changed_parts
from fastgan.engine.run_folder import RunFolder, read_run
from fastgan.engine.state import load_state, moved, open_state
from fastgan.engine.train_state import TrainState


def resume_run(trainer: TrainState, folder: RunFolder, reporter: Reporter) -> Checkpoint | None:
    """Bring ``trainer`` to the newest whole checkpoint; None where the run has none yet.

    Every rank must call this.

    Raises:
        CheckpointError: no checkpoint is whole, or the run is another one.
        FileExistsError: the run has made its steps.
    """
    torn: list[str] = []

    def newest() -> Path | None:
        whole = newest_checkpoint(folder.checkpoints, torn, open_state)
        if whole is None and torn:
            raise CheckpointError(
                f"every checkpoint of {folder.path} is torn, and force alone starts anew: "
                f"{'; '.join(torn)}"
            )
        return whole.path if whole else None

    found = trainer.group.from_first(newest)
    for problem in torn:
        reporter.note(f"not used: {problem}")
    if found is None:
        _start_anew(trainer, folder.path, reporter)
        return None
    checkpoint = open_state(found)
    load_state(trainer, checkpoint)
    over = checkpoint.step - trainer.config.steps
    if over > 0 or (over == 0 and _was_finished(trainer, folder.path)):
        raise FileExistsError(
            f"{folder.path} has made its {checkpoint.step} steps already; "
            "ask for more steps, or choose another out folder"
        )
    reporter.note(f"resumed {checkpoint.path} at step {trainer.step}")
    if (told := moved(trainer, checkpoint)) is not None:
        reporter.note(told)
    return checkpoint


def _was_finished(trainer: TrainState, path: Path) -> bool:
    return trainer.group.from_first(lambda: bool((read_run(path) or {}).get("finished")))


def _start_anew(trainer: TrainState, path: Path, reporter: Reporter) -> None:
    run = read_run(path) or {}
    trainer.keep_precision(run.get("config", {}))
    changed = changed_fields(run.get("config", {}), trainer.config)
    changed += changed_objective(run, trainer.objective) if run else []
    changed += changed_parts(run.get("parts", {}), trainer.facts()["parts"])
    if changed:
        raise CheckpointError(
            f"{path} cannot be resumed with another setting: {'; '.join(changed)}"
        )
    reporter.note(f"{path} has no whole checkpoint yet: starting from step 0")
