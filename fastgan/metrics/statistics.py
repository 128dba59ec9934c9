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

from fastgan.system import user_cache


def statistics_folder() -> Path:
    """$FASTGAN_STATISTICS, else statistics in the user's cache."""
    chosen = os.environ.get("FASTGAN_STATISTICS")
    return Path(chosen).expanduser() if chosen else user_cache() / "statistics"


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
