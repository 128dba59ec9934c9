"""What a checkpoint holds: everything that a run's future depends on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastgan.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_module,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)
from fastgan.engine.config import changed_fields

if TYPE_CHECKING:
    from fastgan.engine.trainer import Trainer

# Of each rank: the noise's generator, and torch's own on the CPU and on the device.
_Rng = dict[str, Tensor]


def save_state(trainer: Trainer, folder: Path, **info: Any) -> Path:
    """Write a checkpoint; see ``save_checkpoint``. Every rank must call this, the first writes."""
    rng: _Rng = {}
    for rank, state in enumerate(trainer.ranks.collect(_rng_state(trainer))):
        rng |= {_of_rank(name, rank): value for name, value in state.items()}
    return trainer.ranks.from_first(lambda: _write(trainer, folder, rng, info))


def _write(trainer: Trainer, folder: Path, rng: _Rng, info: dict[str, Any]) -> Path:
    tensors_g, info_g = pack_optimizer(trainer.optimizer_g)
    tensors_d, info_d = pack_optimizer(trainer.optimizer_d)
    files = {
        "generator": trainer.generator.state_dict(),
        "discriminator": trainer.discriminator.state_dict(),
        "optimizer_g": tensors_g,
        "optimizer_d": tensors_d,
        "rng": rng,
        "updates": _update_state(trainer),
    }
    if trainer.ema:
        files["generator_ema"] = trainer.ema.average.state_dict()
    if extra := _extra_modules(trainer).state_dict():
        files["extra"] = extra
    facts = {**trainer.facts(), "optimizer_g": info_g, "optimizer_d": info_d, **info}
    return save_checkpoint(folder, trainer.step, files, facts)


def load_state(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Go back to where ``checkpoint`` was written.

    Raises:
        CheckpointError: it is of other models, other data or another configuration.
    """
    saved, facts = checkpoint.manifest, trainer.facts()
    changed = changed_fields(saved["config"], trainer.config)
    if saved["data"]["fingerprint"] != facts["data"]["fingerprint"]:
        changed.append(f"data: {saved['data']} in the checkpoint, {facts['data']} now")
    if changed:
        raise CheckpointError(
            f"{checkpoint.path} cannot be resumed with another setting: {'; '.join(changed)}"
        )
    load_module(trainer.generator, checkpoint.tensors("generator"), "generator")
    load_module(trainer.discriminator, checkpoint.tensors("discriminator"), "discriminator")
    if trainer.ema:
        load_module(trainer.ema.average, checkpoint.tensors("generator_ema"), "averaged generator")
    extra = _extra_modules(trainer)
    if extra.state_dict():
        load_module(extra, checkpoint.tensors("extra"), "augmentation or regularisers")
    for name in ("optimizer_g", "optimizer_d"):
        unpack_optimizer(getattr(trainer, name), checkpoint.tensors(name), saved[name])
    for name, target in _update_state(trainer).items():
        target.copy_(checkpoint.tensors("updates")[name])
    _set_rng_state(trainer, checkpoint.tensors("rng"))
    trainer.step, trainer.rollbacks = checkpoint.step, int(saved.get("rollbacks", 0))


def _extra_modules(trainer: Trainer) -> nn.ModuleDict:
    """The augmentation, the step and the penalties, as far as they are modules."""
    parts: dict[str, object] = {"augment": trainer.gan.augment, "step": trainer.step_function}
    parts |= {f"penalty{i}": penalty for i, penalty in enumerate(trainer.gan.penalties)}
    return nn.ModuleDict({k: v for k, v in parts.items() if isinstance(v, nn.Module)})


def _update_state(trainer: Trainer) -> dict[str, Tensor]:
    state = {f"g.{k}": v for k, v in trainer.gan.update_g.state_dict().items()}
    return state | {f"d.{k}": v for k, v in trainer.gan.update_d.state_dict().items()}


def _of_rank(name: str, rank: int) -> str:
    return f"{name}.{rank}" if rank else name


def _rng_state(trainer: Trainer) -> _Rng:
    state = {"noise": trainer.noise.get_state(), "torch": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return state


def _set_rng_state(trainer: Trainer, saved: _Rng) -> None:
    # The noise is one stream for all ranks, whatever their number.
    trainer.noise.set_state(saved["noise"])
    rank = trainer.ranks.rank
    if (state := saved.get(_of_rank("torch", rank))) is not None:
        torch.set_rng_state(state)
    state = saved.get(_of_rank("cuda", rank))
    if trainer.device.type == "cuda" and state is not None:
        torch.cuda.set_rng_state(state, trainer.device)
