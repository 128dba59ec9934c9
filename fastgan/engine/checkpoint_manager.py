"""Checkpoints of a training loop that is not the Trainer's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan.checks import check_int
from fastgan.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    newest_checkpoint,
    prune_checkpoints,
    require_alike,
    save_checkpoint,
)
from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.ema import Ema
from fastgan.engine.gan import GAN
from fastgan.engine.optimizer_state import (
    changed_optimizer,
    fitting_optimizer_state,
    load_optimizer,
    pack_optimizer,
)
from fastgan.engine.update import Update

# The names of files and of random states that are not parts.
_RESERVED = ("rng", "updates", "torch", "cuda")

Part = GAN | Update | Ema | nn.Module | Optimizer | torch.Generator


class CheckpointManager:
    """Saves what a loop's future depends on, and goes back to it: bit for bit, as a Trainer does.

    Checkpoints stand in ``folder/checkpoints`` in the form of a run's: written beside, synced and
    renamed, verified before anything is loaded, nothing pickled. Beside the parts they hold torch's
    own random states (of the CPU and the current GPU), not those of NumPy and of ``random``. The
    data's order must follow from the step, as a loader's ``rows(step)`` does.

    In a run of several processes each makes one and calls it at the same points; the first writes.

    Args:
        folder: of the run; an average that is given as ``generator_ema`` is what
            ``load_generator(folder)`` finds.
        keep_last: the newest checkpoints to keep; 0 keeps all.
        info: JSON-ready facts that stand in every checkpoint. With ``generator={"name": ...,
            "arguments": {...}}``, as ``create_model`` takes them, ``fastgan sample`` builds it.
        **parts: by name; a GAN stands for its networks, updates, augmentation and penalties.

    Raises:
        TypeError: a part is of no kind that can be saved.
        ValueError: two parts have the same name.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int = 0,
        info: dict[str, Any] | None = None,
        **parts: Part,
    ) -> None:
        self.folder = Path(folder)
        self._keep_last = check_int("keep_last", keep_last, 0)
        self._info = info or {}
        self._group = DistributedGroup.current()
        self._modules: dict[str, nn.Module] = {}
        self._optimizers: dict[str, Optimizer] = {}
        self._counts: dict[str, Tensor] = {}
        self._generators: dict[str, torch.Generator] = {}
        for name, part in parts.items():
            self._add(name, part)
        taken = {"format", "step", "files", "sha256", *self._optimizers} & self._info.keys()
        if taken:
            raise ValueError(f"info must not have an entry of the name {sorted(taken)[0]!r}")

    def save(self, step: int) -> Path:
        """Write the checkpoint of ``step``, the number of steps that are made; returns its path.

        Raises:
            OSError: it cannot be written; those that stand there are as before.
        """
        rng: dict[str, Tensor] = {}
        for rank, states in enumerate(self._group.collect(self._random_states())):
            rng |= {f"{name}.{rank}": state for name, state in states.items()}
        return self._group.from_first(lambda: self._write(step, rng))

    def restore(self) -> int:
        """Go back to the newest whole checkpoint; returns its step, or 0 where there is none.

        A captured step must forget what it has recorded if it has been called before.

        Raises:
            CheckpointError: it is of other parts, or none that stands there is whole.
        """
        torn: list[str] = []
        found = newest_checkpoint(self.folder / "checkpoints", torn)
        for problem in torn:
            warnings.warn(f"not used: {problem}", stacklevel=2)
        if found is None:
            if torn:
                raise CheckpointError(f"every checkpoint of {self.folder} is torn")
            return 0
        self._load(found)
        return found.step

    def _add(self, name: str, part: Part) -> None:
        if isinstance(part, GAN):
            others: dict[str, object] = {"augment": part.augment}
            others |= {f"penalty{i}": penalty for i, penalty in enumerate(part.penalties)}
            inner: dict[str, Part] = {"generator": part.generator, "g": part.update_g}
            inner |= {"discriminator": part.discriminator, "d": part.update_d}
            inner |= {k: m for k, m in others.items() if isinstance(m, nn.Module)}
            for inner_name, inner_part in inner.items():
                self._add(inner_name, inner_part)
        elif isinstance(part, Update):
            self._put(self._optimizers, f"optimizer_{name}", part.optimizer)
            self._counts |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
        elif isinstance(part, Ema):
            self._put(self._modules, name, part.average)
        elif isinstance(part, nn.Module):
            self._put(self._modules, name, part)
        elif isinstance(part, Optimizer):
            self._put(self._optimizers, name, part)
        elif isinstance(part, torch.Generator):
            self._put(self._generators, name, part)
        else:
            raise TypeError(
                f"{name} must be a GAN, an Update, an Ema, a module, an optimizer or a "
                f"torch.Generator, got {type(part).__name__}"
            )

    def _put(self, kind: dict[str, Any], name: str, part: Any) -> None:
        files = self._modules, self._optimizers, self._generators, _RESERVED
        if any(name in names for names in files):
            raise ValueError(f"there are two parts of the name {name!r}, or it is reserved")
        kind[name] = part

    def _write(self, step: int, rng: dict[str, Tensor]) -> Path:
        packed = {name: pack_optimizer(o) for name, o in self._optimizers.items()}
        files = {name: module.state_dict() for name, module in self._modules.items()}
        files |= {name: tensors for name, (tensors, _) in packed.items()}
        files |= {"rng": rng, "updates": self._counts}
        facts = self._info | {name: about for name, (_, about) in packed.items()}
        folder = self.folder / "checkpoints"
        path = save_checkpoint(folder, step, files, facts)
        prune_checkpoints(folder, self._keep_last)
        return path

    def _load(self, saved: Checkpoint) -> None:
        # Everything is checked before anything is touched.
        modules = {name: saved.tensors(name) for name in self._modules}
        for name, module in self._modules.items():
            require_alike(modules[name], module.state_dict(), f"{name} is of another module")
        packed = {}
        for name, optimizer in self._optimizers.items():
            tensors, about = saved.tensors(name), saved.manifest[name]
            if changed := changed_optimizer(name, optimizer, about):
                raise CheckpointError(f"{saved.path} is of other optimizers: {'; '.join(changed)}")
            packed[name] = fitting_optimizer_state(optimizer, tensors, about, name)
        counts = saved.tensors("updates")
        require_alike(counts, self._counts, "updates are of another run")
        states = self._fitting_random_states(saved)

        for name, module in self._modules.items():
            module.load_state_dict(modules[name])
        for name, state in packed.items():
            load_optimizer(self._optimizers[name], state)
        for name, count in self._counts.items():
            count.copy_(counts[name])
        for name, generator in self._sources().items():
            generator.set_state(states[name])

    def _random_states(self) -> dict[str, Tensor]:
        return {name: generator.get_state() for name, generator in self._sources().items()}

    def _sources(self) -> dict[str, torch.Generator]:
        """The parts that are random number generators, and torch's own."""
        own = {"torch": torch.default_generator}
        if torch.cuda.is_available():
            torch.cuda.init()
            own["cuda"] = torch.cuda.default_generators[torch.cuda.current_device()]
        return own | self._generators

    def _fitting_random_states(self, saved: Checkpoint) -> dict[str, Tensor]:
        rng, states = saved.tensors("rng"), {}
        for name, generator in self._sources().items():
            key = f"{name}.{self._group.rank}"
            if key not in rng:
                raise CheckpointError(f"{saved.path} has no random state {key}: it has {[*rng]}")
            try:
                torch.Generator(generator.device).set_state(rng[key])
            except (RuntimeError, TypeError) as error:
                raise CheckpointError(
                    f"{saved.path}: the random state {key} does not fit a generator on "
                    f"{generator.device}: {error}"
                ) from error
            states[name] = rng[key]
        return states
