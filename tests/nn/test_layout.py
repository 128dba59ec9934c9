"""Contiguous inputs whose layers run channels-last: which, and that nobody sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from along import sizes
from tolerance import FLOOR, error
from torch import Tensor, nn

from fastgan import fuse
from fastgan.fusion import explain
from fastgan.nn import FusedSequential, layout
from fastgan.nn.planner import plan
from fastgan.ops.core.tolerance import between_networks

pytestmark = pytest.mark.usefixtures("native")
CHANNELS_LAST = torch.channels_last


def discriminator(width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width)),
        *(nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 4)),
    )


def unet() -> nn.Module:
    """Chains between which the format does not matter, does, and cannot be another."""

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2))
            self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.InstanceNorm2d(16), nn.ReLU())
            self.up = nn.Sequential(nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())
            self.critic = nn.Linear(3 * 16 * 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.down(x)
            y = self.up(torch.cat([y, self.inner(y) + y], 1))
            return self.critic(y.view(len(y), -1))

    return UNet()


@pytest.mark.parametrize(
    ("batch", "change", "expected"),
    [
        (32, lambda m, x: (m, x), True),
        (
            1,
            lambda m, x: (m, x[:, :, :24, :24].clone()),
            False,
        ),  # the weights cost more than is saved
        (32, lambda m, x: (m, x.to(memory_format=CHANNELS_LAST)), False),
        (32, lambda m, x: (m.to(memory_format=CHANNELS_LAST), x), False),
        (32, lambda m, x: (m, x.to("meta")), False),
        (32, lambda m, x: (m.double(), x.double()), False),  # for which no kernel of ours is
    ],
)
def test_it_pays_by_shape(batch: int, change: Callable[..., Any], expected: bool) -> None:
    model, x = change(discriminator(), torch.randn(batch, 3, 64, 64))
    assert layout.pays(plan(list(model.named_children())), x) is expected


def test_a_parametrized_weight_is_not_made_to_ask() -> None:
    model = discriminator()
    torch.nn.utils.parametrizations.spectral_norm(model[2])
    before = copy.deepcopy(model.state_dict())
    assert layout.pays(plan(list(model.named_children())), torch.randn(32, 3, 64, 64))
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_layers_that_are_not_known_stay() -> None:
    model = nn.Sequential(discriminator()[0], nn.MaxPool2d(2), *discriminator()[2:])
    assert not layout.pays(plan(list(model.named_children())), torch.randn(32, 3, 128, 128))


@pytest.fixture(params=["pays", "always"])
def converting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it pays, and for all that may be converted, however small."""
    if request.param == "always":
        monkeypatch.setattr(layout, "MAX_SHARE", float("inf"))


def results(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and all gradients: of a loss and of the size of its gradient by x."""
    x = x.clone().requires_grad_()
    y = model(x)
    (g,) = torch.autograd.grad(y.square().mean(), x, create_graph=True)
    g.square().sum().backward()
    found = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    assert (x.stride(), y.stride()) == (g.stride(), torch.empty(y.shape).stride())
    return y.detach(), {
        "x": g.detach(),
        **found,
        **{k: b.clone() for k, b in model.named_buffers()},
    }


@pytest.mark.usefixtures("converting")
@pytest.mark.parametrize("prefer", ["speed", "memory"])
@pytest.mark.parametrize("build", [discriminator, unet], ids=["discriminator", "unet"])
def test_results_gradients_and_memory_are_the_models(
    build: Callable[[], nn.Module], prefer: str
) -> None:
    model = build()
    x = torch.randn(*((8, 3, 64, 64) if build is discriminator else (4, 3, 16, 16)))
    fused = fuse(copy.deepcopy(model), prefer=prefer)
    exact, exactly = results(copy.deepcopy(model).double(), x.double())
    for _ in range(2):  # the second call of a kind runs a graph of its own
        kept = copy.deepcopy(fused.state_dict())
        fused.zero_grad()
        own, gradients = results(fused, x)
        fused.load_state_dict(kept)
        assert own.stride() == exact.stride()
        theirs, their_gradients = results(copy.deepcopy(model), x)
        for k, g in gradients.items():
            assert g.is_contiguous(), k
            least = sizes(exactly)[k]
            allowed = 2 * error(their_gradients[k], exactly[k], least) + FLOOR[torch.float32]
            assert error(g, exactly[k], least) <= allowed, k
        assert error(own, exact) <= 2 * error(theirs, exact) + FLOOR[torch.float32]
    assert all(p.is_contiguous() for p in fused.parameters())


@pytest.mark.usefixtures("converting")
def test_a_fused_sequential_answers_in_the_format_of_its_input() -> None:
    model = FusedSequential(*discriminator()[:-1])
    x = torch.randn(32, 3, 64, 64)
    for _ in range(2):
        assert model(x).is_contiguous()
        y = model(x.to(memory_format=CHANNELS_LAST))
        assert y.is_contiguous(memory_format=CHANNELS_LAST)


def test_explain_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    layouts = [row.layout for row in explain(discriminator(), torch.randn(32, 3, 64, 64))]
    assert set(layouts) == {"converted"}
    assert "converted" in capsys.readouterr().out
    assert {r.layout for r in explain(discriminator(), torch.randn(1, 3, 24, 24))} == {"contiguous"}


def test_a_compiled_model_converts_nothing() -> None:
    model = fuse(discriminator())
    x = torch.randn(32, 3, 64, 64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert error(compiled(x).detach(), model(x).detach()) <= between_networks(torch.float32)
