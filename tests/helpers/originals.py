"""Models as other people write them, and the comparison with their fused selves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_as_exact
from torch import Tensor, nn

as_chosen = pytest.mark.parametrize("form", ["recompute", "auto"], indirect=True)


class Skipping(nn.Module):
    """A hand-written forward: calls, in-place steps, a residual, a skip, a default argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm2 = nn.InstanceNorm2d(6, affine=True)
        self.out = nn.Conv2d(12, 2, 1)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.doubled = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = F.leaky_relu(self.norm1(self.conv1(x)), 0.2, True)
        g = self.norm2(self.conv2(h)).relu_()
        if mask is not None:
            g = g * mask
        if self.doubled:
            g = g * 2
        joined = torch.cat([g, h], 1)
        joined += 0.5
        joined = F.dropout(joined, 0.5, self.training)
        return torch.tanh(self.out(joined) * self.scale)


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6),
        nn.ReLU(), nn.ConvTranspose2d(6, 2, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def image(*shape: int) -> Tensor:
    return torch.randn(shape or (4, 3, 8, 8))


def reasons(model: nn.Module) -> list[str]:
    return [block.reason for block in model.fusion_report.blocks if not block.fused]


def assert_equal(fused: nn.Module, original: nn.Module, *inputs: Tensor, **options: Any) -> None:
    """Outputs and every gradient, by the tolerance rule."""
    found = []
    for model in (fused, original, copy.deepcopy(original).double()):
        given = [x.to(next(model.parameters()).dtype, copy=True) for x in inputs]
        torch.manual_seed(3)
        out = model(*given, **options)
        loss = out.square().sum() + 0 * sum(p.sum() for p in model.parameters())
        found.append([out, *torch.autograd.grad(loss, list(model.parameters()))])
    # Some gradients (of a bias before a norm) are zero but for rounding.
    size = max(float(g.abs().max()) for g in found[2][1:])
    for i, values in enumerate(zip(*found, strict=True)):
        assert_as_exact(str(i), *values, size=size if i else 0.0)
