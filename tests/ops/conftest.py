"""Puts this folder's helpers (eager, tolerance) where its tests import them from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
