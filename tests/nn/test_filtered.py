"""DCGAN-64 by Winograd convolutions: one pass of each network, and some steps of training them."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import dcgan64
import pytest
import torch
from tolerance import FLOOR, assert_as_exact, error
from torch import Tensor, nn
from torch.nn.functional import softplus

from fastgan.nn import FusedSequential
from fastgan.ops.conv import winograd
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.problem import DATA_GRADIENT, FORWARD, WEIGHT_GRADIENT, Problem
from fastgan.ops.conv.tuning import convolution_form

NETWORKS: dict[str, tuple[Callable[..., nn.Sequential], tuple[int, ...]]] = {
    "generator": (dcgan64.generator, (8, 1, 1)),
    "discriminator": (dcgan64.discriminator, (3, 64, 64)),
}


def fused(model: nn.Module) -> FusedSequential:
    return FusedSequential(OrderedDict(model.named_children()))


@pytest.fixture
def counted(native: None, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The passes that run by Winograd's algorithm."""
    ran: Counter[str] = Counter()
    original = winograd.run

    def run(p: Problem, *given: Any) -> Tensor:
        ran[p.of] += 1
        return original(p, *given)

    monkeypatch.setattr(winograd, "run", run)
    return ran


@pytest.mark.parametrize("network", NETWORKS)
def test_one_pass(network: str, counted: Counter[str]) -> None:
    """Outputs, all gradients and running statistics, wherever the algorithm can run."""
    build, shape = NETWORKS[network]
    model = dcgan64.shake(build(16, smooth=True))
    x = torch.randn(4, *shape)
    cotangent = torch.randn(copy.deepcopy(model)(x).shape)

    def results(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
        model = model.to(dtype).to(memory_format=torch.channels_last)
        return dcgan64.trace(model, x.to(dtype), cotangent.to(dtype))

    with convolution_form("recompute"), force(winograd=True):
        own = results(fused(copy.deepcopy(model)), torch.float32)
    assert counted.total() == 3 * 4  # three layers: forward twice, both gradients
    theirs = results(copy.deepcopy(model), torch.float32)
    exact = results(copy.deepcopy(model), torch.float64)
    for name, value in own.items():
        terms = exact[name.replace("bias", "weight")] if name.endswith(".bias") else exact[name]
        size = float(terms.detach().abs().max())
        assert_as_exact(name, value, theirs[name], exact[name], floor=torch.float32, size=size)


STEPS, BATCH = 12, 4


def trained(networks: list[nn.Module], dtype: torch.dtype, own: bool) -> dict[str, Tensor]:
    """The losses of the steps of a GAN, [STEPS, 2], and the parameters of both networks after them.

    By SGD. Adam's first updates are lr * g / (|g| + eps), so that a gradient of the size of its
    rounding moves a weight as far as any other, or the other way: of starts a unit in the last
    place of float32 apart PyTorch's own losses are 1e-7 to 1.4e-5 off after 32 such steps, those
    by Winograd 2e-7 to 1.6e-4. In the worst the sign of one gradient of the 10^5 differed, 1.4e-7
    where the largest is 0.5 and the error of anyone's is up to 6e-7. By SGD all are 1.6e-7 to
    3.8e-7 off. Nor are there kinks: with them two starts in float64 are 3e-2 apart after the steps.
    """
    networks = [copy.deepcopy(m).to(dtype, memory_format=torch.channels_last) for m in networks]
    make, critic = (fused(m) for m in networks) if own else networks
    of_generator, of_discriminator = (
        torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for m in (make, critic)
    )
    draw = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        real = torch.rand(BATCH, 3, 64, 64, generator=draw) * 2 - 1
        real = real.to(dtype, memory_format=torch.channels_last)
        fake = make(torch.randn(BATCH, 8, 1, 1, generator=draw).to(dtype))
        of_discriminator.zero_grad()
        loss_d = (softplus(-critic(real)) + softplus(critic(fake.detach()))).mean()
        loss_d.backward()
        of_discriminator.step()
        of_generator.zero_grad()
        critic.requires_grad_(False)
        loss_g = softplus(-critic(fake)).mean()
        loss_g.backward()
        critic.requires_grad_(True)
        of_generator.step()
        losses.append(torch.stack([loss_d.detach(), loss_g.detach()]))
    found = {"losses": torch.stack(losses)}
    for name, network in (("generator", make), ("discriminator", critic)):
        found |= {f"{name}.{k}": p.detach() for k, p in network.named_parameters()}
    return found


# Forced in a narrow network; as it is chosen in one of 64 channels, whose layers of 4x4 positions
# run so for the weight gradient alone at this batch.
WIDTHS: dict[str, dict[str, int]] = {"always": {"width": 16}, "auto": {"width": 64, "most": 64}}


@pytest.mark.parametrize("setting", WIDTHS)
def test_training(setting: str, counted: Counter[str]) -> None:
    """Steps of both networks: losses and parameters are as near to float64's as PyTorch's."""
    builds = dcgan64.generator, dcgan64.discriminator
    networks: list[nn.Module] = [build(**WIDTHS[setting], smooth=True) for build in builds]
    forced = {"winograd": True} if setting == "always" else {}
    with convolution_form("recompute"), force(**forced):
        own = trained(networks, torch.float32, own=True)
    layers = 3 if setting == "always" else 2
    # Passes of a layer: of the generator one, of the discriminator three, two of them with weights.
    assert counted == {
        FORWARD: 4 * layers * STEPS,
        DATA_GRADIENT: 4 * layers * STEPS,
        WEIGHT_GRADIENT: 3 * 3 * STEPS,
    }
    theirs, exact = (trained(networks, d, own=False) for d in (torch.float32, torch.float64))
    groups = {"losses": ["losses"], "parameters": [k for k in exact if k != "losses"]}
    for group, names in groups.items():
        size = max(float(exact[name].abs().max()) for name in names)
        of_own, of_theirs = (
            max(error(found[name], exact[name], size) for name in names) for found in (own, theirs)
        )
        allowed = 2 * of_theirs + FLOOR[torch.float32]
        assert of_own <= allowed, f"{group}: {of_own:.2e}, PyTorch's {of_theirs:.2e}"
