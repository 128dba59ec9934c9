"""Static report of compiled GPU kernels: registers, spills, shared memory, width of memory access.

Needs no GPU. ``python -m tools.kernel_report`` writes bench/reports/kernels.json and kernels.md,
and kernels.digests.json, by which the next run knows what it need not compile (see digests.py);
``--check`` fails on a spill, on a matrix product without tensor-core instructions, on too much
shared memory, or where the committed report no longer matches.

A part (triton_part.py, cuda_part.py) is a module with

    SAMPLE                             how many units that are known are compiled all the same
    unavailable() -> str | None        why it cannot compile here; None if it can
    toolchain() -> str                 name and version of the compiler
    jobs(select: Select) -> list[Job]  what makes the selected rows
    compile(units) -> list[list[Row]]  the rows of units of jobs
"""
