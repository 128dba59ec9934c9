"""adam_ against its definition in float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.kernels import adam as kernels
from fastgan.ops import adam
from fastgan.ops.adam import reference

# Names of cases: what of the arguments is other than in training.
CASES = (
    "all of it",
    "a gradient that is not finite",
    "known to be finite",
    "known not to be",
    "bare",
)
_CHANGED = 0, 2, 3, 4, 5, 6, 10  # of adam_'s arguments


def arguments(case: str, device: str) -> list[Any]:
    """Of tensors of one value, of many programs, that end in a block, and in another order."""
    torch.manual_seed(0)
    size = kernels.CHECK * kernels.TURNS
    shapes = (3,), (8, 3, 4, 4), (size + 5,), (1,), (2 * kernels.UPDATE,)

    def draw() -> list[Tensor]:
        drawn = [torch.randn(shape, device=device) for shape in shapes]
        drawn[1] = drawn[1].contiguous(memory_format=torch.channels_last)
        return drawn

    p, g, m, a = draw(), draw(), draw(), draw()
    v, steps = (
        [x.square() for x in draw()],
        [torch.tensor(i * 100.0, device=device) for i in range(5)],
    )
    if case == "a gradient that is not finite":
        g[2][size + 3] = float("nan")
    copies: list[Tensor | None] = [torch.zeros_like(x, dtype=torch.bfloat16) for x in p]
    copies[3] = None
    given = case.startswith("known")
    lr, rate, found, skipped = torch.tensor([0.01, -0.1, float("not" in case), 3.0], device=device)
    if case == "bare":
        none = [None] * len(p)
        return [p, g, m, v, steps, none, none, lr, None, None, None, (0.0, 0.9, 1e-8, 0.1)]
    known = found if given else None
    return [p, g, m, v, steps, a, copies, lr, rate, known, skipped, (0.5, 0.999, 1e-8, 0.0)]


def check(case: str, device: str) -> None:
    own = arguments(case, device)
    assert adam.serves(own[0], own[6], *own[1:6])
    eager = copy.deepcopy(own)
    exact = [_wide(value) for value in own]
    adam.adam_(*own)
    reference.adam_(*eager)
    reference.adam_(*exact)
    for i in _CHANGED:
        values = (
            value if isinstance(value, list) else [value] for value in (own[i], eager[i], exact[i])
        )
        for j, (a, b, c) in enumerate(zip(*values, strict=True)):
            if a is not None:
                assert_as_exact(f"{i} of {j}", a, b, c)


def _wide(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide(v) for v in value]
    return value.double() if isinstance(value, Tensor) else value
