"""Static report of compiled GPU kernels: registers, spills, shared memory, width of memory access.

Needs no GPU. ``python -m tools.kernel_report`` writes bench/reports/kernels.json and kernels.md;
``--check`` compiles again and fails on a spill, on a matrix product without tensor-core
instructions, on too much shared memory, or where the committed report no longer matches.

A part (triton_part.py, cuda_part.py) is a module with two functions:

    unavailable() -> str | None        why it cannot compile here; None if it can
    collect(select: Select) -> Section  one row for every compiled (kernel, variant, target)
"""
