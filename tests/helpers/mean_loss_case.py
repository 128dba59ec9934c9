"""mean_loss and its gradients against the definition in float64."""

from __future__ import annotations

from itertools import product

import torch
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.ops.mean_loss import mean_loss, reference
from fastgan.ops.mean_loss.reference import CROSS_ENTROPY, HINGE, LINEAR, SATURATING, SQUARE, Term

TERMS = [
    (Term(CROSS_ENTROPY, 1.0), Term(CROSS_ENTROPY, 0.0)),
    (Term(CROSS_ENTROPY, 0.9), Term(CROSS_ENTROPY, 0.1)),
    (Term(SQUARE, 1.0), Term(SQUARE, 0.0)),
    (Term(HINGE, 1.0), Term(HINGE, -1.0)),
    (Term(LINEAR, 1.0), Term(LINEAR, -1.0)),
    (Term(SATURATING, 0.0),),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES = list(product(TERMS, DTYPES, [1.0, 12.0]))


def check(terms: tuple[Term, ...], dtype: torch.dtype, scale: float, device: str) -> None:
    """Logits of an image each and of patches; large ones are where the exponentials saturate."""
    shapes = (7, 1, 1, 1), (3, 1, 33, 37)
    logits = [torch.randn(s, device=device).mul(scale).to(dtype) for s in shapes[: len(terms)]]

    def run(loss: object, dtype: torch.dtype) -> list[Tensor]:
        given = [x.to(dtype).requires_grad_() for x in logits]
        found = loss(list(zip(given, terms, strict=True)))  # type: ignore[operator]
        found[0].backward(torch.full_like(found[0], 3.0))
        assert [t.requires_grad for t in found] == [True] + [False] * len(terms)
        return [*found, *(x.grad for x in given)]

    def plain(parts: list[tuple[Tensor, Term]]) -> tuple[Tensor, ...]:
        return reference.mean_loss([(x.float(), term) for x, term in parts])

    exact, eager = run(reference.mean_loss, torch.float64), run(plain, dtype)
    for i, (a, b, c) in enumerate(zip(run(mean_loss, dtype), eager, exact, strict=True)):
        assert a.dtype is b.dtype
        assert_as_exact(str(i), a, b, c)
