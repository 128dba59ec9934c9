"""Rates of GPUs by their data sheets, for bounds of machines that are not at hand."""

from __future__ import annotations

from typing import NamedTuple


class Peak(NamedTuple):
    """Operations a second of dense matrix products (data sheets often give those of sparse ones,
    which are twice as many) with float32 sums, and bytes a second of the memory.

    Attributes:
        half: of bfloat16 and float16.
        float32: of the plain units, without TF32.
        tma: it copies boxes of tensors to shared memory by itself, as from Hopper on.
        multiprocessors: of a Hopper GPU, whose compiled loops the kernel report reads; else 0.
    """

    half: float
    tf32: float
    float32: float
    bytes: float
    source: str
    tma: bool = False
    multiprocessors: int = 0

    def rates(self, precision: str) -> tuple[float, float]:
        """Operations and bytes a second; precision: "float32", "tf32", "bfloat16", "float16"."""
        return {"tf32": self.tf32, "float32": self.float32}.get(precision, self.half), self.bytes


GPUS = {
    "A100 80GB SXM": Peak(312e12, 156e12, 19.5e12, 2.039e12, "NVIDIA A100 data sheet"),
    "H100 SXM": Peak(989.5e12, 494.5e12, 67e12, 3.35e12, "NVIDIA H100 data sheet", True, 132),
    "H200 SXM": Peak(989.5e12, 494.5e12, 67e12, 4.8e12, "NVIDIA H200 data sheet", True, 132),
    "B200": Peak(2250e12, 1100e12, 75e12, 7.7e12, "NVIDIA Blackwell data sheet, HGX B200", True),
    "RTX 4090": Peak(165.2e12, 82.6e12, 82.6e12, 1.008e12, "NVIDIA Ada architecture white paper"),
}


def find_gpu(name: str) -> tuple[str, Peak]:
    """The GPU whose name holds `name` ("h200"); ValueError where none does, or several."""
    found = [known for known in GPUS if name.lower() in known.lower()]
    if len(found) != 1:
        raise ValueError(f"gpu: {name!r} is not one of {', '.join(found or GPUS)}")
    return found[0], GPUS[found[0]]
