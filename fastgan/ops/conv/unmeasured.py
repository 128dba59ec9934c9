"""What algorithms for GPUs say of their speed that have not been measured against the library."""

from __future__ import annotations

from fastgan.ops.conv.problem import Problem

TIME = 1.0


def prefers(p: Problem) -> bool:
    """Only where Triton is asked for."""
    return p.triton


def beats_eager(p: Problem, grad_x: bool) -> bool:
    return False
