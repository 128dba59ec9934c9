"""Texts: files of UTF-8 as windows of characters."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.checks import check_int, check_share
from fastgan.data.files import expanded, open_regular
from fastgan.data.source import DataError
from fastgan.data.windows import Windows

UNKNOWN = "\ufffd"
"""Stands for every character that a text's alphabet has not; always its first."""
MAX_CHARACTERS = 255  # beside it: codes are bytes
_MAX_BYTES = 1024**3


class Split(NamedTuple):
    """A text in two: what is trained on, and what is held out, its end."""

    train: str
    held_out: str


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, or of all .txt of a folder in the order of their names.

    Line ends become "\\n".

    Raises:
        OSError: it cannot be read.
        DataError: no UTF-8 (the message has the file and the byte), empty, or above 1 GiB.
    """
    found = expanded(path)
    files = sorted(found.rglob("*.txt")) if found.is_dir() else [found]
    if not files:
        raise DataError(f"{found}: a folder without .txt files")
    text = "".join(map(_decoded, files))
    if not text.strip():
        raise DataError(f"{found}: an empty text")
    return text


def _decoded(path: Path) -> str:
    with open_regular(path) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: more than {_MAX_BYTES} bytes of text: refused")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte {error.start} is {content[error.start]:#04x}; convert it, "
            "such as by iconv -f latin1 -t utf-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def open_text(
    path: str | os.PathLike[str], length: int, held_out: float, limit: int | None = None
) -> Windows:
    """Windows of a text but for its end, a share of `held_out`, which they carry along.

    Errors of `read_text`, `split_text` and `text_windows`; ValueError for a `limit` below 1.
    """
    text = read_text(path)
    if limit is not None:
        text = text[: check_int("limit", limit, 1)]
    train, rest = split_text(text, held_out)
    return replace(text_windows(train, length, str(path)), kept=Split(train, rest))


def split_text(text: str, held_out: float) -> Split:
    """`text` but for its last part, and that; ValueError for a share outside [0, 1)."""
    check_share("held_out", held_out)
    at = round(len(text) * (1 - held_out))
    return Split(text[:at], text[at:])


def alphabet(text: str) -> str:
    """UNKNOWN and the characters of `text`, in order: at most the MAX_CHARACTERS commonest."""
    counts = Counter(text)
    counts.pop(UNKNOWN, None)
    return UNKNOWN + "".join(sorted(c for c, _ in counts.most_common(MAX_CHARACTERS)))


def encode(text: str, characters: str) -> Tensor:
    """Each character's place in `characters`, 0 for one that is not there: uint8 [T]."""
    place = {ord(c): chr(i) for i, c in enumerate(characters)}
    known = text.translate(place | {ord(c): chr(0) for c in {*text} - {*characters}})
    return torch.frombuffer(bytearray(known.encode("latin1")), dtype=torch.uint8)


def unseen(text: str, characters: str) -> str:
    """What `characters` lacks of `text`, in words; "" where it lacks none."""
    lacking = Counter(c for c in text if c not in characters)
    if not lacking:
        return ""
    most = ", ".join(f"{c!r} {n}" for c, n in lacking.most_common(5))
    return f"{lacking.total()} of {len(text)} characters are not of the alphabet ({most})"


def one_hot(codes: Tensor, size: int) -> Tensor:
    """Codes [B, L] as float32 [B, size, L], one where a character stands."""
    return F.one_hot(codes.long(), size).movedim(-1, 1).float()


def decode(items: Tensor, characters: str) -> list[str]:
    """The likeliest characters of items [N, len(characters), L], a string each."""
    return ["".join(characters[i] for i in row) for row in items.argmax(1).tolist()]


def text_windows(text: str, length: int, name: str, characters: str | None = None) -> Windows:
    """Every window of `length` characters of `text`, one-hot [len(characters), length].

    Args:
        characters: the alphabet; by default the text's own.

    Raises:
        DataError: the text is shorter than a window.
    """
    check_int("length", length, 1)
    if len(text) < length:
        raise DataError(f"{name}: {len(text)} characters, fewer than a window's {length}")
    characters = alphabet(text) if characters is None else characters
    lacking = unseen(text, characters)
    return Windows(
        encode(text, characters),
        torch.arange(len(text) - length + 1),
        length,
        partial(one_hot, size=len(characters)),
        name,
        {"characters": characters},
        (f"{name}: {lacking}: each stands as {UNKNOWN}",) if lacking else (),
    )
