"""A moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan.fusion.copying import copied


class Ema:
    """Exponential moving average of ``module``'s parameters and floating-point buffers.

    ``average`` is a copy of the module in eval mode. The decay warms up as ``(1 + n) / (10 + n)``
    after ``n`` updates until it reaches ``decay``, so that early averages are not dominated by the
    initial weights. Integer buffers are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = copied(module).eval().requires_grad_(False)
        pairs = list(_tensors(self.average).items())
        source = _tensors(module)
        self._float = [(a, source[n]) for n, a in pairs if a.is_floating_point()]
        self.of: dict[Tensor, Tensor] = {
            s: a for a, s in self._float if isinstance(s, nn.Parameter)
        }
        """The average of each parameter."""
        self.moved = False
        """Set where something else has moved the averages of the parameters, before `update`."""
        self._other = [(a, source[n]) for n, a in pairs if not a.is_floating_point()]

        device = next(module.parameters()).device
        # In a captured step a number would stay what it was when the step was captured.
        self.rate = torch.zeros((), device=device) if device.type == "cuda" else None
        self._alike = len({a.dtype for a, _ in self._float}) == 1 and all(
            a.stride() == s.stride() and a.dtype is s.dtype for a, s in self._float
        )
        self._new = 0.0

    def before(self, updates: int) -> None:
        """Set the weight of the next update, the module's ``updates``-th (1 is the first)."""
        self.moved = False
        self._new = 1.0 - min(self.decay, (1 + updates) / (10 + updates))
        if self.rate is not None:
            self.rate.fill_(-self._new)

    def moves(self, parameters: Sequence[Tensor]) -> bool:
        """Whether averages of all these, and of no other, may be moved: a += rate (a - p)."""
        return not self.moved and self.rate is not None and self.of.keys() == set(parameters)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average toward the module."""
        left = [pair for pair in self._float if not (self.moved and pair[1] in self.of)]
        self.moved = False
        if left:
            averages, sources = (list(side) for side in zip(*left, strict=True))
            if self.rate is None:
                torch._foreach_lerp_(averages, sources, self._new)
            elif self._alike:
                # The one operator that takes all of it by one launch and its factor from the
                # device: a -= rate (s + decay a), which is a += weight (s - a).
                torch._fused_sgd_(
                    averages, sources, [], lr=self.rate, weight_decay=-1.0, momentum=0.0,
                    dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
                )  # fmt: skip
            else:
                steps = torch._foreach_sub(averages, sources)
                torch._foreach_mul_(steps, self.rate)
                torch._foreach_add_(averages, steps)
        if self._other:
            averages, sources = (list(side) for side in zip(*self._other, strict=True))
            torch._foreach_copy_(averages, sources)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
