"""Host memory of a process that does nothing but train, and what a device has at most."""

from __future__ import annotations

import ctypes
import os

import torch

from fastgan.data.limits import device_memory

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Has glibc keep freed blocks of up to 32 MB, instead of giving them back to the system.

    A training step frees and asks for the same tensors over and over; a page that comes fresh from
    the system is cleared and mapped when it is first written, which costs more than the write. The
    process then holds its largest step's memory until it ends, so this is for programs, not for
    libraries. False, and nothing changes, where the C library is not glibc or the environment
    already says how memory is to be kept (MALLOC_*, GLIBC_TUNABLES).
    """
    configured = any(name.startswith("MALLOC_") for name in os.environ)
    if configured or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (raises where it is another library)
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def memory_used(device: torch.device) -> int | None:
    """Bytes that a run holds: of a GPU what torch has reserved there, else this process's resident
    memory; None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def require_memory(name: str, value: int, least: int, device: torch.device) -> None:
    """ValueError, naming the setting, where a device cannot hold the ``least`` bytes it takes."""
    there = device_memory(device)
    if least > there:
        raise ValueError(
            f"{name} {value} takes {least / 1e9:.1f} GB at the very least; {device} has "
            f"{there / 1e9:.1f} GB"
        )
