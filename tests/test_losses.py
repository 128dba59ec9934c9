"""Adversarial losses against the formulas of their papers."""

from __future__ import annotations

import pytest
import torch
from tolerance import within

import fastgan.losses
from fastgan.losses import (
    LOSSES,
    GANLoss,
    get_loss,
    hinge,
    lsgan,
    non_saturating,
    relativistic_pairing,
)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log(1 + torch.exp(x))


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


FORMULAS = {
    "non_saturating": (
        lambda r, f: _softplus(-r).mean() + _softplus(f).mean(),
        lambda f, r: _softplus(-f).mean(),
    ),
    "saturating": (
        lambda r, f: -_sigmoid(r).log().mean() - (1 - _sigmoid(f)).log().mean(),
        lambda f, r: (1 - _sigmoid(f)).log().mean(),
    ),
    "lsgan": (
        lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
        lambda f, r: ((f - 1) ** 2).mean() / 2,
    ),
    "hinge": (
        lambda r, f: (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean(),
        lambda f, r: -f.mean(),
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f, r: -f.mean()),
    # Jolicoeur-Martineau 2018, the relativistic average standard GAN
    "relativistic_average": (
        lambda r, f: (
            -_sigmoid(r - f.mean()).log().mean() - (1 - _sigmoid(f - r.mean())).log().mean()
        ),
        lambda f, r: (
            -_sigmoid(f - r.mean()).log().mean() - (1 - _sigmoid(r - f.mean())).log().mean()
        ),
    ),
    # Huang et al. 2024: the mean of f(D(fake) - D(real)), f(t) = log(1 + e^t)
    "relativistic_pairing": (
        lambda r, f: _softplus(f - r).mean(),
        lambda f, r: _softplus(r - f).mean(),
    ),
}
RELATIVISTIC = {"relativistic_average", "relativistic_pairing"}
SMOOTHABLE = {"non_saturating", "saturating", "lsgan", "relativistic_average"}


def _logits(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64) * 3


def test_table_names_every_loss() -> None:
    assert LOSSES.keys() == FORMULAS.keys()
    for name, loss in LOSSES.items():
        assert get_loss(name) is loss is getattr(fastgan.losses, name)
        assert loss.relativistic == (name in RELATIVISTIC)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", [(17,), (3, 1, 4, 4)])
def test_formula(name: str, shape: tuple[int, ...]) -> None:
    real, fake = _logits(*shape), _logits(*shape, seed=1)
    loss, (discriminator, generator) = get_loss(name), FORMULAS[name]
    exact = within(torch.float64, 1, 1)
    torch.testing.assert_close(loss.discriminator(real, fake), discriminator(real, fake), **exact)
    torch.testing.assert_close(loss.generator(fake, real), generator(fake, real), **exact)


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
    real, fake = _logits(6).requires_grad_(), _logits(6, seed=1).requires_grad_()
    for half, logits in ((loss.discriminator, (real, fake)), (loss.generator, (fake, real))):
        assert torch.autograd.gradcheck(half, logits)
        assert torch.autograd.gradgradcheck(half, logits)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_are_finite(name: str, dtype: torch.dtype, sign: int) -> None:
    loss: GANLoss = get_loss(name)
    real = torch.tensor([1e4, 0.0], dtype=dtype, requires_grad=True)
    fake = torch.tensor([sign * 1e4, 0.0], dtype=dtype, requires_grad=True)
    total = loss.discriminator(real, fake) + loss.generator(fake, real)
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
    assert torch.equal(
        loss.discriminator(real, fake), loss.discriminator(real.float(), fake.float())
    )
    assert torch.equal(loss.generator(fake, real), loss.generator(fake.float(), real.float()))


def test_double_precision_is_kept() -> None:
    assert lsgan.generator(_logits(3)).dtype == torch.float64


def test_unknown_name_is_answered_with_suggestions() -> None:
    with pytest.raises(ValueError, match="unknown loss 'hinges'; did you mean 'hinge'"):
        get_loss("hinges")
    with pytest.raises(ValueError, match=f"there are {', '.join(sorted(FORMULAS))}"):
        get_loss("xyz")


def test_bad_logits() -> None:
    logits, empty, integers = torch.zeros(2), torch.zeros(0), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="real_logits must not be empty"):
        hinge.discriminator(empty, logits)
    with pytest.raises(ValueError, match="fake_logits must not be empty"):
        hinge.generator(empty)
    with pytest.raises(TypeError, match=r"fake_logits must be floating point, got torch\.int64"):
        hinge.discriminator(logits, integers)
    with pytest.raises(ValueError, match=r"one shape to be paired, got \[2\] and \[3\]"):
        relativistic_pairing.discriminator(logits, torch.zeros(3))


@pytest.mark.parametrize("name", sorted(RELATIVISTIC))
def test_relativistic_generators_ask_for_real_logits(name: str) -> None:
    with pytest.raises(ValueError, match=f"generator's loss of {name} needs them, got None"):
        get_loss(name).generator(torch.zeros(2))


def test_relativistic_average_takes_batches_of_two_sizes() -> None:
    discriminator, _ = FORMULAS["relativistic_average"]
    real, fake = _logits(7), _logits(4, seed=1)
    torch.testing.assert_close(
        get_loss("relativistic_average").discriminator(real, fake), discriminator(real, fake)
    )


@pytest.mark.parametrize("name", sorted(SMOOTHABLE - {"lsgan"}))
@pytest.mark.parametrize(("smooth_real", "smooth_fake"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2)])
def test_label_smoothing_is_cross_entropy_with_soft_targets(
    name: str, smooth_real: float, smooth_fake: float
) -> None:
    real, fake = _logits(9), _logits(9, seed=1)
    loss = get_loss(name, smooth_real=smooth_real, smooth_fake=smooth_fake)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    of_real, of_fake = real, fake
    if name in RELATIVISTIC:
        of_real, of_fake = real - fake.mean(), fake - real.mean()
    expected = bce(of_real, torch.full_like(real, 1 - smooth_real))
    expected = expected + bce(of_fake, torch.full_like(fake, smooth_fake))
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    assert torch.equal(loss.generator(fake, real), get_loss(name).generator(fake, real))
    assert loss.relativistic == get_loss(name).relativistic


def test_label_smoothing_moves_the_targets_of_least_squares() -> None:
    loss = get_loss("lsgan", smooth_real=0.1, smooth_fake=0.2)
    assert loss.discriminator(torch.tensor([0.9]), torch.tensor([0.2])).item() == 0
    assert loss.generator(torch.tensor([1.0])).item() == 0


@pytest.mark.parametrize("name", sorted(FORMULAS.keys() - SMOOTHABLE))
@pytest.mark.parametrize("side", ["smooth_real", "smooth_fake"])
def test_losses_without_labels_refuse_smoothing(name: str, side: str) -> None:
    with pytest.raises(ValueError, match=f"{side}: the loss '{name}' has no labels to smooth"):
        get_loss(name, **{side: 0.1})


@pytest.mark.parametrize("value", [-0.1, 0.5, float("nan")])
def test_smoothing_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match=r"smooth_real must lie in \[0, 0\.5\), got"):
        get_loss("lsgan", smooth_real=value)
