"""Puts this folder's helper (sync_worker) where its test imports it from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
