"""mean_loss in Triton's interpreter against float64, every output poisoned with NaN beforehand."""

from __future__ import annotations

import pytest
import torch
from mean_loss_case import CASES, TERMS, check

from fastgan.losses import non_saturating
from fastgan.ops import backend, mean_loss
from fastgan.ops.mean_loss import reference


@pytest.fixture(autouse=True)
def _by_triton():
    with backend("triton"):
        yield


@pytest.mark.parametrize(("terms", "dtype", "scale"), CASES)
def test_follows_its_definition(terms, dtype, scale):
    check(terms, dtype, scale, "cpu")


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(terms, value):
    x = torch.tensor([1.0, value], requires_grad=True)
    parts = [(x, term) for term in terms]
    found, expected = [], []
    for run, results in ((mean_loss.mean_loss, found), (reference.mean_loss, expected)):
        loss, mean, *_ = run(parts)
        results += [loss, mean, *torch.autograd.grad(loss, x)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_a_second_derivative_is_that_of_the_definition():
    x = torch.randn(5, dtype=torch.bfloat16, requires_grad=True)

    def curvature():
        (slope,) = torch.autograd.grad(non_saturating.generator(x), x, create_graph=True)
        return torch.autograd.grad(slope.float().square().sum(), x)[0]

    by_triton = curvature()
    with backend("reference"):
        assert torch.equal(by_triton, curvature())


def test_a_part_without_a_gradient():
    real, fake = torch.randn(3), torch.randn(3, requires_grad=True)
    non_saturating.discriminator(real, fake).backward()
    torch.testing.assert_close(fake.grad, fake.detach().sigmoid() / 3)


def test_many_logits_and_other_dtypes_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(mean_loss, "_kernels", None)
    for x in (torch.zeros(65537), torch.zeros(3, dtype=torch.float64)):
        assert non_saturating.generator(x).dtype is x.dtype
