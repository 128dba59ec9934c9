"""The step between two domains, against the same written out; the history of generated images."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from tolerance import assert_gradients, within
from torch import nn

from fastgan.data import ImageDataset, Unpaired
from fastgan.engine import Batch, TrainConfig, Trainer
from fastgan.engine.cycling import ImagePool
from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.objectives import CycleObjective
from fastgan.models import create_model

from .conftest import tiny_data, tiny_trainer

WIDTH = {"width": 4, "channels": 1}


def made(generator: str = "cycle_generator", **settings) -> Trainer:
    torch.manual_seed(0)
    own = {k: settings.pop(k) for k in list(settings) if hasattr(CycleObjective, k)}
    data = Unpaired(tiny_data(), ImageDataset(255 - tiny_data().images[:11]))
    return Trainer(
        create_model(generator, **WIDTH, **({"blocks": 1} if "cycle" in generator else {})),
        create_model("cycle_discriminator", **WIDTH, layers=1),
        data,
        TrainConfig(batch_size=4, sample_count=4, device="cpu", loss="lsgan", **settings),
        objective=CycleObjective(**own),
    )


def test_the_step_is_that_of_cyclegan():
    trainer = made(cycle_weight=3.0, identity_weight=2.0, image_buffer=0)
    a, b = (torch.rand(4, 1, 8, 8) * 2 - 1 for _ in range(2))
    twin, critic = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    data = Batch(torch.cat([a, b], 1), None, torch.empty(4, 0))
    metrics = trainer.step_function(trainer.gan, lambda _: data, ())
    to_b, to_a = twin.forth(a), twin.back(b)

    def squares(of: nn.Module, images: torch.Tensor, target: float) -> torch.Tensor:
        return (of(images) - target).square().mean() / 2

    losses = [
        squares(critic.of_a, a, 1) + squares(critic.of_a, to_a.detach(), 0),
        squares(critic.of_b, b, 1) + squares(critic.of_b, to_b.detach(), 0),
    ]
    assert_gradients(trainer.discriminator, sum(losses) / 2, critic)
    after = trainer.discriminator  # the generators' update sees the updated discriminators
    fooled = (squares(after.of_a, to_a, 1) + squares(after.of_b, to_b, 1)) / 2
    both = (twin.back(to_b), a), (twin.forth(to_a), b)
    cycle = sum((again - image).abs().mean() for again, image in both) / 2
    same = ((twin.back(a) - a).abs().mean() + (twin.forth(b) - b).abs().mean()) / 2
    assert_gradients(trainer.generator, fooled + 3 * cycle + 2 * same, twin)
    torch.testing.assert_close(metrics["loss_cycle"], cycle.detach())
    torch.testing.assert_close(metrics["loss_g"], fooled.detach())
    torch.testing.assert_close(metrics["loss_identity"], same.detach())
    trainer = made(identity_weight=0.0)
    assert "loss_identity" not in trainer.step_function(trainer.gan, lambda _: data, ())


def test_parts_of_a_batch_add_up():
    whole, parts = made(image_buffer=0), made(image_buffer=0, accumulate=2)
    images = torch.rand(4, 2, 8, 8) * 2 - 1
    data = Batch(images, None, torch.empty(4, 0))
    for trainer in (whole, parts):
        trainer.step_function(trainer.gan, lambda _: data, ())
    for network in ("generator", "discriminator"):
        both = (getattr(trainer, network).parameters() for trainer in (whole, parts))
        for one, other in zip(*both, strict=True):
            torch.testing.assert_close(one.grad, other.grad, **within(torch.float32, 100, 10))


class OneOfTwo:
    """A process of two: gathers what the other gives with what its own does."""

    def __init__(self, rank: int) -> None:
        self.rank, self.size, self.sent = rank, 2, iter(())

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        return next(self.sent)

    part = DistributedGroup.part


def written_out(pool: list[float], size: int, fake: float, coin: float, place: float) -> float:
    """The published query of a pool, of one image."""
    if len(pool) < size:
        pool.append(fake)
        return fake
    if coin <= 0.5:
        return fake
    slot = int(place * size)
    old, pool[slot] = pool[slot], fake
    return old


def test_half_of_what_is_shown_comes_from_a_history(monkeypatch):
    draws = [torch.rand(6, 2) for _ in range(8)]
    one, known = ImagePool(5, (1, 1, 1)), []
    two = [ImagePool(5, (1, 1, 1)) for _ in range(2)]
    groups = [OneOfTwo(rank) for rank in range(2)]
    kept = 0
    for step, drawn in enumerate(draws):
        monkeypatch.setattr(torch, "rand", lambda *_, drawn=drawn, **__: drawn)
        fakes = torch.arange(6.0).view(6, 1, 1, 1) + 6 * step
        shown = one(fakes, DistributedGroup()).flatten().tolist()
        triples = zip(fakes.flatten().tolist(), drawn.tolist(), strict=True)
        assert shown == [written_out(known, 5, fake, *chance) for fake, chance in triples]
        assert one.images.flatten().tolist() == known + [0.0] * (5 - len(known))
        kept += sum(value < 6 * step for value in shown)
        for group, pool in zip(groups, two, strict=True):  # each makes half of them
            group.sent = iter((fakes, drawn))
            own = pool(fakes.chunk(2)[group.rank], group)
            assert own.flatten().tolist() == shown[3 * group.rank :][:3]
            assert torch.equal(pool.images, one.images)
    assert kept > 8


def test_a_resume_has_the_history(tmp_path, recorder):
    random_state = random.getstate()
    whole = made(image_buffer=6, steps=6)
    whole.fit(tmp_path / "whole", reporter=recorder)
    made(image_buffer=6, steps=3).fit(tmp_path / "parts", reporter=recorder)
    again = made(image_buffer=6, steps=6)
    again.fit(tmp_path / "parts", resume=True, reporter=recorder)
    assert int(again.step_function.pool.held) == 6
    for one, other in (
        (whole.step_function, again.step_function),
        (whole.generator, again.generator),
    ):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert random.getstate() == random_state


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cycle_weight": -1.0}, "cycle_weight must be a number of at least 0"),
        ({"image_buffer": -1}, "image_buffer must be at least 0"),
        ({"conditional": True}, "objective cycle takes no conditional"),
        ({"augment": "diffaugment"}, "objective cycle takes no conditional and no augment"),
        ({"generator": "patch_discriminator"}, "latent_dim must be a whole number"),
        ({"generator": "unet"}, r"makes images of 1 channels, and items of .* are \[2, 8, 8\]"),
    ],
)
def test_it_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"needs a generator of both ways .*, got DCGANGenerator"):
        tiny_trainer(parts={"objective": CycleObjective()})
    generator = create_model("cycle_generator", **WIDTH, blocks=1)
    with pytest.raises(ValueError, match=r"shape \[N, 2, H, W\], H, W multiples of 4"):
        generator(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="sides of at least 8"):
        generator.forth(torch.zeros(2, 1, 4, 8))
    with pytest.raises(ValueError, match=r"images must have shape \[N, 2, H, W\]"):
        create_model("cycle_discriminator", **WIDTH)(torch.zeros(2, 1, 8, 8))
