"""Fusing the layers of any model: `fuse`, `unfuse`, `fold` for inference, `explain` and `tune`."""

from fastgan.fusion.explaining import explain, explained, tune
from fastgan.fusion.exporting import export
from fastgan.fusion.folding import fold
from fastgan.fusion.fuse import fuse, unfuse
from fastgan.fusion.report import Block, FusionReport

__all__ = [
    "Block",
    "FusionReport",
    "explain",
    "explained",
    "export",
    "fold",
    "fuse",
    "tune",
    "unfuse",
]
