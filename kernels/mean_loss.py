"""Triton launcher of mean_loss: a loss over few logits and their means by one launch, its gradients
by another.

Bytes moved, of n logits of B bytes: n B forward; 2 n B backward.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from fastgan.kernels.core.device import log1p, sigmoid
from fastgan.kernels.core.geometry import device_guard

Tensor = torch.Tensor

BLOCK, WARPS = 512, 4


def mean_loss(logits: Sequence[Tensor], terms: Sequence[tuple[int, float]]) -> tuple[Tensor, ...]:
    """(loss, the mean of each part), scalars in float32. One or two parts, each with (kind, target)
    of `fastgan.ops.mean_loss`.
    """
    first, second, values, kinds = _arguments(logits, terms)
    loss, mean0, mean1 = (first.new_empty((), dtype=torch.float32) for _ in range(3))
    with device_guard(first):
        mean_loss_kernel[(1,)](
            first, second, loss, mean0, mean1, *values, **kinds, BLOCK=BLOCK, num_warps=WARPS
        )
    return (loss, mean0) if second is None else (loss, mean0, mean1)


def mean_loss_backward(
    g_loss: Tensor, logits: Sequence[Tensor], terms: Sequence[tuple[int, float]]
) -> tuple[Tensor, ...]:
    """The gradient of each part's logits from that of the loss, a scalar in float32."""
    first, second, values, kinds = _arguments(logits, terms)
    if second is not None and second.dtype is first.dtype:  # side by side, as of a joint batch
        sizes = [x.numel() for x in logits]
        found = first.new_empty(sum(sizes)).split(sizes)
    else:
        found = tuple(x.new_empty(x.numel()) for x in logits)
    found = tuple(g.view(x.shape) for g, x in zip(found, logits, strict=True))
    grid = (sum(triton.cdiv(x.numel(), BLOCK) for x in logits),)
    with device_guard(first):
        mean_loss_backward_kernel[grid](
            g_loss, first, second, found[0], None if second is None else found[1],
            *values, **kinds, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return found


def _arguments(
    logits: Sequence[Tensor], terms: Sequence[tuple[int, float]]
) -> tuple[Tensor, Tensor | None, tuple[float, ...], dict[str, int]]:
    """Both parts' logits, their sizes and targets, and the kinds by the kernels' names."""
    first, second = (*(x.contiguous() for x in logits), None)[:2]
    (kind0, target0), (kind1, target1) = (*terms, (0, 0.0))[:2]
    sizes = first.numel(), 1 if second is None else second.numel()
    return first, second, (*sizes, target0, target1), {"KIND0": kind0, "KIND1": kind1}


@triton.jit(do_not_specialize=("n0", "n1"))
def mean_loss_kernel(
    x0_ptr,
    x1_ptr,
    loss_ptr,
    mean0_ptr,
    mean1_ptr,
    n0,
    n1,
    t0,
    t1,
    KIND0: tl.constexpr,
    KIND1: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All of it in one program, in a fixed order."""
    loss, mean0 = _means(x0_ptr, n0, t0, KIND0, BLOCK)
    tl.store(mean0_ptr, mean0)
    if x1_ptr is not None:
        loss1, mean1 = _means(x1_ptr, n1, t1, KIND1, BLOCK)
        loss += loss1
        tl.store(mean1_ptr, mean1)
    tl.store(loss_ptr, loss)


@triton.jit(do_not_specialize=("n0", "n1"))
def mean_loss_backward_kernel(
    g_ptr,
    x0_ptr,
    x1_ptr,
    dx0_ptr,
    dx1_ptr,
    n0,
    n1,
    t0,
    t1,
    KIND0: tl.constexpr,
    KIND1: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one part's logits a program, those of the first part before the second's."""
    blocks = (n0 + BLOCK - 1) // BLOCK
    pid = tl.program_id(0)
    if pid < blocks:
        _gradients(g_ptr, x0_ptr, dx0_ptr, pid, n0, t0, KIND0, BLOCK)
    elif x1_ptr is not None:
        _gradients(g_ptr, x1_ptr, dx1_ptr, pid - blocks, n1, t1, KIND1, BLOCK)


@triton.jit
def _means(x_ptr, n, t, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """(mean of the term, mean of the logits) of one part."""
    terms = tl.zeros([BLOCK], tl.float32)
    values = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i, i < n, other=0.0).to(tl.float32)
        values += x
        terms += tl.where(i < n, _term(x, t, KIND), 0.0)
    return tl.sum(terms, 0) / n, tl.sum(values, 0) / n


@triton.jit
def _gradients(g_ptr, x_ptr, dx_ptr, block, n, t, KIND: tl.constexpr, BLOCK: tl.constexpr):
    i = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, i < n, other=0.0).to(tl.float32)
    dx = tl.load(g_ptr) / n * _slope(x, t, KIND)
    tl.store(dx_ptr + i, dx.to(dx_ptr.dtype.element_ty), i < n)


@triton.jit
def _term(x, t, KIND: tl.constexpr):
    """Kinds as `fastgan.ops.mean_loss.reference` numbers them."""
    if KIND == 0:
        smooth = log1p(tl.exp(-tl.abs(x)))
        one = t * (tl.where(x < 0.0, -x, 0.0) + smooth)
        zero = (1.0 - t) * (tl.where(x > 0.0, x, 0.0) + smooth)
        # 0 times an infinite one is nan.
        return tl.where(t == 0.0, 0.0, one) + tl.where(t == 1.0, 0.0, zero)
    elif KIND == 1:
        return 0.5 * (x - t) * (x - t)
    elif KIND == 2:
        margin = 1.0 - t * x
        return tl.where(margin <= 0.0, 0.0, margin)  # nan stays nan
    elif KIND == 3:
        return -t * x
    else:
        return -tl.where(x > 0.0, x, 0.0) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def _slope(x, t, KIND: tl.constexpr):
    """The derivative of `_term`."""
    if KIND == 0:
        # Not sigmoid(x) - t: where they are nearly alike, their difference is not known.
        return (1.0 - t) * sigmoid(x) - t * sigmoid(-x)
    elif KIND == 1:
        return x - t
    elif KIND == 2:
        return tl.where(1.0 - t * x <= 0.0, 0.0, -t)
    elif KIND == 3:
        return tl.zeros_like(x) - t
    else:
        return -sigmoid(x)
