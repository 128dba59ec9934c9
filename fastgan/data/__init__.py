"""Data: `load` a set of images from anywhere, `ResidentLoader` to make batches of it.

Downloads are `fastgan.data.fetch.fetch`. docs/data.md has the sources and options on one page.
"""

from __future__ import annotations

from fastgan.data.dataset import DataError, ImageDataset
from fastgan.data.loading import load
from fastgan.data.resident import ResidentLoader

__all__ = ["DataError", "ImageDataset", "ResidentLoader", "load"]
