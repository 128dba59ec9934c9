"""How much memory a call takes.

By what the system counts: tracemalloc may crash where it stops while another thread allocates
(python/cpython#128679), and a decoder's thread, or the test runner's, is such a thread.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # written to clear_refs: proc(5)
_THREADS = 2 * 2**30  # of addresses: the stacks and heaps of the threads that decode


@contextmanager
def memory_at_most(touched: int, reserved: int = 0) -> Iterator[None]:
    """An AssertionError if more bytes are touched at once than the process had before.

    Meanwhile an allocation far beyond ``touched + reserved`` is a MemoryError. Both on Linux alone.
    """
    if not (_PROCESS / "clear_refs").exists():
        yield
        return
    _give_back()
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    before = _status("VmHWM")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    addresses = _status("VmSize") + touched + reserved + _THREADS
    resource.setrlimit(resource.RLIMIT_AS, (addresses, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown = _status("VmHWM") - before
    assert grown <= touched, f"{grown / 2**20:.0f} MB were touched, of {touched / 2**20:.0f}"


def _give_back() -> None:
    """Memory that was freed and that the heap keeps would be taken without being counted."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(value)
