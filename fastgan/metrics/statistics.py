"""Features of real data, kept by the content that they were made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor


def statistics_folder() -> Path:
    """$FASTGAN_STATISTICS, else fastgan/statistics in the user's cache ($XDG_CACHE_HOME)."""
    chosen = os.environ.get("FASTGAN_STATISTICS")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastgan" / "statistics"


def cached(parts: tuple[str, ...], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives, from the cache if the same `parts` were asked for before.

    Args:
        parts: all that the tensors depend on. A file appears under its name only when it is
            complete, and one that cannot be read is made again. Without a writable cache nothing is
            kept.
    """
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    path = statistics_folder() / f"{name}.safetensors"
    try:
        return decode(path.read_bytes())
    except (OSError, SafetensorError):
        made = make()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(encode(made))
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
    return made
