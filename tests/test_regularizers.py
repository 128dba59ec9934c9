"""Regularisers against closed forms, against autograd, and through the fused layers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerance import within
from torch import Tensor, nn

from fastgan.models import DCGANDiscriminator
from fastgan.nn import BatchNormAct2d
from fastgan.regularizers import (
    REGULARIZERS,
    LeCam,
    Regularizer,
    clip_weights_,
    dragan,
    finite_difference,
    get_regularizer,
    r1,
    r2,
    wgan_gp,
)

GRADIENT_PENALTIES = [name for name in REGULARIZERS if name != "lecam"]


def _images(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _quadratic(matrix: Tensor) -> Any:
    """½ xᵀ M x of each image; its gradient is M x for a symmetric M."""
    return lambda x: 0.5 * torch.einsum("ni,ij,nj->n", x.flatten(1), matrix, x.flatten(1))


def _linear(direction: Tensor) -> Any:
    return lambda x: x.flatten(1) @ direction


def test_zero_centred_penalties_of_a_quadratic() -> None:
    real, fake = _images(5, 2, 2, 3), _images(4, 2, 2, 3, seed=1)
    matrix = _images(12, 12, seed=2)
    matrix = matrix + matrix.T
    expected_real = 0.5 * (real.flatten(1) @ matrix).square().sum(1).mean()
    expected_fake = 0.5 * (fake.flatten(1) @ matrix).square().sum(1).mean()
    critic = _quadratic(matrix)
    torch.testing.assert_close(r1(critic, real), expected_real)
    torch.testing.assert_close(r2(critic, fake), expected_fake)
    both = get_regularizer("r1_r2")(critic, real, fake)
    torch.testing.assert_close(both, expected_real + expected_fake)


@pytest.mark.parametrize("length", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("one_sided", [False, True])
def test_norm_penalties_of_a_linear_critic(length: float, one_sided: bool) -> None:
    real, fake = _images(5, 2, 2, 3), _images(5, 2, 2, 3, seed=1)
    direction = _images(12, seed=2)
    critic = _linear(direction * (length / direction.norm()))
    expected = torch.tensor((length - 1) ** 2 if length > 1 or not one_sided else 0.0).double()
    torch.testing.assert_close(wgan_gp(critic, real, fake, one_sided=one_sided), expected)
    torch.testing.assert_close(dragan(critic, real, one_sided=one_sided), expected)


def test_finite_differences_have_the_mean_of_the_gradient_and_of_its_derivatives() -> None:
    """Over many z, at one image of a curved critic."""
    torch.manual_seed(0)
    weights = [_images(6, 8, seed=4).requires_grad_(), _images(8, seed=5).requires_grad_()]
    critic = lambda x: torch.tanh(x.flatten(1) @ weights[0] / 3) @ weights[1]  # noqa: E731
    image = _images(1, 1, 2, 3)
    exact = r1(critic, image)
    finite = finite_difference(critic, image.expand(200_000, -1, -1, -1))
    torch.testing.assert_close(finite, exact, rtol=0.02, atol=0)  # √(2 / 200,000) is 0.3 %
    both = [torch.autograd.grad(value, weights) for value in (exact, finite)]
    for expected, found in zip(*both, strict=True):
        assert (found - expected).norm() < 0.02 * expected.norm()
    with pytest.raises(ValueError, match="step must be positive, got 0"):
        finite_difference(critic, image, step=0)


def _trained(penalty: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """The logits on a line of a critic of one hidden layer, trained to tell 0.7 from -0.2."""
    torch.manual_seed(1)
    hidden = torch.randn(1, 24, dtype=torch.float64).requires_grad_()
    shift = torch.randn(24, dtype=torch.float64).requires_grad_()
    out = torch.zeros(24, dtype=torch.float64, requires_grad=True)
    critic = lambda x: torch.tanh(x @ hidden + shift) @ out  # noqa: E731
    optimizer = torch.optim.Adam([hidden, shift, out], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    spread = torch.linspace(-0.5, 0.5, 128, dtype=torch.float64)[:, None]
    for _ in range(600):
        loss = F.softplus(-critic(spread + 0.7)).mean() + F.softplus(critic(spread - 0.2)).mean()
        optimizer.zero_grad()
        (loss + penalty(critic, torch.cat([spread + 0.7, spread - 0.2]))).backward()
        optimizer.step()
        schedule.step()
    return critic(torch.linspace(-0.7, 1.2, 50, dtype=torch.float64)[:, None]).detach()


def test_the_stationary_point_is_that_of_the_exact_penalty() -> None:
    exact = _trained(r1)
    finite = _trained(finite_difference)
    free = _trained(lambda critic, x: torch.zeros((), dtype=torch.float64))
    assert (finite - exact).abs().max() < 0.05 * exact.abs().max()
    assert (free - exact).abs().max() > 2 * exact.abs().max()  # so the penalty decides


class _Recorder:
    """A linear critic that keeps the images it was shown."""

    def __call__(self, images: Tensor) -> Tensor:
        self.images = images.detach()
        return images.sum((1, 2, 3))


def test_wgan_gp_mixes_each_pair_by_its_own_uniform_share() -> None:
    critic, real = _Recorder(), _images(4000, 1, 2, 2)
    fake = real + 1
    wgan_gp(critic, real, fake)
    share = fake - critic.images  # of the real image
    torch.testing.assert_close(share, share[:, :, :1, :1].expand_as(share))
    share = share[:, 0, 0, 0]
    assert 0 <= share.min() < 0.01
    assert 0.99 < share.max() <= 1
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    assert share.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_dragan_looks_around_real_images() -> None:
    critic, real = _Recorder(), 3 * _images(2000, 1, 4, 4)
    dragan(critic, real, noise=0.25)
    noise = (critic.images - real) / real.std()
    assert noise.mean().item() == pytest.approx(0, abs=0.005)
    assert noise.std().item() == pytest.approx(0.25, abs=0.005)


def test_a_gradient_of_zero_has_a_finite_penalty() -> None:
    weight = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    real = _images(3, 2, 2, 3)
    penalty = wgan_gp(_linear(weight), real, real)
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert penalty.item() == 1
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", GRADIENT_PENALTIES)
def test_gradients_of_parameters(name: str) -> None:
    real, fake = _images(3, 1, 2, 2), _images(3, 1, 2, 2, seed=1)
    regularizer = get_regularizer(name)

    def penalty(first: Tensor, second: Tensor) -> Tensor:
        torch.manual_seed(0)
        return regularizer(lambda x: torch.tanh(x.flatten(1) @ first) @ second, real, fake)

    weights = (_images(4, 5, seed=2).requires_grad_(), _images(5, seed=3).requires_grad_())
    assert torch.autograd.gradcheck(penalty, weights)


def test_logits_of_a_patch_map_are_summed() -> None:
    real = _images(3, 1, 4, 4)
    patches = lambda x: x.square()  # noqa: E731
    torch.testing.assert_close(r1(patches, real), r1(lambda x: patches(x).sum((1, 2, 3)), real))


@pytest.mark.parametrize("name", GRADIENT_PENALTIES)
def test_labels_reach_a_conditional_discriminator(name: str) -> None:
    real, fake = _images(3, 1, 2, 2), _images(3, 1, 2, 2, seed=1)
    labels, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 6.0, 7.0])
    seen = []

    def conditional(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return images.sum((1, 2, 3)) * labels

    regularizer = get_regularizer(name)
    exact = name.removesuffix("_finite")
    passes = 1 if name == exact else 2
    regularizer(conditional, real, fake, labels)
    assert all(torch.equal(given, labels) for given in seen)
    seen.clear()
    expected = {"r2": [other], "r1_r2": [labels, other]}.get(exact, [labels])
    regularizer(conditional, real, fake, labels, other)
    pairs = zip(seen, [given for given in expected for _ in range(passes)], strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    seen.clear()
    get_regularizer(name, fraction=0.4)(conditional, real, fake, labels)
    assert all(torch.equal(given, labels[:1]) for given in seen)


def _plain(discriminator: nn.Module) -> nn.Module:
    """A copy with torch.nn's batch norm and LeakyReLU in place of every BatchNormAct2d."""
    plain = copy.deepcopy(discriminator)
    for block in plain.blocks:
        norm = getattr(block, "norm", None)
        if isinstance(norm, BatchNormAct2d):
            separate = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum).double()
            separate.load_state_dict(norm.state_dict())
            block.norm = nn.Sequential(
                OrderedDict(norm=separate, act=nn.LeakyReLU(norm.negative_slope))
            )
    return plain


@pytest.mark.parametrize("name", REGULARIZERS)
def test_fused_layers_as_plain_ones(name: str, host_backend: str) -> None:
    fused = DCGANDiscriminator(16, 2, 4).double()
    plain = _plain(fused)
    assert any(isinstance(m, BatchNormAct2d) for m in fused.modules())
    real, fake = _images(4, 2, 16, 16), _images(4, 2, 16, 16, seed=1)
    results = []
    for discriminator in (fused, plain):
        torch.manual_seed(0)
        penalty = get_regularizer(name)(discriminator, real, fake)
        gradients = torch.autograd.grad(
            penalty, list(discriminator.parameters()), materialize_grads=True
        )
        results.append([penalty.detach(), *gradients])
    assert any(g.abs().max() > 1e-6 for g in results[0][1:])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **within(torch.float64, 1000, 1))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_nothing_waits_for_the_device(name: str, no_host_sync: Any) -> None:
    discriminator, regularizer = DCGANDiscriminator(16, 2, 4), get_regularizer(name)
    real, fake = torch.randn(4, 2, 16, 16), torch.randn(4, 2, 16, 16)
    with no_host_sync():
        (regularizer.scale * regularizer(discriminator, real, fake)).backward()
        clip_weights_(discriminator)


@pytest.mark.parametrize("name", GRADIENT_PENALTIES)
def test_images_get_no_gradient_and_half_precision_is_widened(name: str) -> None:
    real, fake = (torch.randn(2, 1, 4, 4, dtype=torch.bfloat16, requires_grad=True) for _ in "rf")
    weight = torch.ones(16, dtype=torch.bfloat16, requires_grad=True)
    with torch.no_grad():  # as an engine may evaluate it for its log
        assert get_regularizer(name)(_linear(weight), real, fake).dtype == torch.float32
    get_regularizer(name)(_linear(weight), real, fake).backward()
    assert weight.grad is not None
    assert real.grad is None
    assert fake.grad is None


def test_lecam_pulls_logits_to_the_other_side() -> None:
    regularizer = LeCam(decay=0.5)
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 1.0])
    expected = (real - 0.0).square().mean() + (fake - 3.0).square().mean()
    torch.testing.assert_close(regularizer.penalty(real, fake), expected)
    torch.testing.assert_close(regularizer.anchors, torch.tensor([3.0, 0.0]))
    one_sided = LeCam(one_sided=True)
    fake = torch.tensor([1.0, 9.0])
    expected = real.new_tensor([0, 0]).square().mean() + torch.tensor([2.0, 0.0]).square().mean()
    torch.testing.assert_close(one_sided.penalty(real, fake), expected)


def test_lecam_averages_without_the_initial_value() -> None:
    regularizer, decay = LeCam(decay=0.9), 0.9
    reals = [float(i * i) for i in range(6)]
    for value in reals:
        regularizer.penalty(torch.full((3,), value), torch.full((3,), -value))
    weights = [decay ** (5 - i) for i in range(6)]
    mean = sum(w * r for w, r in zip(weights, reals, strict=True)) / sum(weights)
    torch.testing.assert_close(regularizer.anchors, torch.tensor([mean, -mean]))
    before = regularizer.anchors.clone()
    regularizer.eval().penalty(torch.ones(1), torch.ones(1))
    assert torch.equal(regularizer.anchors, before)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("batch", [0, 2])
def test_lecam_outlives_a_batch_that_is_not_finite(value: float, batch: int) -> None:
    """A run that skips such updates goes on with the averages of the others."""
    regularizer, without = LeCam(), LeCam()
    for i, real in enumerate(torch.randn(4, 8)):
        if i == batch:
            spoiled = regularizer.penalty(real * value, real)
            assert not spoiled.isfinite()
        fake = torch.randn(8)
        assert torch.equal(regularizer.penalty(real, fake), without.penalty(real, fake))
    assert regularizer.updates == 4


def test_lecam_state_is_its_future() -> None:
    first, second = LeCam(), LeCam()
    logits = [torch.randn(4) for _ in range(6)]
    first.penalty(logits[0], logits[1])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for module in (first, second):
        module.penalty(logits[2], logits[3])
    assert torch.equal(first.penalty(*logits[4:]), second.penalty(*logits[4:]))


def test_lecam_gradients_stay_right_after_a_later_update() -> None:
    regularizer = LeCam()
    logits = torch.randn(4, requires_grad=True)
    penalty = regularizer.penalty(logits, torch.zeros(4))
    expected = logits.detach() * 2 / 4
    regularizer.penalty(torch.ones(2), torch.ones(2))
    (gradient,) = torch.autograd.grad(penalty, logits)
    torch.testing.assert_close(gradient, expected)
    assert not regularizer.anchors.requires_grad


def test_clip_weights() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module[1].running_var.fill_(5.0)
    before = [p.detach().clone() for p in module.parameters()]
    clip_weights_(module, 0.1)
    for parameter, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, old.clamp(-0.1, 0.1))
    assert module[1].running_var[0] == 5
    with pytest.raises(ValueError, match="bound must be positive, got 0"):
        clip_weights_(module, 0)


def test_schedule_and_weight() -> None:
    regularizer = get_regularizer("r1", weight=2.0, every=16)
    assert (regularizer.name, regularizer.weight, regularizer.every) == ("r1", 2.0, 16)
    assert regularizer.scale == 32
    assert regularizer.takes == "images"
    assert not regularizer.state_dict()
    assert repr(regularizer) == "GradientPenalty(r1, weight=2.0, every=16)"
    assert get_regularizer("lecam").takes == "logits"
    assert get_regularizer("lecam").weight == 0.3
    assert {get_regularizer(name).weight for name in GRADIENT_PENALTIES} == {10.0}
    assert get_regularizer("wgan_gp", one_sided=True).options == {"one_sided": True}


def test_bad_arguments() -> None:
    critic, images = _Recorder(), torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match="unknown regularizer 'wgan-gp'; did you mean 'wgan_gp'"):
        get_regularizer("wgan-gp")
    with pytest.raises(ValueError, match="there are r1, r2, r1_r2, wgan_gp, dragan, r1_finite, "):
        get_regularizer("none")
    with pytest.raises(ValueError, match="weight must be a finite number of at least 0, got -1"):
        get_regularizer("r1", weight=-1)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        get_regularizer("r1", every=0)
    with pytest.raises(TypeError, match="r1 has no option 'noise'; it has none"):
        get_regularizer("r1", noise=1)
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got 1"):
        LeCam(decay=1)
    with pytest.raises(ValueError, match="noise must be at least 0, got -1"):
        dragan(critic, images, noise=-1)
    with pytest.raises(ValueError, match="real and fake must have one shape to be mixed"):
        wgan_gp(critic, images, images[:1])
    with pytest.raises(ValueError, match="fake must not be empty"):
        r2(critic, images[:0])
    with pytest.raises(TypeError, match=r"real must be floating point, got torch\.uint8"):
        r1(critic, images.byte())
    with pytest.raises(NotImplementedError):
        Regularizer("mine", 1.0)(critic, images, images)


def test_the_guard_against_waiting_sees_it(no_host_sync: Any) -> None:
    for waits in (
        lambda x: x.item(),
        lambda x: x[x > 0],
        lambda x: bool(x > 0),
        lambda x: x * torch.tensor([2.0]),
    ):
        with pytest.raises(AssertionError, match="would make the host wait"), no_host_sync():
            waits(torch.ones(1))
