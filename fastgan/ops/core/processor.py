"""What the processor at hand is fast at, by its vendor and instructions: never by timing, which
would let two runs of the same program round differently."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch


@cache
def vendor() -> str:
    """ "AuthenticAMD", "GenuineIntel", ...; "" where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    named = (line.partition(":") for line in text.splitlines() if line.startswith("vendor_id"))
    return next((value.strip() for _, _, value in named), "")


@cache
def fast_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN's products of a half-precision dtype are faster than its float32 ones.

    With a matrix unit (AMX) they are. AVX-512's bfloat16 dot product takes two terms a lane: AMD's
    processors start as many a cycle as float32 multiply-adds and reach twice their rate (measured:
    1.3 to 2.3 times, Zen 5); Intel's start half as many, and with the conversions end up slower
    (measured: 0.55 to 0.8 times, Sapphire Rapids without AMX). Without either, PyTorch has no fast
    kernels for 16 bits. Not x86: left to PyTorch.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    if dtype is torch.float16:
        return _has("_is_amx_fp16_supported")
    return matrix_unit() or dot_products()


@cache
def matrix_unit() -> bool:
    """Whether the processor has a matrix unit for bfloat16 (AMX)."""
    return _has("_is_amx_tile_supported")


@cache
def dot_products() -> bool:
    """Whether AVX-512's dot product of bfloat16 is the processor's fastest product of it."""
    amd = vendor() == "AuthenticAMD"
    return amd and _has("_is_avx512_bf16_supported") and not matrix_unit()


@cache
def fast_products() -> bool:
    """Whether PyTorch's float32 matrix products are as fast as oneDNN's convolutions.

    They are MKL's in the usual builds, which keeps to AVX2 on processors that are not Intel's
    (measured on Zen 5: 220 GFLOP/s, where oneDNN's convolutions reach 540).
    """
    return vendor() != "AuthenticAMD"


def _has(name: str) -> bool:
    return bool(getattr(torch.cpu, name, lambda: False)())
