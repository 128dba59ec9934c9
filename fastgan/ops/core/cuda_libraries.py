"""How cuDNN and cuBLAS compute, in training and in benchmarks alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cuda_libraries(precision: str, *, deterministic: bool = False) -> Iterator[None]:
    """Inside, cuDNN and cuBLAS work as :func:`set_cuda_libraries` says."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    set_cuda_libraries(precision, deterministic=deterministic or cudnn.deterministic)
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def set_cuda_libraries(precision: str, *, deterministic: bool = False) -> None:
    """How cuDNN and cuBLAS compute on NVIDIA GPUs, from here on.

    Float32 products use TF32 (10 bits of mantissa) only if asked for; PyTorch's own default is TF32
    in convolutions and not in matrix products. Of cuDNN's algorithms the fastest is found by trying
    them on each new shape, so that two processes may differ in the last bits; with
    ``deterministic`` it is one that always gives the same bits, and nothing is tried.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
