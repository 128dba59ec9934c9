"""Runs only where Triton was imported as its interpreter: ../test_interpreter.py sees to it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _arithmetic() -> Iterator[None]:
    from tools.rehearse.interpreter import as_hardware

    with as_hardware():
        yield
