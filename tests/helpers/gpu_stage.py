"""A stage of `make gpu` as tests run it."""

from __future__ import annotations

import time
from pathlib import Path

from tools.gpu.stage import Stage


def stage(tmp_path: Path, seconds: float = 60.0, go_on: bool = False, name: str = "own") -> Stage:
    return Stage(name, tmp_path, ends=time.monotonic() + seconds, go_on=go_on)
