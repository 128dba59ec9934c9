"""adam in plain PyTorch: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def adam_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    averages: Sequence[Tensor | None],
    copies: Sequence[Tensor | None],
    lr: Tensor,
    rate: Tensor | None,
    found: Tensor | None,
    skipped: Tensor | None,
    rule: tuple[float, float, float, float],
) -> None:
    """A step of Adam (Kingma, Ba 2015), and what follows from the weights that it makes.

    Everything but the gradients is changed in place, of each parameter: itself, its moments and its
    count of steps; its average a, by a - rate (p - a); its copy, which is rounded. With a gradient
    that is not finite only the last two move, and ``skipped`` counts one more.

    Args:
        lr, rate, skipped: scalars. found: not 0 where a gradient is not finite, if that is known.
        rule: (beta1, beta2, eps, weight decay).
    """
    beta1, beta2, eps, decay = rule
    if found is None:
        found = ~torch.stack([g.isfinite().all() for g in gradients]).all()
    keeps = found != 0
    if skipped is not None:
        skipped += keeps
    lists = parameters, gradients, exp_avgs, exp_avg_sqs, steps, averages, copies
    for p, g, m, v, step, average, copy in zip(*lists, strict=True):
        g = g + decay * p
        moved_m, moved_v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        t = step.double() + 1
        size, root = lr / (1 - beta1**t).to(p), (1 - beta2**t).sqrt().to(p)
        moved = p - size * moved_m / (moved_v.sqrt() / root + eps)
        for value, new in ((p, moved), (m, moved_m), (v, moved_v), (step, step + 1)):
            value.copy_(torch.where(keeps, value, new))
        if average is not None and rate is not None:
            average -= rate * (p - average)
        if copy is not None:
            copy.copy_(p)
