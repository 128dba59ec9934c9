"""Packed copies on a GPU: threads of the backward pass, streams and CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import COMPILED
from torch import Tensor, nn

from fastgan.ops import backend, conv_block, packed_weights

pytestmark = COMPILED


def run(x: Tensor, weight: Tensor) -> Tensor:
    with backend("triton"):
        return conv_block(x, weight, stride=2, padding=1)[0]


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(64, 64, 4, 4, device="cuda"))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(8, 64, 8, 8, device="cuda", requires_grad=True)


def made(copies: Any, weight: Tensor) -> int:
    return len(copies._of[weight].made)


def test_the_backward_pass_shares_copies_though_it_runs_in_another_thread(x, weight):
    expected = torch.autograd.grad(run(x, weight).square().sum(), [x, weight])
    with packed_weights() as copies:
        for _ in range(3):
            found = torch.autograd.grad(run(x, weight).square().sum(), [x, weight])
        assert made(copies, weight) == 2
    assert all(torch.equal(*values) for values in zip(found, expected, strict=True))


def test_a_stream_makes_its_own(x, weight):
    side = torch.cuda.Stream()
    with packed_weights() as copies, torch.no_grad():
        run(x, weight)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run(x, weight)
        torch.cuda.current_stream().wait_stream(side)
        assert made(copies, weight) == 2


def test_a_graph_follows_the_weight_whether_the_scope_opened_before_it_or_in_it(x, weight):
    graphs, outputs = [], []
    with torch.no_grad(), packed_weights():
        run(x, weight)  # compiles, and keeps a copy that the graphs must not use
        for scopes in (0, 1):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                if scopes:
                    with packed_weights():
                        run(x, weight)
                        outputs.append(run(x, weight))
                else:
                    outputs.append(run(x, weight))
            graphs.append(graph)
        for _ in range(2):
            weight.normal_()
            expected = run(x, weight)
            for graph, output in zip(graphs, outputs, strict=True):
                graph.replay()
                assert torch.equal(output, expected)
