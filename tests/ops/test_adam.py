"""adam: its definition against torch.optim, its kernels on a GPU, and what they serve."""

from __future__ import annotations

import pytest
import torch
from adam_case import CASES, arguments, check
from devices import COMPILED
from torch import nn

from fastgan.ops import adam, backend
from fastgan.ops.adam import reference
from fastgan.ops.core import dispatch


def test_its_definition_is_adam():
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (3, 5)]
    own = [p.detach().clone() for p in parameters]
    m, v = ([torch.zeros_like(p) for p in own] for _ in range(2))
    steps = [torch.zeros((), dtype=torch.float64) for _ in own]
    lr, none = torch.tensor(0.1, dtype=torch.float64), [None, None]
    optimizer = torch.optim.Adam(parameters, 0.1, (0.5, 0.9), weight_decay=0.1)
    for _ in range(3):
        gradients = [torch.randn_like(p) for p in own]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()
        rule = 0.5, 0.9, 1e-8, 0.1
        reference.adam_(own, gradients, m, v, steps, none, none, lr, None, None, None, rule)
    torch.testing.assert_close(own, [p.detach() for p in parameters], rtol=1e-13, atol=0)


@pytest.mark.parametrize("case", [pytest.param(case, marks=COMPILED) for case in CASES])
def test_follows_its_definition(case):
    with backend("triton"):
        check(case, "cuda")


def test_on_a_cpu_torch_makes_the_step():
    p, g, *_ = arguments("bare", "cpu")
    assert not adam.serves(p, [None] * 5, g)


@pytest.mark.parametrize(
    ("change", "served"),
    [
        (lambda t: t, True),
        (lambda t: t.double(), False),
        (lambda t: t[:, :1], False),
        (lambda t: t.contiguous(), False),
        (lambda t: torch.empty(385)[1:].view(8, 3, 4, 4), False),
    ],
    ids=[
        "as they are",
        "of another dtype",
        "of another shape",
        "in another order",
        "between 16 bytes",
    ],
)
def test_what_the_kernels_do_not_serve(change, served, monkeypatch):
    monkeypatch.setattr(dispatch, "why_not", lambda *_: None)
    p = arguments("bare", "cpu")[0][1]
    with backend("triton"):
        assert adam.serves([p], [None], [change(p)]) is served
        assert not adam.serves([p[:, :, ::2]], [None], [p[:, :, ::2]])
        assert not adam.serves([p] * 257, [None] * 257)
        assert not adam.serves([], [])


def test_the_stride_of_a_single_channel_says_nothing(monkeypatch):
    monkeypatch.setattr(dispatch, "why_not", lambda *_: None)
    p = torch.empty(8, 1, 4, 4)
    with backend("triton"):
        assert adam.serves([p], [None], [p.as_strided(p.shape, (16, 1, 4, 1))])
