"""Whether a step's blocks keep their activations for backward, by the memory that a GPU has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import torch

from fastgan.nn import activations_kept
from fastgan.nn.recording import Run, recording
from fastgan.ops.core.tensors import autocast_dtype

KeepActivations = Literal["auto", "on", "off"]
# Of the free memory, what a step may take more: the rest is for grids, checkpoints, evaluations.
SHARE = 0.5

_T = TypeVar("_T")


class Keeper:
    """Makes steps with activations kept or not.

    "auto" is decided on a GPU by the first step, which runs as the networks were made: its blocks
    keep their activations from then on where what they would hold, with the graphs of captured
    steps, takes no more than half of the memory that is free.

    Args:
        captures: whether steps are to be captured, which takes the memory of a step once more.
        fixed: the choice may not depend on the memory, and "auto" leaves the networks as they are.
    """

    def __init__(
        self, setting: KeepActivations, device: torch.device, *, captures: bool, fixed: bool
    ) -> None:
        self.setting: str = setting
        self._device, self._captures = device, captures
        self._decided = setting != "auto" or device.type != "cuda" or fixed

    def __call__(self, step: Callable[[], _T]) -> _T:
        if self._decided:
            with activations_kept(self.setting):
                return step()
        sizes = _Sizes()
        with recording(sizes):
            made = step()
        self._decided = True
        if self._fits(sizes.bytes):
            self.setting = "on"
        return made

    def _fits(self, more: int) -> bool:
        free, _ = torch.cuda.mem_get_info(self._device)
        graphs = torch.cuda.max_memory_allocated(self._device) if self._captures else 0
        return more > 0 and more + graphs <= SHARE * free


class _Sizes(list[Run]):
    """Of blocks that ran, what each would keep if it kept its activations; not the blocks."""

    bytes = 0

    def append(self, run: Run) -> None:
        block = run.block
        made = block.norm is not None or block.before.name != "identity"
        if block.conv is not None and made and run.form and not run.keeps_normalised:
            self.bytes += run.input.numel() * autocast_dtype(run.input).itemsize

    def __setitem__(self, at: object, runs: Iterable[Run]) -> None:  # type: ignore[override]
        """Of blocks that ran on copies: they were counted."""
