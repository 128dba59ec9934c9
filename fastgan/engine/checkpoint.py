"""Checkpoints: written beside, synced and renamed; verified before anything is loaded.

A checkpoint is a folder ``step-00001000`` that holds safetensors files and ``checkpoint.json``,
which lists every file with its size and SHA-256, and holds the SHA-256 of itself. Nothing in it is
pickled, so loading one runs no code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as decode_tensors
from safetensors.torch import save as encode_tensors
from torch import Tensor, nn

from fastgan.checks import did_you_mean, paths_beside
from fastgan.engine import records

_LOG = logging.getLogger(__name__)
# 1 has no hash of the manifest itself; it is still read.
FORMAT = 2
MANIFEST = "checkpoint.json"
PRETRAINED = Path(__file__).with_name("pretrained-models")
"""The checkpoints that ship with the package, by name: tools/train_digits.py made them."""
PARTIAL_CHECKPOINTS = ".partial-*"
"""Of a checkpoint folder's names: those that are being written, or removed."""
_NAME = re.compile(r"step-(\d{8,})")

_OPTIMIZER = records.record(
    {
        "values": records.table(records.scalar),
        "param_groups": records.sequence(
            records.record({"lr": records.number, "params": records.sequence(records.whole())})
        ),
    }
)
# What every checkpoint has, and of the rest what the engine itself writes.
_MANIFEST = records.record(
    {
        "format": records.whole(1),
        "step": records.whole(),
        "files": records.table(records.record({"bytes": records.whole(), "sha256": records.text})),
    },
    {
        "sha256": records.text,
        "score": records.scalar,
        "rollbacks": records.whole(),
        "config": records.table(),
        "data": records.record({"fingerprint": records.text}),
        "parts": records.table(),
        "optimizer_g": _OPTIMIZER,
        "optimizer_d": _OPTIMIZER,
    },
)


class CheckpointError(ValueError):
    """A checkpoint is torn, foreign, or does not fit what it is loaded into."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its files match their recorded sizes and hashes."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``<name>.safetensors``, on the CPU."""
        file = f"{name}.safetensors"
        if file not in self.manifest["files"]:
            raise CheckpointError(f"{self.path} has no {file}")
        try:
            return decode_tensors((self.path / file).read_bytes())
        except SafetensorError as error:
            raise CheckpointError(
                f"{self.path / file} is not a safetensors file: {error}"
            ) from error


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return folder / f"step-{step:08d}"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], info: dict[str, Any]
) -> Path:
    """Write ``folder/step-<step>`` as a whole or not at all, and return its path.

    Args:
        tensors: a safetensors file for each key, without its suffix.
        info: JSON-ready values that stand in the manifest beside ``step`` and ``files``.

    Raises:
        OSError: the disk is full or not writable; no part of this checkpoint is left behind, and
            checkpoints that stood before are untouched.
    """
    copies = {name: copied_tensors(group) for name, group in tensors.items()}
    return write_checkpoint(folder, step, copies, info)


def write_checkpoint(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], info: dict[str, Any]
) -> Path:
    """:func:`save_checkpoint` of what :func:`copied_tensors` gave, in any thread."""
    final, started = checkpoint_path(folder, step), time.monotonic()
    partial = _beside(final)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        files = {}
        for name, group in tensors.items():
            content = encode_tensors(group)
            _write_synced(partial / f"{name}.safetensors", content)
            files[f"{name}.safetensors"] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        # As JSON gives it back, so that its hash is that of what will be read.
        manifest = json.loads(json.dumps({"format": FORMAT, "step": step, **info, "files": files}))
        manifest["sha256"] = own_hash(manifest)
        _write_synced(partial / MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync_folder(partial)
        # The same step is saved twice only if a run was resumed from an older checkpoint.
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        kept = newest_checkpoint(folder)
        raise OSError(
            error.errno,
            f"could not save the checkpoint of step {step} ({error.strerror}); "
            + (f"the last good one is {kept.path}" if kept else "there is no earlier one"),
            str(final),
        ) from error
    _LOG.debug("%s written in %.2f s", final, time.monotonic() - started)
    return final


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify the checkpoint at ``path`` and return it.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        CheckpointError: it is torn (a file is missing, cut or altered) or of an unknown format.
    """
    manifest = _read_manifest(path)
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {manifest['format']}; this version reads up to {FORMAT}"
        )
    if "sha256" not in manifest:
        if manifest["format"] > 1:
            raise CheckpointError(f"{path} is torn: {MANIFEST}: field sha256 is missing")
    elif manifest["sha256"] != own_hash(manifest):
        raise CheckpointError(f"{path} is torn: {MANIFEST} was altered after it was written")
    named = _NAME.fullmatch(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise CheckpointError(
            f"{path} is torn: {MANIFEST}: field step is {manifest['step']}, by its name it is of "
            f"step {int(named[1])}"
        )
    for name, file in manifest["files"].items():
        _verify(path, name, file["bytes"], file["sha256"])
    return Checkpoint(path, manifest)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders in ``folder``, newest step first, unverified."""
    if not folder.is_dir():
        return []
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(
    folder: Path,
    torn: list[str] | None = None,
    opened: Callable[[Path], Checkpoint] = open_checkpoint,
) -> Checkpoint | None:
    """The newest whole checkpoint in ``folder``; what is wrong with newer ones goes to ``torn``."""
    for path in list_checkpoints(folder):
        try:
            return opened(path)
        except (CheckpointError, FileNotFoundError) as error:
            if torn is not None:
                torn.append(str(error))
    return None


def prune_checkpoints(folder: Path, keep_last: int, keep_best: int = 0) -> None:
    """Remove checkpoints but the newest ``keep_last`` and, of those with a score, the best.

    With ``keep_last`` 0 all are kept. A checkpoint goes as a whole: one whose removal is cut short
    is never taken for a whole one.
    """
    if keep_last == 0:
        return
    best = sorted(_scored(folder), reverse=True)[:keep_best]
    kept = {*list_checkpoints(folder)[:keep_last], *(path for _, path in best)}
    for path in set(list_checkpoints(folder)) - kept:
        leaving = _beside(path)
        shutil.rmtree(leaving, ignore_errors=True)
        path.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that ``path`` names: a checkpoint folder, a run's folder (its newest),
    ``best`` in a run's folder (the one of the best score), or, where no such file is, the name of
    one that ships with the package.
    """
    if path.name == "best" and not path.exists():
        scored = _scored(path.parent / "checkpoints")
        if not scored:
            raise FileNotFoundError(f"{path.parent} has no checkpoint with a score (--eval-every)")
        return open_checkpoint(max(scored)[1])
    if not path.exists():
        shipped = sorted(manifest.parent.name for manifest in PRETRAINED.glob(f"*/{MANIFEST}"))
        if str(path) in shipped:
            return open_checkpoint(PRETRAINED / path)
        folders = (str(other) for other in paths_beside(path) if other.is_dir())
        near = did_you_mean(path, folders)
        raise FileNotFoundError(
            f"no checkpoint or run at {path}{near}; {', '.join(shipped)} ships with the package"
        )
    if (path / MANIFEST).exists():
        return open_checkpoint(path)
    torn: list[str] = []
    found = newest_checkpoint(path / "checkpoints", torn)
    if found is None and torn:
        raise CheckpointError(f"every checkpoint of {path} is torn: {'; '.join(torn)}")
    if found is None:
        raise FileNotFoundError(f"{path} is neither a checkpoint nor a run with checkpoints")
    return found


def load_module(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load ``tensors`` into ``module``.

    Raises:
        CheckpointError: names, shapes or dtypes differ; the message lists how.
    """
    tensors = plain_names(tensors)
    require_alike(tensors, plain_names(module.state_dict()), f"{what} is of another model")
    load_tensors(module, tensors)


def plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state by the names that it has without ``torch.compile``."""
    return {_plain_name(name): value for name, value in tensors.items()}


def load_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a state of plain names, which fits, into a module that may be compiled."""
    module.load_state_dict({name: tensors[_plain_name(name)] for name in module.state_dict()})


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "")


def require_alike(saved: dict[str, Tensor], own: dict[str, Tensor], what: str) -> None:
    """CheckpointError, with what differs, unless names, shapes and dtypes are the same."""
    wrong = [f"missing {k}" for k in own.keys() - saved.keys()]
    wrong += [f"unexpected {k}" for k in saved.keys() - own.keys()]
    wrong += [
        f"{k}: {kind_of(saved[k])} in the checkpoint, {kind_of(own[k])} here"
        for k in own.keys() & saved.keys()
        if saved[k].shape != own[k].shape or saved[k].dtype != own[k].dtype
    ]
    if wrong:
        listed = "; ".join(sorted(wrong)[:5]) + ("; ..." if len(wrong) > 5 else "")
        raise CheckpointError(f"the checkpoint's {what}: {listed}")


def own_hash(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest without its own hash, as JSON with sorted names and no spaces."""
    covered = {name: value for name, value in manifest.items() if name != "sha256"}
    content = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def kind_of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = records.read(path / MANIFEST, _MANIFEST)
    except records.RecordError as error:
        raise CheckpointError(f"{path} is torn: {MANIFEST} cannot be read ({error})") from error
    return manifest


def _beside(path: Path) -> Path:
    return path.with_name(PARTIAL_CHECKPOINTS.replace("*", path.name))


def _scored(folder: Path) -> list[tuple[float, Path]]:
    return [(score, p) for p in list_checkpoints(folder) if (score := _score(p)) is not None]


def _score(path: Path) -> float | None:
    try:
        score = _read_manifest(path).get("score")
    except (OSError, CheckpointError):
        return None
    return float(score) if score is not None and math.isfinite(score) else None


def copied_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, as a checkpoint is written from; waits for the device."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(path: Path, name: str, size: int, digest: str) -> None:
    file = path / name
    if Path(name).name != name:
        raise CheckpointError(f"{path} names a file outside itself: {name!r}")
    if not file.is_file():
        raise CheckpointError(f"{path} is torn: {name} is missing")
    actual = file.stat().st_size
    if actual != size:
        raise CheckpointError(f"{path} is torn: {name} has {actual} bytes, {size} were written")
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise CheckpointError(f"{path} is torn: {name} was altered after it was written")
