"""The halves of a joint batch."""

from __future__ import annotations

import pytest
import torch

from fastgan.engine.outputs import halves


@pytest.mark.parametrize("together", [True, False], ids=["side by side", "apart"])
def test_gradients_of_halves_are_that_of_the_whole(together):
    t = torch.randn(6, 2, requires_grad=True)
    g = torch.randn(6, 2)
    a, b = halves(t)
    assert torch.equal(torch.cat([a, b]), t)
    own = list(g.chunk(2)) if together else [half.clone() for half in g.chunk(2)]
    (found,) = torch.autograd.grad([a, b], t, own)
    assert torch.equal(found, g)
    assert (found.data_ptr() == g.data_ptr()) is together


def test_a_half_without_a_gradient_and_second_derivatives():
    t = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(
        torch.autograd.grad(halves(t)[1].sum(), t)[0], torch.tensor([0, 0, 1, 1.0]).double()
    )
    assert torch.autograd.gradgradcheck(lambda t: [h.square() for h in halves(t)], t)
