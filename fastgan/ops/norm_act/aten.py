"""norm_act by PyTorch's own kernels, under its own autograd: see `dispatch.in_torch`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.core.activation import act, is_identity
from fastgan.ops.core.memory_format import dense_like
from fastgan.ops.norm_act.arguments import Spec
from fastgan.ops.norm_act.autograd import snapshot

_Running = tuple[Tensor | None, Tensor | None]


def norm_act(
    x: Tensor,
    running: _Running,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    spec: Spec,
    average: bool,
) -> Tensor:
    """The public op, of checked arguments: x dense and not empty, `running` moved in training."""
    _, code, slope, _, act_first = spec
    plain = is_identity(code, slope)
    u = act(x, code, slope) if act_first and not plain else x
    if training:
        y = _by_own_statistics(u, running, weight, bias, momentum, spec, average)
    else:  # by copies: a training pass may move them before the backward
        known = snapshot(*running) if torch.is_grad_enabled() else running
        y = torch.batch_norm(u, weight, bias, *known, False, momentum, spec.eps, False)
    return dense_like(y if act_first or plain else act(y, code, slope), x)


def _by_own_statistics(
    u: Tensor,
    running: _Running,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    spec: Spec,
    average: bool,
) -> Tensor:
    eps, segments = spec.eps, spec.segments
    # By versions of its own: autograd saves it, and a later pass may move it before the backward.
    mean, var = (None if t is None else t.data for t in running)

    def normalised(part: Tensor, mean: Tensor | None, var: Tensor | None) -> Tensor:
        return torch.batch_norm(part, weight, bias, mean, var, True, momentum, eps, False)

    if segments == 1:
        y = normalised(u, mean, var)
    elif average and segments == u.shape[0]:
        y = torch.instance_norm(u, weight, bias, mean, var, True, momentum, eps, False)
    elif not average or mean is None or var is None:
        y = torch.cat([normalised(part, mean, var) for part in u.chunk(segments)])
    else:
        moved = [(mean.clone(), var.clone()) for _ in range(segments)]
        pairs = zip(u.chunk(segments), moved, strict=True)
        y = torch.cat([normalised(part, *pair) for part, pair in pairs])
        for t, values in zip((mean, var), zip(*moved, strict=True), strict=True):
            t.copy_(torch.stack(values).mean(0))
    torch.autograd.graph.increment_version([t for t in running if t is not None])
    return y
