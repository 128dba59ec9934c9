"""What became of blocks: how each ran, on what, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from fastgan.nn.blocks import Block
from fastgan.ops.core.memory_format import is_channels_last


class Run(NamedTuple):
    """What became of a block: its input and output, how it ran and why.

    Attributes:
        form: of `tuning.FORMS`; "norm_act" without a convolution; "unfused" where it ran as the
            layers it is made of by choice, "" by need.
        keeps_normalised: for backward, beside its input.
        converted: it ran on channels-last copies of contiguous tensors.
    """

    block: Block
    input: Tensor
    output: Tensor
    form: str
    why: str
    keeps_normalised: bool
    converted: bool = False


_records: list[Run] | None = None


@contextmanager
def recording(runs: list[Run] | None = None) -> Iterator[list[Run]]:
    """The list, a new one or that given, to which every block that runs within adds what became of
    it.
    """
    global _records
    previous, _records = _records, [] if runs is None else runs
    try:
        yield _records
    finally:
        _records = previous


def is_recording() -> bool:
    return _records is not None


def record(run: Run) -> None:
    """Adds what became of a block to the list of `recording`."""
    assert _records is not None
    _records.append(run)


@contextmanager
def recorded_as_converted() -> Iterator[None]:
    """Blocks that run channels-last within are recorded as run on copies of contiguous tensors."""
    begins = 0 if _records is None else len(_records)
    yield
    if _records is not None:
        ran = _records[begins:]
        _records[begins:] = [r._replace(converted=is_channels_last(r.input)) for r in ran]
