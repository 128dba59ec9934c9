"""Texts that a generator has drawn, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fastgan.data.text import decode
from fastgan.system import whole_file


def text_lines(samples: Tensor, characters: str) -> list[str]:
    """Texts [N, len(characters), L], each in a line of its own: line ends within are written ⏎."""
    return [text.replace("\n", "⏎") for text in decode(samples, characters)]


def save_texts(lines: Sequence[str], path: Path) -> None:
    """Write a text a line, as a whole or not at all."""
    with whole_file(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)
