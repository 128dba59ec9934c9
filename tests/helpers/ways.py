"""The ways from torch.nn's layers to fastgan's, and the comparison of both with float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from along import sizes
from tolerance import assert_as_exact
from torch import Tensor, nn

import fastgan
from fastgan.nn import FusedSequential

Way = Callable[[nn.Module], nn.Module]
Results = dict[str, Tensor]
"""By name; a gradient's begins with "d "."""

WAYS: dict[str, Way] = {
    "fuse for speed": fastgan.fuse,
    "fuse for memory": partial(fastgan.fuse, prefer="memory"),
    "FusedSequential": lambda model: FusedSequential(*model),
    "FusedSequential for speed": lambda model: FusedSequential(*model, keep_activations=True),
}


def assert_right(
    way: Way,
    model: nn.Module,
    compute: Callable[[nn.Module], Results],
    floor: torch.dtype | None = None,
) -> None:
    """By the tolerance rule: what `compute` finds of the model in fastgan's way, of the model as it
    is, and of the model in float64."""
    own, theirs = compute(way(copy.deepcopy(model))), compute(copy.deepcopy(model))
    exact = compute(copy.deepcopy(model).double())
    natural = sizes({name: g for name, g in exact.items() if name.startswith("d ")})
    assert own.keys() == theirs.keys() == exact.keys()
    for name, value in exact.items():
        size = natural.get(name, 0.0)
        assert_as_exact(name, own[name], theirs[name], value, size=size, floor=floor)


def like(model: nn.Module, x: Tensor) -> Tensor:
    """A copy of x in the model's dtype, in x's layout, whose gradient is asked for."""
    dtype = next(model.parameters()).dtype
    return x.detach().to(dtype, copy=True).requires_grad_()


def backward(model: nn.Module, loss: Tensor, **inputs: Tensor) -> Results:
    """The gradients of a loss in the inputs, by name, and in the parameters; and the buffers."""
    wanted = inputs | dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(wanted.values()))
    results = {f"d {name}": g for name, g in zip(wanted, found, strict=True)}
    return results | {k: b.clone() for k, b in model.named_buffers() if b.is_floating_point()}
