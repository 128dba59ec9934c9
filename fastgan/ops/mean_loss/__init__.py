"""mean_loss: a loss that is a mean over logits, and their own means, as one kernel."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.core import dispatch
from fastgan.ops.mean_loss import reference
from fastgan.ops.mean_loss.reference import Term

# One program adds them up: more take longer than the launches that it saves.
_MAX_LOGITS = 1 << 16


def mean_loss(parts: Sequence[tuple[Tensor, Term]]) -> tuple[Tensor, ...]:
    """The sum over one or two parts of the mean of a function of each logit, and their means.

    | kind          | of a logit x with target t          |
    |---------------|-------------------------------------|
    | CROSS_ENTROPY | t s(-x) + (1 - t) s(x), s = softplus |
    | SQUARE        | ½ (x - t)²                          |
    | HINGE         | max(0, 1 - t x)                     |
    | LINEAR        | -t x                                |
    | SATURATING    | -s(x)                               |

    Args:
        parts: (logits, term): floating-point tensors of any shape that are not empty. Their
            arithmetic is float32 for half precision, and their own otherwise.

    Returns:
        Scalars: the loss, differentiable to any order, and the mean of each part's logits, without
        a gradient.

    On a GPU a plain call takes one launch and its backward another (Triton), up to 65,536 logits a
    part; all else, and second derivatives, are PyTorch's operators.
    """
    flat, terms = zip(*parts, strict=True)
    if all(_serves(logits) for logits in flat) and dispatch.is_eager(*flat):
        found: tuple[Tensor, ...] = _MeanLoss.apply(terms, *flat)
        return found
    return reference.mean_loss([(_wide(logits), term) for logits, term in parts])


def _serves(logits: Tensor) -> bool:
    device, backend = logits.device.type, dispatch.setting()
    asked = backend == "triton" or (backend == "auto" and device == "cuda")
    fits = asked and logits.numel() <= _MAX_LOGITS
    return fits and dispatch.why_not("triton", device, logits.dtype) is None


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _kernels() -> Any:
    return importlib.import_module("fastgan.kernels.mean_loss")


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, terms: tuple[Term, ...], *logits: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.terms = terms
        ctx.save_for_backward(*logits)
        loss, *means = _kernels().mean_loss(logits, terms)
        ctx.mark_non_differentiable(*means)
        return loss, *means

    @staticmethod
    def backward(ctx: Any, g_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        terms, logits = ctx.terms, ctx.saved_tensors
        if g_loss is None:
            return None, *(None for _ in logits)
        if not torch.is_grad_enabled():
            return None, *_kernels().mean_loss_backward(g_loss, logits, terms)
        parts = [(_wide(x), term) for x, term in zip(logits, terms, strict=True)]
        loss = reference.mean_loss(parts)[0]
        asked = [x for x in logits if x.requires_grad]
        found = iter(torch.autograd.grad(loss, asked, g_loss, create_graph=True))
        return None, *(next(found) if x.requires_grad else None for x in logits)
