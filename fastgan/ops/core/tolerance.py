"""How far results may lie apart, as a share of the largest magnitude: the one table of it.

The tests, the parity check of benchmarks and `fuse`'s check of example_inputs take numbers here.
"""

from __future__ import annotations

import torch

# What the tolerance rule adds to twice PyTorch's own error, for cases where PyTorch happens to be
# exact, or nearly: a few units in the last place (more for float64, where the reference is
# PyTorch's own result and its rounding counts against us).
FLOOR = {
    torch.float64: 1e-12,
    torch.float32: 8 * torch.finfo(torch.float32).eps,
    torch.float16: torch.finfo(torch.float16).eps,
    torch.bfloat16: torch.finfo(torch.bfloat16).eps,
}

# What two runs of a network at one dtype may differ by, in floors: many layers round, those of
# half precision only what stands between them.
NETWORK = {torch.float64: 1000, torch.float32: 100, torch.float16: 20, torch.bfloat16: 12}


def between_networks(dtype: torch.dtype) -> float:
    """What outputs of two runs of a network may differ by; 0 for a dtype that does not round."""
    return NETWORK[dtype] * FLOOR[dtype] if dtype in FLOOR else 0.0
