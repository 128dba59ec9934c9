"""Whether the launches of a step would be accepted by the GPU that they were recorded for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from tools.kernel_report.compare import Row
from tools.kernel_report.machine_code import Launch as Described
from tools.kernel_report.machine_code import compile_launch
from tools.kernel_report.triton_part import describe

from .gpus import GRID, REGISTERS, THREADS, Gpu
from .record import Launch


def problems(launches: Iterable[Launch]) -> list[str]:
    """What a GPU or the capture of a graph would refuse of launches, before they are compiled."""
    found = []
    for launch in launches:
        name = f"{launch.name} ({launch.where})"
        if launch.captured and launch.waits:
            found.append(f"{name}: while a graph is recorded {launch.waits}")
        if launch.kind != "triton":
            continue
        for size, most in zip(launch.grid, GRID, strict=False):
            if not 1 <= size <= most:
                found.append(f"{name}: a grid of {launch.grid}")
        if 32 * int(launch.options.get("num_warps", 4)) > THREADS:
            found.append(f"{name}: {launch.options['num_warps']} warps a block")
        for value in launch.arguments:
            base = getattr(value, "base", None)  # a tensor descriptor's
            if isinstance(base, torch.Tensor) and not _fits_tma(value):
                found.append(f"{name}: TMA needs addresses and strides of whole 16 bytes")
    return found


def _fits_tma(descriptor: object) -> bool:
    base: torch.Tensor = descriptor.base  # type: ignore[attr-defined]
    strides: list[int] = list(descriptor.strides)  # type: ignore[attr-defined]
    whole = all(stride * base.element_size() % 16 == 0 for stride in strides[:-1])
    return base.data_ptr() % 16 == 0 and whole and strides[-1] == 1


# Bytes of a spill that is told and no problem: ptxas parts with a register or two, stored and
# loaded a few times, where one more block of a kernel then fits on a multiprocessor.
TRADED = 8


class Compiler:
    """Compiles what Triton would compile of launches, each once.

    Attributes: remarks, on those that spill no more than TRADED.
    """

    def __init__(self, compile: Callable[[Described, str], Row] = compile_launch) -> None:
        self._compile = compile
        self.rows: dict[tuple[str, str, str, tuple[object, ...]], Row] = {}
        self.remarks: list[str] = []

    def problems(self, launches: Iterable[Launch], gpu: Gpu) -> list[str]:
        """Kernels that do not compile, spill or exceed a limit of the GPU."""
        found = []
        for launch in launches:
            if launch.kind != "triton":
                continue
            described = describe(launch.function, launch.arguments, launch.options)
            aligned = tuple(sorted(described.attributes))
            key = described.kernel, described.variant, gpu.target, aligned
            if key in self.rows:
                continue
            try:
                self.rows[key] = self._compile(described, gpu.target)
            except Exception as error:  # of the compiler, of whatever kind
                text = str(error).strip().splitlines() or [type(error).__name__]
                found.append(f"{described.kernel} {described.variant} {gpu.target}: {text[0]}")
                continue
            row = self.rows[key]
            found += exceeded(row, int(launch.options.get("num_warps", 4)), gpu)
            if 0 < row.spills <= TRADED:
                self.remarks.append(f"{' '.join(row.key)}: spills {row.spills}")
        return found


def exceeded(row: Row, warps: int, gpu: Gpu) -> list[str]:
    """What of a compiled kernel is beyond the GPU, or spills more than TRADED."""
    name, found = " ".join(row.key), []
    if row.spills > TRADED:
        found.append(f"{name}: spills {row.spills}")
    if row.shared > gpu.shared:
        found.append(f"{name}: {row.shared} bytes of shared memory of {gpu.shared}")
    a_warp = -(-row.registers * 32 // 256) * 256
    if row.registers > 255 or a_warp * warps > REGISTERS:
        found.append(f"{name}: {row.registers} registers in {warps} warps")
    return found
