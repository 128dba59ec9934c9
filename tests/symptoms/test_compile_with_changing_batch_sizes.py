"""torch.compile with batches of several sizes: one dynamic graph, not one for each size.

The count of a training batch norm was a number of Python's, and so were the segments of an instance
norm; dynamic=True broke graphs in the choice of a convolution.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import fastgan.nn as fnn
from fastgan import fuse
from fastgan.ops.conv import tuning
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.timing import Times

SIZES = (4, 5, 7, 9)


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.InstanceNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 2, 3), nn.Tanh(),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "BatchNormAct2d": lambda: fnn.BatchNormAct2d(3),
    "InstanceNormAct2d": lambda: fnn.InstanceNormAct2d(3, track_running_stats=True),
    "BiasAct": lambda: fnn.BiasAct(3),
    "ConvNormAct2d": lambda: fnn.ConvNormAct2d(3, 8, 3),
    "FusedSequential": lambda: fnn.FusedSequential(*layers()),
    "for speed": lambda: fnn.FusedSequential(*layers(), keep_activations=True),
    "fuse": lambda: fuse(layers()),
    "fuse for memory": lambda: fuse(layers(), prefer="memory"),
}


def trained(model: nn.Module, call: Callable[[Tensor], Tensor], n: int) -> list[Tensor]:
    """Output, gradients and state of a training step."""
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n)).requires_grad_()
    model.zero_grad()
    y = call(x)
    y.square().sum().backward()
    assert x.grad is not None
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [y.detach(), x.grad, *gradients, *(t.clone() for t in model.state_dict().values())]


def compare(model: nn.Module, sizes: tuple[int, ...], dynamic: bool | None) -> int:
    """The number of graphs, of a model that is compiled and gives what it gives in eager."""
    torch._dynamo.reset()
    eager, graphs = copy.deepcopy(model), CompileCounter()
    compiled = torch.compile(model, backend=graphs, dynamic=dynamic, fullgraph=True)
    for n in sizes:
        for a, b in zip(trained(model, compiled, n), trained(eager, eager, n), strict=True):
            torch.testing.assert_close(a, b)
    return int(graphs.frame_count)


@pytest.mark.parametrize("name", MODELS)
def test_one_dynamic_graph_for_all_sizes(name: str) -> None:
    assert compare(MODELS[name](), SIZES, True) == 1


@pytest.mark.parametrize("name", ["BatchNormAct2d", "fuse for memory"])
def test_automatic_dynamic_shapes(name: str) -> None:
    """A graph for the first size, then one for all."""
    assert compare(MODELS[name](), SIZES, None) == 2


def test_segments_of_a_batch() -> None:
    with fnn.segments(model := fnn.BatchNormAct2d(3), 2):
        assert compare(model, (4, 6, 10), True) == 1


@pytest.mark.slow
def test_inductor_and_the_sizes_of_images() -> None:
    torch._dynamo.reset()
    model = fuse(layers())
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    for n in SIZES:
        for a, b in zip(trained(model, compiled, n), trained(eager, eager, n), strict=True):
            torch.testing.assert_close(a, b)
    large = torch.randn(2, 3, 12, 20)
    torch.testing.assert_close(compiled(large), eager(large))


def test_a_measured_choice_holds_a_graph_to_a_class_of_shapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to the batch that is as near to the next that was measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forms = ("recompute", "fused", "norm_fused")
    monkeypatch.setattr(tuning, "compiled_forms", lambda device, dtype: forms)
    geometry = Geometry((2, 2), (1, 1), (0, 0), False)
    measured = {
        tuning.layer_key((n, 3, 8, 8), (8, 3, 4, 4), geometry): {
            best: Times(1, 1),
            other: Times(2, 2),
        }
        for n, best, other in ((4, "recompute", "fused"), (8, "fused", "recompute"))
    }
    tuning.store("cpu", torch.float32, measured)
    tuning.forget()
    model = fnn.FusedSequential(nn.Conv2d(3, 8, 4, 2, 1), nn.Tanh())
    assert compare(model, (5, 4, 7, 9, 8, 12, 6), True) == 2  # parted at 6


def test_the_class_of_a_shape() -> None:
    measured = (((4, 3, 8, 8), "recompute"), ((9, 3, 8, 8), "fused"), ((16, 3, 4, 4), "norm_fused"))
    classes = tuning.classes(measured)
    found = [tuning.of_class((n, 3, 8, 8), classes) for n in (2, 4, 5, 6, 100)]
    assert found == ["recompute", "recompute", "recompute", "fused", "fused"]
    assert tuning.of_class((16, 3, 5, 5), classes) is None
