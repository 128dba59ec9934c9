"""Puts this folder's helper (sync_worker) and those of tests/ops where tests import them from."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ops")]
