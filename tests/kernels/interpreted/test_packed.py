"""Packed copies that Triton's conv_block shares in a scope: the same bits, and their number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from fastgan.data import ImageDataset
from fastgan.engine import GANObjective, TrainConfig, Trainer, gan_step
from fastgan.kernels.conv_block import forward as conv_forward
from fastgan.models import create_model
from fastgan.ops import backend, conv_block, convolution_form, packed_weights
from fastgan.ops.conv_block import Deferred


class Packings:
    """The weights that were packed, or what they are views of."""

    def __init__(self) -> None:
        self.of: list[Tensor] = []

    def count(self, weight: Tensor) -> int:
        return sum(packed is weight for packed in self.of)


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> Packings:
    packings = Packings()
    packed = conv_forward._packed

    def counted(weight: Tensor, *args: Any) -> Tensor:
        packings.of.append(weight if weight._base is None else weight._base)
        return packed(weight, *args)

    monkeypatch.setattr(conv_forward, "_packed", counted)
    return packings


@pytest.fixture(autouse=True)
def _triton() -> Iterator[None]:
    with backend("triton"), convolution_form("fused"):
        yield


def penalised(x: Tensor, weight: Tensor, transposed: bool, normed: bool) -> Tensor:
    """Two passes on equal weights and a gradient penalty on one."""
    norm = None
    if normed:
        mean, var = x.float().mean((0, 2, 3)), x.float().var((0, 2, 3), unbiased=False)
        norm = Deferred(mean[None], var[None], activation="leaky_relu")
    spec: dict[str, Any] = {"stride": 2, "padding": 1, "transposed": transposed}
    first = conv_block(x, weight, None, norm, activation="tanh", **spec)[0]
    second = conv_block(-x, weight, None, norm, **spec)[0]
    (g,) = torch.autograd.grad(first.float().square().sum(), x, create_graph=True)
    return first.float().sum() + second.float().square().sum() + g.float().square().sum()


@pytest.mark.parametrize(("transposed", "normed"), [(False, True), (True, False)])
@pytest.mark.parametrize("half", [False, True])
def test_the_same_bits_from_fewer_copies(
    transposed: bool, normed: bool, half: bool, packings: Packings
) -> None:
    weight = torch.randn((4, 3, 4, 4) if transposed else (3, 4, 4, 4), requires_grad=True)
    x = torch.randn(4, 4, 4, 4, requires_grad=True)

    def gradients() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = penalised(x, weight, transposed, normed)
        return loss, *torch.autograd.grad(loss, [x, weight])

    alone = gradients()
    assert packings.count(weight) > 4
    with packed_weights(check=True):
        gradients()
    packings.of.clear()
    with packed_weights():
        shared = gradients()
        # For the convolution and its data gradient; in half precision that of an activated output
        # is padded to other tiles.
        assert packings.count(weight) == 2 + half
    assert all(torch.equal(*values) for values in zip(shared, alone, strict=True))


def test_a_compiled_call_packs_for_itself(packings: Packings) -> None:
    """Its weight may be written inside the graph, where nobody counts."""
    weight = torch.randn(3, 4, 3, 3)
    x = torch.randn(1, 4, 3, 3)
    compiled = torch.compile(lambda: conv_block(x, weight)[0], backend="aot_eager", fullgraph=True)
    with packed_weights() as copies:
        assert torch.equal(compiled(), compiled())
        assert not copies._of
    assert len(packings.of) == 2


def trainer(size: int, width: int, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    rule = settings.pop("update_rule", "alternating")
    images = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8)
    common = {"image_size": size, "channels": 3, "width": width}
    return Trainer(
        create_model("dcgan_generator", latent_dim=6, **common),
        create_model("dcgan_discriminator", **common),
        ImageDataset(images=images, labels=None, classes=None, name="tiny", skipped=0),
        TrainConfig(batch_size=4, steps=4, sample_count=2, **settings),
        objective=GANObjective(update_rule=rule),
    )


# Settings: packings of a step of DCGAN-64's, each call for itself, and in the step's scope.
COUNTS = {
    "two passes": ({}, 24, 18),
    "joint batch": ({"joint_batch": True}, 18, 18),
    "in parts": ({"accumulate": 2}, 54, 18),
    "critic steps": ({"discriminator_steps": 3}, 54, 30),
    "R1": ({"regularizer": "r1"}, 39, 18),
    "bfloat16": ({"precision": "bfloat16"}, 24, 18),
}


@pytest.mark.parametrize(("settings", "alone", "shared"), COUNTS.values(), ids=COUNTS.keys())
def test_packings_of_a_step(
    settings: dict[str, Any],
    alone: int,
    shared: int,
    packings: Packings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the kernels write does not matter to the count.
    monkeypatch.setattr(GridExecutor, "__call__", lambda *args, **kwargs: None)
    for step, expected in ((gan_step.__wrapped__, alone), (gan_step, shared)):  # type: ignore[attr-defined]
        made = trainer(64, 8, **settings)
        made.step_function = step
        packings.of.clear()
        made.train_step()
        assert len(packings.of) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate": 2, "regularizer": "r1"},
        {"discriminator_steps": 2, "loss": "wasserstein", "clip_weights": 0.01},
        {"update_rule": "simultaneous", "precision": "bfloat16"},
    ],
    ids=str,
)
def test_steps_have_the_same_bits_and_use_no_stale_copy(settings: dict[str, Any]) -> None:
    states = []
    for shared in (False, True):
        made = trainer(8, 8, **settings)
        made.step_function = gan_step.__wrapped__  # type: ignore[attr-defined]
        with packed_weights(check=True) if shared else nullcontext():
            made.train_step()
        networks = made.generator, made.discriminator
        states.append([value for network in networks for value in network.state_dict().values()])
    assert all(value.isfinite().all() for value in states[0])
    assert all(torch.equal(*values) for values in zip(*states, strict=True))
