"""Fused operators, each with a reference, a C++ CPU, a Triton and a CUDA backend."""

from fastgan.ops._dispatch import available, backend
from fastgan.ops.norm_act import instance_norm_act, norm_act

__all__ = ["available", "backend", "instance_norm_act", "norm_act"]
