"""Optimizers: torch.optim's, without a detour that channels-last weights make on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`: arguments, state and results are the same, bit for bit.

    With `fused=True` PyTorch copies every channels-last weight of a CPU at every step, which takes
    as long as the update. Here the update sees such a weight, its gradient and its moments as
    contiguous views of the same memory.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> Any:
        complex_or_not = super()._init_group(group, *lists)
        if group["fused"]:
            # Of each parameter: itself, gradient, moments and, with amsgrad, their largest.
            of_each = [tensors for tensors in lists[:5] if tensors]
            for i, given in enumerate(zip(*of_each, strict=True)):
                for tensors, view in zip(of_each, as_contiguous(given), strict=True):
                    tensors[i] = view
        return complex_or_not


def as_contiguous(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Views of tensors of one layout that are contiguous; those given where there are none."""
    first, *others = tensors
    if (
        first.is_contiguous()
        or first.device.type != "cpu"
        or any(t.stride() != first.stride() for t in others)
    ):
        return tensors
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    views = tuple(t.permute(order) for t in tensors)
    return views if views[0].is_contiguous() else tensors
