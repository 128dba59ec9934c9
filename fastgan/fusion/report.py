"""What `fuse` did to a model, and why not more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from fastgan.fusion.chain import Chain


@dataclass(frozen=True)
class Block:
    """A block that stands in a model: the names of its layers, what they are, and its fate.

    Attributes:
        reason: why it was left as it is; empty for a fused block.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    reason: str = ""

    @property
    def fused(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        fate = f"left: {self.reason}" if self.reason else "recognised"
        return f"{', '.join(self.layers)}: {' → '.join(self.kinds)}: {fate}"


class Run(NamedTuple):
    """How the layers of fused blocks run that run together: form and why as of `explain`."""

    layers: tuple[str, ...]
    form: str
    why: str

    def __str__(self) -> str:
        return f"{', '.join(self.layers)}: {self.form or 'as it is'}: {self.why}"


@dataclass(repr=False)
class FusionReport:
    """The blocks found in a model, in the order they run. Printing it shows how they run on the
    last kind of input, and then all that were recognised, or left and why.

    Attributes:
        untraced: (module, why) of the forwards that could not be traced; their submodules were
            looked at one by one.
        chains: the fused blocks that follow on one another, as one module each, in training and in
            evaluation.
    """

    blocks: list[Block] = field(default_factory=list)
    untraced: list[tuple[str, str]] = field(default_factory=list)
    chains: list[tuple[list[Chain], list[Chain]]] = field(default_factory=list)

    @property
    def fused(self) -> int:
        """How many blocks were fused."""
        return sum(block.fused for block in self.blocks)

    @property
    def runs(self) -> list[Run]:
        """The form chosen for each part of the fused blocks; none before the model was called.

        A form is chosen by the kind of input: those of the kind that came last for the first time
        stand here, those of training, where it has trained.
        """
        found = []
        for training, evaluation in self.chains:
            trained = any(chain.planned.last for chain in training)
            for chain in training if trained else evaluation:
                parts = chain.planned.parts()
                found += [Run(block.names, form.name, form.why) for block, form in parts]
        return found

    def __len__(self) -> int:
        return len(self.blocks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        """Short, as a prompt shows it."""
        return f"<{str(self).splitlines()[0]}; print() shows them>"

    def __str__(self) -> str:
        runs = self.runs
        known = f"{self.fused} of {len(self.blocks)} blocks recognised"
        if runs:
            differ = sum(run.form not in ("", "unfused") for run in runs)
            lines = [f"{differ} of {len(runs)} parts run fused on the last kind of input; {known}"]
            lines += [f"  {run}" for run in runs]
        elif not self.blocks:
            lines = [
                "no block to fuse: no convolution, norm and activation (docs/fuse.md) in a row"
            ]
        else:
            lines = [f"{known}; the first call shows which run fused"]
        lines += [f"  {block}" for block in self.blocks]
        lines += [f"  {name or 'the model'} {reason}" for name, reason in self.untraced]
        return "\n".join(lines)
