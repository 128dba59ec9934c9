"""Adversarial losses against the formulas of their papers."""

from __future__ import annotations

import pytest
import torch

from fastgan.losses import LOSSES, GANLoss, get_loss, hinge, lsgan, non_saturating, wasserstein


def _softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log(1 + torch.exp(x))


FORMULAS = {
    "non_saturating": (
        lambda r, f: _softplus(-r).mean() + _softplus(f).mean(),
        lambda f: _softplus(-f).mean(),
    ),
    "lsgan": (
        lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
        lambda f: ((f - 1) ** 2).mean() / 2,
    ),
    "hinge": (
        lambda r, f: (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean(),
        lambda f: -f.mean(),
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
}


def _logits(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64) * 3


def test_table_names_every_loss() -> None:
    assert LOSSES.keys() == FORMULAS.keys()
    assert get_loss("hinge") is hinge
    assert get_loss("lsgan") is lsgan
    assert get_loss("non_saturating") is non_saturating
    assert get_loss("wasserstein") is wasserstein


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", [(17,), (3, 1, 4, 4)])
def test_formula(name: str, shape: tuple[int, ...]) -> None:
    real, fake = _logits(*shape), _logits(*shape, seed=1)
    loss, (discriminator, generator) = get_loss(name), FORMULAS[name]
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(loss.discriminator(real, fake), discriminator(real, fake), **exact)
    torch.testing.assert_close(loss.generator(fake), generator(fake), **exact)


def test_non_saturating_is_binary_cross_entropy() -> None:
    real, fake = _logits(9), _logits(9, seed=1)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    torch.testing.assert_close(
        non_saturating.discriminator(real, fake), bce(real, ones) + bce(fake, zeros)
    )
    torch.testing.assert_close(non_saturating.generator(fake), bce(fake, ones))


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients(name: str) -> None:
    loss = get_loss(name)
    real, fake = _logits(6).requires_grad_(), _logits(5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss.discriminator, (real, fake))
    assert torch.autograd.gradcheck(loss.generator, (fake,))
    assert torch.autograd.gradgradcheck(loss.discriminator, (real, fake))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_are_finite(name: str, dtype: torch.dtype, sign: int) -> None:
    loss: GANLoss = get_loss(name)
    real = torch.tensor([1e4, 0.0], dtype=dtype, requires_grad=True)
    fake = torch.tensor([sign * 1e4, 0.0], dtype=dtype, requires_grad=True)
    total = loss.discriminator(real, fake) + loss.generator(fake)
    total.backward()
    assert total.dtype == torch.float32
    assert torch.isfinite(total)
    for logits in (real, fake):
        assert logits.grad is not None
        assert logits.grad.dtype == dtype
        assert torch.isfinite(logits.grad).all()


def test_confident_and_wrong_is_linear_not_infinite() -> None:
    logits = torch.tensor([-1e4], requires_grad=True)
    loss = non_saturating.generator(logits)
    assert loss.item() == 1e4
    assert torch.autograd.grad(loss, logits)[0].item() == -1.0


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss, real, fake = get_loss(name), _logits(1000).to(dtype), _logits(1000, seed=1).to(dtype)
    torch.testing.assert_close(
        loss.discriminator(real, fake),
        loss.discriminator(real.float(), fake.float()),
        rtol=0,
        atol=0,
    )


def test_double_precision_is_kept() -> None:
    assert lsgan.generator(_logits(3)).dtype == torch.float64


def test_unknown_name_is_answered_with_suggestions() -> None:
    with pytest.raises(ValueError, match="unknown loss 'hinges'; did you mean 'hinge'"):
        get_loss("hinges")
    with pytest.raises(ValueError, match="losses: hinge, lsgan, non_saturating, wasserstein"):
        get_loss("xyz")


def test_bad_logits() -> None:
    logits, empty, integers = torch.zeros(2), torch.zeros(0), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="real_logits must not be empty"):
        hinge.discriminator(empty, logits)
    with pytest.raises(ValueError, match="fake_logits must not be empty"):
        hinge.generator(empty)
    with pytest.raises(TypeError, match=r"fake_logits must be floating point, got torch\.int64"):
        hinge.discriminator(logits, integers)
