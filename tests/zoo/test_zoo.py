"""Fused architectures against themselves unfused: results, gradients, statistics, keys."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from tolerance import FLOOR, error
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from zoo import ZOO, Model

from fastgan.fusion import fuse


def inputs(model: Model) -> list[Tensor]:
    return [torch.randn(model.batch, *shape) for shape in model.inputs]


def results(module: nn.Module, arguments: list[Tensor]) -> dict[str, dict[str, Tensor]]:
    """Outputs in training and evaluation, all gradients, and the statistics in between."""
    dtype = next(module.parameters()).dtype
    given = [a.to(dtype, copy=True).requires_grad_() for a in arguments]
    module.train()
    random.seed(1)
    torch.manual_seed(1)
    outputs = tree_leaves(module(*given))
    torch.manual_seed(2)
    sum((out * torch.randn(out.shape).to(out)).sum() for out in outputs).backward()
    gradients = {f"input {i}": a.grad for i, a in enumerate(given)}
    gradients |= {name: p.grad for name, p in module.named_parameters()}
    module.eval()
    with torch.no_grad():
        evaluated = tree_leaves(module(*given))
    return {
        "outputs": dict(enumerate([*outputs, *evaluated])),
        "gradients": gradients,
        "statistics": dict(module.named_buffers()),
    }


def sizes(module: nn.Module, gradients: dict[str, Tensor]) -> dict[str, float]:
    """The least magnitude a gradient's error relates to: the largest in its layer.

    That of a bias before a norm is zero, but for rounding.
    """
    largest: dict[str, float] = {}
    for name, g in gradients.items():
        layer = name.rpartition(".parametrizations")[0] or name.rpartition(".")[0] or name
        largest[layer] = max(largest.get(layer, 0.0), float(g.abs().max()))
    return {
        name: largest[name.rpartition(".parametrizations")[0] or name.rpartition(".")[0] or name]
        for name in gradients
    }


def assert_same(own: Any, theirs: Any, exact: Any, module: nn.Module) -> None:
    """The tolerance rule over each group: single small tensors come out exact by chance."""
    for group, values in exact.items():
        least = sizes(module, values) if group == "gradients" else {}
        errors = [
            max(error(found[group][k], v, least.get(k, 0.0)) for k, v in values.items())
            for found in (own, theirs)
            if values
        ]
        if errors:
            allowed = 2 * errors[1] + FLOOR[torch.float32]
            assert errors[0] <= allowed, f"{group}: {errors[0]:.2e}, PyTorch's {errors[1]:.2e}"


@pytest.mark.parametrize("name", ZOO)
def test_fused_is_the_original(name):
    model = ZOO[name]
    original = model.build(width=model.narrow)
    fused = fuse(copy.deepcopy(original))
    report = fused.fusion_report
    assert (report.fused, len(report)) == (model.fused, model.blocks), str(report)
    assert list(fused.state_dict()) == list(original.state_dict())
    arguments = inputs(model)
    exact = copy.deepcopy(original).double()
    own, theirs, wide = (results(m, arguments) for m in (fused, original, exact))
    assert_same(own, theirs, wide, original)
