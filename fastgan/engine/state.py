"""What a checkpoint holds: everything that a run's future depends on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.engine import records
from fastgan.engine.checkpoint import (
    MANIFEST,
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    copied_tensors,
    kind_of,
    load_tensors,
    open_checkpoint,
    plain_names,
    require_alike,
    write_checkpoint,
)
from fastgan.engine.config import TrainConfig, changed_fields
from fastgan.engine.objectives import changed_objective, objective_of
from fastgan.engine.optimizer_state import (
    changed_optimizer,
    fitting_optimizer_state,
    load_optimizer,
    pack_optimizer,
)
from fastgan.engine.parts import changed_parts
from fastgan.engine.records import RecordError
from fastgan.engine.train_state import TrainState

# Of each rank: the noise's generator, and torch's own on the CPU and on the device.
_Rng = dict[str, Tensor]
_OPTIMIZERS = ("optimizer_g", "optimizer_d")
_EXTRA = "state is of another augmentation, step or regulariser"
_TRAINED = records.record(
    {
        "config": records.record({}, records.fields_of(TrainConfig)),
        "data": records.anything,
        **dict.fromkeys(_OPTIMIZERS, records.anything),
    },
    {"objective": records.table()},
)


def save_state(trainer: TrainState, folder: Path, **info: Any) -> Path:
    """Write a checkpoint; see ``copy_state``. Every rank must call this, the first writes."""
    write = copy_state(trainer, folder, **info)
    return trainer.group.from_first(write)


def copy_state(trainer: TrainState, folder: Path, **info: Any) -> Callable[[], Path]:
    """Copy all that a checkpoint holds; what is returned writes it, now or later, in any thread.

    Every rank must call this, and the first one what it returns.
    """
    rng: _Rng = {}
    for rank, state in enumerate(trainer.group.collect(_rng_state(trainer))):
        rng |= {_of_rank(name, rank): value for name, value in state.items()}
    if not trainer.group.is_first:
        return lambda: checkpoint_path(folder, trainer.step)
    return _copied(trainer, folder, rng, info)


def save_alone(trainer: TrainState, folder: Path) -> Path:
    """Write a checkpoint without meeting the other ranks, which may wait for this one.

    Networks and optimizers are alike on all ranks, and so is the noise; of torch's own streams it
    holds this rank's, and a resume starts the others' anew. One that stands is left as it is.
    """
    rank, state = trainer.group.rank, _rng_state(trainer)
    rng = {_of_rank(name, rank): value for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        # Ranks of one machine may come here at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        standing = checkpoint_path(folder, trainer.step)
        if standing.exists():
            return standing
        return _copied(trainer, folder, rng | {"noise": state["noise"]}, {})()
    finally:
        os.close(lock)


def _copied(
    trainer: TrainState, folder: Path, rng: _Rng, info: dict[str, Any]
) -> Callable[[], Path]:
    tensors_g, info_g = pack_optimizer(trainer.optimizer_g)
    tensors_d, info_d = pack_optimizer(trainer.optimizer_d)
    modules = _modules(trainer)
    files = {name: plain_names(module.state_dict()) for name, (module, _) in modules.items()}
    files |= {"optimizer_g": tensors_g, "optimizer_d": tensors_d}
    files |= {"rng": rng, "updates": _update_state(trainer)}
    facts = {**trainer.facts(), "optimizer_g": info_g, "optimizer_d": info_d, **info}
    copies = {name: copied_tensors(tensors) for name, tensors in files.items()}
    return partial(write_checkpoint, folder, trainer.step, copies, facts)


def open_state(path: Path) -> Checkpoint:
    """Verify a checkpoint as ``open_checkpoint`` does, and that training can go on from it.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        CheckpointError: it is torn, or lacks what a trainer needs.
    """
    checkpoint = open_checkpoint(path)
    _require_trained(checkpoint)
    return checkpoint


def _require_trained(checkpoint: Checkpoint) -> None:
    try:
        _TRAINED(checkpoint.manifest, "")
        objective_of(checkpoint.manifest)
    except RecordError as error:
        raise CheckpointError(f"{checkpoint.path / MANIFEST}: {error}") from error


def load_state(trainer: TrainState, checkpoint: Checkpoint) -> None:
    """Go back to where ``checkpoint`` was written, or stay as before where it does not fit.

    Raises:
        CheckpointError: it is of other models, other data or another configuration.
    """
    _require_trained(checkpoint)
    saved = checkpoint.manifest
    trainer.keep_precision(saved["config"])
    if changed := _changed(trainer, saved):
        raise CheckpointError(
            f"{checkpoint.path} cannot be resumed with another setting: {'; '.join(changed)}"
        )
    # Everything is checked before anything is touched.
    modules = _modules(trainer)
    tensors = {name: checkpoint.tensors(name) for name in modules if name != "extra"}
    if "extra" in modules:
        there = "extra.safetensors" in saved["files"]
        tensors["extra"] = checkpoint.tensors("extra") if there else {}
    for name, (module, what) in modules.items():
        tensors[name] = plain_names(tensors[name])
        require_alike(tensors[name], plain_names(module.state_dict()), what)
    if "extra" not in modules and "extra.safetensors" in saved["files"]:
        require_alike(checkpoint.tensors("extra"), {}, _EXTRA)
    optimizers = {
        name: fitting_optimizer_state(
            getattr(trainer, name), checkpoint.tensors(name), saved[name], name
        )
        for name in _OPTIMIZERS
    }
    updates, counts = _update_state(trainer), checkpoint.tensors("updates")
    require_alike(counts, updates, "updates are of another run")
    rng = checkpoint.tensors("rng")
    _check_rng_state(trainer, rng)

    for name, (module, _) in modules.items():
        load_tensors(module, tensors[name])
    for name, packed in optimizers.items():
        load_optimizer(getattr(trainer, name), packed)
    for name, target in updates.items():
        target.copy_(counts[name])
    trainer.step, trainer.rollbacks = checkpoint.step, int(saved.get("rollbacks", 0))
    trainer.schedulers.replay(trainer.step)
    _set_rng_state(trainer, rng)
    trainer.restored()


def moved(trainer: TrainState, checkpoint: Checkpoint) -> str | None:
    """What is not exact where ``checkpoint`` goes on, written on another kind of device."""
    before = _kind_of_device(checkpoint.tensors("rng"))
    if trainer.device.type == before:
        return None
    return (
        f"warning: {checkpoint.path} was written on {before} and goes on on {trainer.device.type}: "
        "noise and dropout are drawn from other random streams from here on, and sums are rounded "
        "in another order; weights, averages, optimizers and the order of the data are exact"
    )


def is_finite(trainer: TrainState) -> bool:
    """Whether every number of the networks, the optimizers and the other modules is."""
    states = [module.state_dict() for module, _ in _modules(trainer).values()]
    states += [pack_optimizer(getattr(trainer, name))[0] for name in _OPTIMIZERS]
    return all(bool(torch.isfinite(value).all()) for state in states for value in state.values())


def _changed(trainer: TrainState, saved: dict[str, Any]) -> list[str]:
    """What differs between the run that ``saved`` describes and ``trainer``, an entry a setting."""
    facts = trainer.facts()
    changed = changed_fields(saved["config"], trainer.config)
    changed += changed_objective(saved, trainer.objective)
    if saved["data"]["fingerprint"] != facts["data"]["fingerprint"]:
        changed.append(f"data: {saved['data']} in the checkpoint, {facts['data']} now")
    changed += changed_parts(saved.get("parts", {}), facts["parts"])
    for name in _OPTIMIZERS:
        scheduled = trainer.schedulers.settings
        changed += changed_optimizer(name, getattr(trainer, name), saved[name], scheduled)
    return changed


def _modules(trainer: TrainState) -> dict[str, tuple[nn.Module, str]]:
    """The modules of a run by the file that holds each, and what to say where it does not fit."""
    another = "is of another model"
    modules = {
        "generator": (trainer.generator, f"generator {another}"),
        "discriminator": (trainer.discriminator, f"discriminator {another}"),
    }
    if trainer.ema:
        modules["generator_ema"] = trainer.ema.average, f"averaged generator {another}"
    extra = _extra_modules(trainer)
    if extra.state_dict():
        modules["extra"] = extra, _EXTRA
    return modules


def _extra_modules(trainer: TrainState) -> nn.ModuleDict:
    """The augmentation, the step and the penalties, as far as they are modules."""
    parts: dict[str, object] = {"augment": trainer.gan.augment, "step": trainer.step_function}
    parts |= {f"penalty{i}": penalty for i, penalty in enumerate(trainer.gan.penalties)}
    return nn.ModuleDict({k: v for k, v in parts.items() if isinstance(v, nn.Module)})


def _update_state(trainer: TrainState) -> dict[str, Tensor]:
    state = {f"g.{k}": v for k, v in trainer.gan.update_g.state_dict().items()}
    return state | {f"d.{k}": v for k, v in trainer.gan.update_d.state_dict().items()}


def _of_rank(name: str, rank: int) -> str:
    return f"{name}.{rank}" if rank else name


def _rng_state(trainer: TrainState) -> _Rng:
    state = {"noise": trainer.noise.get_state(), "torch": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return state


def _check_rng_state(trainer: TrainState, saved: _Rng) -> None:
    """CheckpointError unless ``_set_rng_state`` can take ``saved``."""
    for name, state in _restored(trainer, saved).items():
        device = trainer.device if name in ("noise", "cuda") else torch.device("cpu")
        try:
            torch.Generator(device).set_state(state)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint's rng does not fit: {name} is {kind_of(state)} ({error})"
            ) from error


def _restored(trainer: TrainState, saved: _Rng) -> _Rng:
    """This rank's states of ``saved``, by the names that they have on the first."""
    if "noise" not in saved or "torch" not in {name.partition(".")[0] for name in saved}:
        raise CheckpointError("the checkpoint's rng does not fit: it has no noise or no torch")
    rank = trainer.group.rank
    states = {name: saved.get(_of_rank(name, rank)) for name in ("torch", "cuda")}
    on_gpu = trainer.device.type == "cuda"
    if not on_gpu:
        del states["cuda"]
    if trainer.device.type == _kind_of_device(saved):
        # One stream for all ranks, whatever their number; another kind of device draws another.
        states["noise"] = saved["noise"]
    return {name: state for name, state in states.items() if state is not None}


def _kind_of_device(saved: _Rng) -> str:
    """Where a run drew its random numbers."""
    return "cuda" if any(name.partition(".")[0] == "cuda" for name in saved) else "cpu"


def _set_rng_state(trainer: TrainState, saved: _Rng) -> None:
    states = _restored(trainer, saved)
    if "noise" in states:
        trainer.noise.set_state(states["noise"])
    else:
        entropy = np.random.SeedSequence([trainer.config.seed, trainer.step])
        trainer.noise.manual_seed(int(entropy.generate_state(1)[0]))
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], trainer.device)
