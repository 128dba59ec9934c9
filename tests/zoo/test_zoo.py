"""Fused architectures against themselves unfused: results, gradients, statistics, keys."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tolerance import FLOOR, error
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from zoo import ZOO, Model

from fastgan.fusion import fuse
from fastgan.ops import convolution_form

# How the fused model is to run: in the forms that save memory, with every norm fused but the
# library's convolutions, or in whatever form is chosen for each block.
MODES = [("memory", "composed"), ("speed", "apart"), ("speed", "auto")]


@pytest.fixture(params=MODES, ids="-".join)
def preference(request: pytest.FixtureRequest) -> Iterator[str]:
    preference, form = request.param
    with convolution_form(form):
        yield preference


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


def sizes(gradients: dict[str, Tensor]) -> dict[str, float]:
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


def relative_errors(own: Any, theirs: Any, exact: Any) -> list[tuple[str, float, float]]:
    """(group, own error, PyTorch's): of single small tensors, which are exact by chance, as one."""
    found = []
    for group, values in exact.items():
        least = sizes(values) if group == "gradients" else {}
        if values:
            errors = (
                max(error(results[group][k], v, least.get(k, 0.0)) for k, v in values.items())
                for results in (own, theirs)
            )
            found.append((group, *errors))
    return found


def assert_same(own: Any, theirs: Any, exact: Any) -> None:
    """The tolerance rule over each group."""
    for group, of_own, of_theirs in relative_errors(own, theirs, exact):
        allowed = 2 * of_theirs + FLOOR[torch.float32]
        assert of_own <= allowed, f"{group}: {of_own:.2e}, PyTorch's {of_theirs:.2e}"


@pytest.mark.parametrize("name", ZOO)
def test_fused_is_the_original(name, preference):
    model = ZOO[name]
    original = model.build(width=model.narrow)
    fused = fuse(copy.deepcopy(original), prefer=preference)
    report = fused.fusion_report
    assert (report.fused, len(report)) == (model.fused, model.blocks), str(report)
    assert list(fused.state_dict()) == list(original.state_dict())
    arguments = inputs(model)
    exact = copy.deepcopy(original).double()
    own, theirs, wide = (results(m, arguments) for m in (fused, original, exact))
    assert_same(own, theirs, wide)


STEPS = 32
# One of each kind: transposed, instance norm, residual, weight-normed, three dimensions.
TRAINED = ["dcgan-generator", "patchgan", "dac-period", "nnunet-3d", "calogan-discriminator"]


def trained(module: nn.Module, arguments: list[Tensor]) -> dict[str, Tensor]:
    """The losses of some steps of training, and the parameters after them."""
    dtype = next(module.parameters()).dtype
    given = [a.to(dtype) for a in arguments]
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    losses = []
    for step in range(STEPS):
        random.seed(step)
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = sum((out - 0.5).square().mean() for out in tree_leaves(module(*given)))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found = {"losses": torch.stack(losses)}
    return found | {name: p.detach() for name, p in module.named_parameters()}


# 52 layers with kinks: in float32 roundings grow a thousandfold in anyone's arithmetic.
IN_FLOAT64 = {"darknet-53"}


@pytest.mark.parametrize("name", ZOO)
def test_training(name, preference, request):
    """32 steps: losses and parameters are as near to float64's as PyTorch's."""
    if name not in TRAINED and not request.config.getoption("--long"):
        pytest.skip("only with --long")
    model = ZOO[name]
    original = model.build(width=model.narrow)
    arguments = inputs(model)
    fused = fuse(copy.deepcopy(original), prefer=preference)
    wide = trained(copy.deepcopy(original).double(), arguments)
    if name in IN_FLOAT64:
        own = trained(fused.double(), arguments)
        torch.testing.assert_close(own, wide, rtol=1e-8, atol=1e-10)
        return
    own, theirs = (trained(m, arguments) for m in (fused, original))
    for group in (["losses"], [k for k in wide if k != "losses"]):
        size = max(float(wide[k].abs().max()) for k in group)
        errors = [max(error(found[k], wide[k], size) for k in group) for found in (own, theirs)]
        allowed = 2 * errors[1] + FLOOR[torch.float32]
        assert errors[0] <= allowed, f"{group[0]}: {errors[0]:.2e}, PyTorch's {errors[1]:.2e}"
