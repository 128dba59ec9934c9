"""Checkpoints: written beside, synced and renamed; verified before anything is loaded.

A checkpoint is a folder ``step-00001000`` that holds safetensors files and ``checkpoint.json``,
which lists every file with its size and SHA-256. Nothing in it is pickled, so loading one runs no
code.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode_tensors
from safetensors.torch import save as encode_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

FORMAT = 1
MANIFEST = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,})")


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
    final = folder / f"step-{step:08d}"
    partial = folder / f".partial-{final.name}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        files = {}
        for name, group in tensors.items():
            content = encode_tensors({k: _plain(v) for k, v in group.items()})
            _write_synced(partial / f"{name}.safetensors", content)
            files[f"{name}.safetensors"] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        manifest = {"format": FORMAT, "step": step, **info, "files": files}
        _write_synced(partial / MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync_folder(partial)
        # The same step is saved twice only if a run was resumed from an older checkpoint.
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = newest_checkpoint(folder)
        raise OSError(
            error.errno,
            f"could not save the checkpoint of step {step} ({error.strerror}); "
            + (f"the last good one is {kept.path}" if kept else "there is no earlier one"),
            str(final),
        ) from error
    return final


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify the checkpoint at ``path`` and return it.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        CheckpointError: it is torn (a file is missing, cut or altered) or of an unknown format.
    """
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint: it has no {MANIFEST}")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has checkpoint format {manifest['format']}; this version reads {FORMAT}"
            )
        files = {
            str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in manifest["files"].items()
        }
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is torn: {MANIFEST} cannot be read ({error})") from error
    for name, (size, digest) in files.items():
        _verify(path, name, size, digest)
    return Checkpoint(path, manifest)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders in ``folder``, newest step first, unverified."""
    if not folder.is_dir():
        return []
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(folder: Path, torn: list[str] | None = None) -> Checkpoint | None:
    """The newest whole checkpoint in ``folder``; what is wrong with newer ones goes to ``torn``."""
    for path in list_checkpoints(folder):
        try:
            return open_checkpoint(path)
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
    scored = [
        (score, path) for path in list_checkpoints(folder) if (score := _score(path)) is not None
    ]
    best = sorted(scored, reverse=True)[:keep_best]
    kept = {*list_checkpoints(folder)[:keep_last], *(path for _, path in best)}
    for path in set(list_checkpoints(folder)) - kept:
        leaving = path.with_name(f".partial-{path.name}")
        shutil.rmtree(leaving, ignore_errors=True)
        path.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that ``path`` names: a checkpoint folder, or a run's folder (its newest)."""
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint or run at {path}")
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
        CheckpointError: names or shapes differ; the message lists how.
    """
    own = module.state_dict()
    wrong = [f"missing {k}" for k in own.keys() - tensors.keys()]
    wrong += [f"unexpected {k}" for k in tensors.keys() - own.keys()]
    wrong += [
        f"{k}: {tuple(tensors[k].shape)} in the checkpoint, {tuple(own[k].shape)} in the model"
        for k in own.keys() & tensors.keys()
        if own[k].shape != tensors[k].shape
    ]
    if wrong:
        listed = "; ".join(sorted(wrong)[:5]) + ("; ..." if len(wrong) > 5 else "")
        raise CheckpointError(f"the checkpoint's {what} is of another model: {listed}")
    module.load_state_dict(tensors)


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and JSON-ready values."""
    state = optimizer.state_dict()
    entries = {f"{i}.{key}": v for i, kept in state["state"].items() for key, v in kept.items()}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in entries.items() if name not in tensors}
    groups = [
        {k: float(v) if isinstance(v, Tensor) else v for k, v in group.items()}
        for group in state["param_groups"]
    ]
    return tensors, {"values": values, "param_groups": groups}


def unpack_optimizer(
    optimizer: Optimizer, tensors: dict[str, Tensor], info: dict[str, Any]
) -> None:
    """Put back what :func:`pack_optimizer` gave. The optimizer must hold the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **info["values"]}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": info["param_groups"]})
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint's optimizer does not fit: {error}") from error
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            # A captured step reads the rate from this very tensor.
            group["lr"] = rate.fill_(group["lr"])
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            # Fused optimizers walk a parameter and its moments in memory order, so a moment must
            # have its parameter's strides; a file keeps no strides.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _score(path: Path) -> float | None:
    try:
        score = json.loads((path / MANIFEST).read_bytes()).get("score")
    except (OSError, ValueError, AttributeError):
        return None
    return float(score) if score is not None and math.isfinite(score) else None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


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
