"""Parameters frozen and thawed between calls of a compiled model get the gradients of eager."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

import fastgan.nn as fnn
from fastgan import fuse


def discriminator() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 4, 2, 1),
        nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 2),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "fuse": lambda: fuse(discriminator()),
    "fuse for memory": lambda: fuse(discriminator(), prefer="memory"),
    "FusedSequential": lambda: fnn.FusedSequential(*discriminator()),
    "own layers": lambda: nn.Sequential(fnn.ConvNormAct2d(3, 8, 3), fnn.BiasAct(8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_follow_requires_grad(name: str) -> None:
    torch._dynamo.reset()
    model = MODELS[name]()
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(4, 3, 8, 8)
    parts = [("all", True), ("all", False), ("some", True), ("all", True), ("all", False)]

    def step(model: nn.Module, call: Callable[[Tensor], Tensor], which: str, on: bool) -> list:
        parameters = list(model.parameters())
        for p in parameters if which == "all" else parameters[-2:]:
            p.requires_grad_(on)
        model.zero_grad(set_to_none=True)
        leaf = x.clone().requires_grad_()
        y = call(leaf)
        y.square().sum().backward()
        return [y.detach(), leaf.grad, *(p.grad for p in parameters)]

    for which, on in parts:
        found, expected = step(model, compiled, which, on), step(plain, plain, which, on)
        assert [g is None for g in found] == [g is None for g in expected]
        for a, b in zip(found, expected, strict=True):
            if b is not None:
                torch.testing.assert_close(a, b)
