"""Triton's sum of a matrix' rows or columns by weights: a layer of one output, and its gradient."""

from math import gcd

import torch
import triton
import triton.language as tl

from fastgan.kernels.core.geometry import cdiv, device_guard

Tensor = torch.Tensor

# Rows and columns of a step: a program sums one row, or so many columns.
ALONG_ROW, DOWN_COLUMNS, WARPS = (1, 1024), (32, 64), 4


@triton.jit(do_not_specialize=("rows", "units"))
def weighted_sum_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    rows,
    units,
    VEC: tl.constexpr,
    DOWN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out of x (rows, VEC * units): with DOWN a sum of each column, else of each row, and bias."""
    columns = units * VEC
    first = tl.program_id(0) * (BLOCK_C if DOWN else BLOCK_R)
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    acc = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    if DOWN:
        c += first
        for r0 in range(0, rows, BLOCK_R):
            at = (r0 + r).to(tl.int64)[:, None] * columns + c[None, :]
            mask = (r0 + r < rows)[:, None] & (c < columns)[None, :]
            weight = tl.load(weight_ptr + r0 + r, r0 + r < rows, other=0.0).to(tl.float32)
            acc += tl.load(x_ptr + at, mask, other=0.0).to(tl.float32) * weight[:, None]
        tl.store(out_ptr + c, tl.sum(acc, 0).to(out_ptr.dtype.element_ty), c < columns)
    else:
        r += first
        for c0 in range(0, columns, BLOCK_C):
            at = r.to(tl.int64)[:, None] * columns + (c0 + c)[None, :]
            mask = (r < rows)[:, None] & (c0 + c < columns)[None, :]
            weight = tl.load(weight_ptr + c0 + c, c0 + c < columns, other=0.0).to(tl.float32)
            acc += tl.load(x_ptr + at, mask, other=0.0).to(tl.float32) * weight[None, :]
        total = tl.sum(acc, 1)
        if bias_ptr is not None:
            total += tl.load(bias_ptr)
        tl.store(out_ptr + r, total.to(out_ptr.dtype.element_ty), r < rows)


def weighted_sum(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: bool, dtype: torch.dtype
) -> Tensor:
    """The sum of each row, or ``down`` of each column, of x (rows, columns) by weights, one for
    each column, or row. bias: a float32 value or None. Sums are float32, in one fixed order.
    """
    rows, columns = x.shape
    out = x.new_empty(columns if down else rows, dtype=dtype)
    block_r, block_c = DOWN_COLUMNS if down else ALONG_ROW
    vec = gcd(columns, 16)
    with device_guard(x):
        weighted_sum_kernel[(cdiv(columns, block_c) if down else cdiv(rows, block_r),)](
            x, weight, bias, out, rows, columns // vec, VEC=vec, DOWN=down, BLOCK_R=block_r,
            BLOCK_C=block_c, num_warps=WARPS,
        )  # fmt: skip
    return out
