"""Where commands write: looked at before anything is computed, and never over a run."""

from __future__ import annotations

import errno
from pathlib import Path

from fastgan.engine.checkpoint import MANIFEST
from fastgan.engine.run_folder import METRICS_FILE, RUN_FILE, SCORES_FILE, next_free
from fastgan.system import check_writable

# Of a run's folder. Sample grids are asked about like any other file.
_OF_A_RUN = (RUN_FILE, METRICS_FILE, SCORES_FILE, ".lock", "checkpoints", "tensorboard")


def output_file(path: Path, force: bool) -> Path:
    """Where ``path`` leads, for a command to write to with ``fastgan.system.whole_file``.

    Args:
        force: the file that stands there may be written over.

    Raises:
        FileExistsError: a file stands there, and ``force`` is false.
        ValueError: it belongs to a run or a checkpoint, also through a symbolic link.
        OSError: it is a folder or a device, lies below a file, or may not be written.
    """
    try:
        found = path.resolve()
    except RuntimeError as error:  # before Python 3.13
        raise OSError(errno.ELOOP, "a symbolic link that leads to itself", str(path)) from error
    check_writable(found)
    owner = _owner(found)
    if owner is not None:
        raise ValueError(f"{path} belongs to {owner}: choose another place with --out")
    if found.exists() and not force:
        raise FileExistsError(
            f"{path} stands already: --force writes over it, --out chooses another place"
        )
    return found


def picture_file(given: Path | None, checkpoint: Path, name: str) -> Path:
    """``given``; by default the first free one of ``pictures/NAME``, ``pictures/NAME-2`` ... in the
    folder of the checkpoint's run, or where the command is run, of a checkpoint without a run."""
    if given is not None:
        return given
    run = next((p for p in (checkpoint, *checkpoint.parents) if (p / RUN_FILE).is_file()), None)
    folder, file = Path() if run is None else run / "pictures", Path(name)
    return next_free(folder, file.stem, file.suffix)


def _owner(path: Path) -> str | None:
    for part in (path, *path.parents):
        if part.name in _OF_A_RUN and (part.parent / RUN_FILE).exists():
            return f"the run {part.parent}"
        if (part / MANIFEST).exists():
            return f"the checkpoint {part}"
    return None
