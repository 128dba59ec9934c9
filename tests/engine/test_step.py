"""The step and its choices, against the same written out, or against each other."""

from __future__ import annotations

import copy

import pytest
import torch
from tolerance import assert_as_exact, within
from torch import Tensor, nn

from fastgan.data import ImageDataset
from fastgan.engine import Batch, GANObjective, TrainConfig, Trainer, gan_step
from fastgan.engine.step import discriminator_phase
from fastgan.losses import LOSSES
from fastgan.models import create_model

from .conftest import Recorder, tiny_data, tiny_trainer


def batch(dtype: torch.dtype = torch.float32, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(8, 1, 8, 8, generator=rng) * 2 - 1
    return Batch(images.to(dtype), None, torch.randn(8, 6, generator=rng).to(dtype))


def after_step(dtype: torch.dtype, scale: float = 1.0, **settings) -> dict[str, Tensor]:
    """Gradients and running statistics after one step; weights drawn larger by ``scale``."""
    trainer = tiny_trainer(**{"dropout": 0.0, **settings})
    networks = {"g": trainer.generator, "d": trainer.discriminator}
    for network in networks.values():
        network.to(dtype)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(scale)
    gan_step(trainer.gan, lambda _: batch(dtype))
    found = {f"{k}.{n}": p.grad for k, m in networks.items() for n, p in m.named_parameters()}
    found |= {
        f"{k}.{n}": b for k, m in networks.items() for n, b in m.named_buffers() if "running" in n
    }
    return {name: value.clone() for name, value in found.items()}


def assert_equal_steps(settings: dict, plain: dict, **common) -> None:
    """A step with ``settings`` errs at most twice as much as one with ``plain``."""
    exact = after_step(torch.float64, **plain, **common)
    eager = after_step(torch.float32, **plain, **common)
    own = after_step(torch.float32, **settings, **common)
    assert own.keys() == eager.keys()
    for name in own:
        # The gradient of the logits' bias is a sum of 16 terms of ±½ / 8, which nearly cancel.
        size = 0.25 if name == "d.output.bias" else 0.0
        assert_as_exact(name, own[name], eager[name], exact[name], size=size)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("update_rule", ["alternating", "simultaneous"])
def test_one_pass_over_real_and_fake_images_equals_two(norm, update_rule):
    assert_equal_steps({"joint_batch": True}, {}, norm=norm, update_rule=update_rule)


@pytest.mark.parametrize("loss", ["non_saturating", "saturating", "wasserstein"])
def test_the_generators_gradient_can_be_read_off_the_discriminators_pass(loss):
    one_stage, plain = {"update_rule": "one_stage"}, {"update_rule": "simultaneous"}
    assert_equal_steps(one_stage, plain, norm="none", loss=loss, scale=4.0)


@pytest.mark.parametrize("update_rule", ["alternating", "simultaneous"])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(update_rule):
    assert_equal_steps({"accumulate": 4}, {}, norm="none", update_rule=update_rule, scale=4.0)


@pytest.mark.parametrize("update_rule", ["alternating", "simultaneous"])
def test_the_discriminators_reconstruction_is_part_of_its_loss(update_rule):
    torch.manual_seed(0)
    size = {"image_size": 32, "channels": 1, "width": 4}
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 32, 32, generator=rng) * 2 - 1
    trainer = Trainer(
        create_model("few_shot_generator", latent_dim=6, **size),
        create_model("few_shot_discriminator", spectral=False, **size),
        ImageDataset(((images + 1) * 127.5).byte()),
        TrainConfig(batch_size=8, loss="hinge", sample_count=4, device="cpu"),
        objective=GANObjective(reconstruction_weight=2.0, update_rule=update_rule),
    )
    g, d = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    data = Batch(images, None, torch.randn(8, 6, generator=rng))
    torch.manual_seed(1)
    found = gan_step(trainer.gan, lambda _: data)
    torch.manual_seed(1)
    logits, rebuilt = d.forward_with_reconstruction(images)
    loss = trainer.gan.loss.discriminator(logits, d(g(data.noise).detach()))
    grads = torch.autograd.grad(loss + 2 * rebuilt, list(d.parameters()))
    torch.testing.assert_close(found["loss_reconstruction"], rebuilt.detach())
    torch.testing.assert_close(found["loss_d"], loss.detach())
    for (name, p), grad in zip(trainer.discriminator.named_parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad, **within(torch.float32, 100, 10), msg=name)


def test_a_reconstruction_needs_decoders():
    objective = GANObjective(reconstruction_weight=1.0)
    with pytest.raises(ValueError, match="reconstruction_weight needs a discriminator with decod"):
        tiny_trainer(parts={"objective": objective})
    with pytest.raises(ValueError, match="reconstruction_weight must be a number of at least 0"):
        GANObjective(reconstruction_weight=-1.0)
    discriminator = create_model("few_shot_discriminator", image_size=32, width=4)
    for wrong in ("conditional", "joint_batch"):
        with pytest.raises(ValueError, match="reconstruction_weight takes no conditional or joint"):
            objective.check(TrainConfig(**{wrong: True}), nn.Identity(), discriminator)


def test_simultaneous_gradients_are_taken_at_the_same_weights():
    trainer, plain = (tiny_trainer(dropout=0.0, update_rule="simultaneous") for _ in range(2))
    data = batch()
    gan_step(trainer.gan, lambda _: data)

    g, d = plain.generator, plain.discriminator
    fakes = g(data.noise)
    loss_d = plain.gan.loss.discriminator(d(data.images), d(fakes.detach()))
    grads_d = torch.autograd.grad(loss_d, list(d.parameters()))
    loss_g = plain.gan.loss.generator(copy.deepcopy(d)(fakes))
    grads_g = torch.autograd.grad(loss_g, list(g.parameters()))
    for network, grads in ((trainer.discriminator, grads_d), (trainer.generator, grads_g)):
        for parameter, expected in zip(network.parameters(), grads, strict=True):
            torch.testing.assert_close(parameter.grad, expected)


def test_fakes_of_their_own_for_the_generators_update():
    drawn = []

    def batches(i: int) -> Batch:
        drawn.append(i)
        return batch(seed=i)

    trainer = tiny_trainer(dropout=0.0, share_fakes=False, norm="none")
    gan_step(trainer.gan, batches)
    assert drawn == [0, 1]
    plain = tiny_trainer(dropout=0.0, norm="none")
    discriminator_phase(plain.gan, batch(seed=0))
    loss = plain.gan.loss.generator(plain.discriminator(plain.generator(batch(seed=1).noise)))
    for own, expected in zip(
        trainer.generator.parameters(),
        torch.autograd.grad(loss, list(plain.generator.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(own.grad, expected)


def test_in_bfloat16_every_update_sees_the_weights_of_the_last():
    """A cast of the weights that outlived an update would be one update behind."""
    trainer, plain = (
        tiny_trainer(dropout=0.0, precision="bfloat16", discriminator_steps=2) for _ in range(2)
    )
    gan_step(trainer.gan, lambda i: batch(seed=i))
    g, d, optimizer = plain.generator, plain.discriminator, plain.optimizer_d
    for i in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            # The generator's own update takes the last fakes with their graph.
            with torch.set_grad_enabled(i == 1):
                fakes = g(batch(seed=i).noise).detach()
            loss = plain.gan.loss.discriminator(d(batch(seed=i).images), d(fakes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for own, expected in zip(trainer.discriminator.parameters(), d.parameters(), strict=True):
        assert torch.equal(own, expected)


class MeanSquare:
    """Penalises large logits of real images."""

    name = "mean_square"

    def __init__(self, weight: float, every: int) -> None:
        self.weight, self.every = weight, every
        self.calls = 0

    def __call__(self, discriminator, real: Tensor, fake: Tensor) -> Tensor:
        self.calls += 1
        assert not fake.requires_grad
        return discriminator(real).square().mean()


class OnLogits(MeanSquare):
    takes = "logits"

    def penalty(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return real_logits.square().mean()


@pytest.mark.parametrize("kind", [MeanSquare, OnLogits])
def test_a_penalty_is_added_with_its_weight_times_its_interval(kind):
    penalty = kind(weight=0.5, every=4)
    trainer, plain = (tiny_trainer(dropout=0.0, norm="none") for _ in range(2))
    data = batch()
    _, metrics = discriminator_phase(trainer.gan, data, [penalty])
    d = plain.discriminator
    real = d(data.images)
    loss = plain.gan.loss.discriminator(real, d(plain.generator(data.noise).detach()))
    value = real.square().mean()
    expected = torch.autograd.grad(loss + 0.5 * 4 * value, list(d.parameters()))
    torch.testing.assert_close(metrics["mean_square"], value.detach())
    for parameter, gradient in zip(trainer.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_penalty_is_applied_on_every_kth_discriminator_update(tmp_path, recorder):
    penalty = MeanSquare(weight=1.0, every=3)
    parts = {"penalties": [penalty]}
    trainer = tiny_trainer(parts=parts, steps=5, discriminator_steps=2, log_every=1)
    trainer.fit(tmp_path / "run", reporter=recorder)
    assert penalty.calls == 4  # updates 0, 3, 6 and 9 of ten
    # Every line holds its newest value, also where it was not applied.
    assert all("mean_square" in values for _, values in recorder.values)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_trains(loss):
    trainer = tiny_trainer(loss=loss)
    metrics = gan_step(trainer.gan, lambda _: batch())
    assert all(value.isfinite() for value in metrics.values())
    assert all(p.grad.abs().sum() > 0 for p in trainer.generator.parameters())


def test_augmentation_is_applied_to_all_images_that_the_discriminator_sees():
    class Mark(nn.Module):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return images * 0.5

    augment = Mark()
    trainer = tiny_trainer(dropout=0.0, parts={"augment": augment})
    seen = []
    trainer.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    gan_step(trainer.gan, lambda _: batch())
    assert augment.calls == len(seen) == 3  # real, fake, and fake in the generator's update
    assert torch.equal(seen[0], batch().images * 0.5)


class Labelled(nn.Module):
    """A network of one image-sized map, shifted by its label."""

    def __init__(self, body: nn.Module, out: int) -> None:
        super().__init__()
        self.body, self.shift = body, nn.Embedding(3, out)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.training:  # the look before a run is in evaluation mode
            self.seen.append(labels)
        return self.body(x) + self.shift(labels).view(-1, *[1] * (self.body(x).dim() - 1))


def conditional_trainer(data: ImageDataset) -> Trainer:
    generator = Labelled(nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8))), 1)
    discriminator = Labelled(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), 1)
    config = {"steps": 2, "batch_size": 8, "sample_count": 5, "conditional": True}
    from fastgan.engine import TrainConfig

    return Trainer(generator, discriminator, data, TrainConfig(**config), latent_dim=4)


def test_both_networks_of_a_conditional_run_get_the_labels(tmp_path):
    images = tiny_data().images
    data = ImageDataset(images=images, labels=torch.arange(len(images)) % 3)
    trainer = conditional_trainer(data)
    trainer.fit(tmp_path / "run", reporter=Recorder())
    generated, *seen = trainer.generator.seen[0], *trainer.discriminator.seen[:3]
    assert all(torch.equal(generated, labels) for labels in seen)
    assert trainer.generator.shift.weight.grad.abs().sum() > 0
    assert trainer.fixed_labels.tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match="conditional needs labels, and tiny has none"):
        conditional_trainer(tiny_data())


def test_a_step_of_your_own_takes_the_place_of_the_engines(tmp_path, recorder):
    def only_the_discriminator(gan, batches, due):
        _, metrics = discriminator_phase(gan, batches(0))
        return metrics | {"loss_g": torch.zeros(()), "answer": torch.tensor(42.0)}

    trainer = tiny_trainer(parts={"step": only_the_discriminator}, steps=2)
    before = trainer.generator.output.weight.clone()
    trainer.fit(tmp_path / "run", reporter=recorder)
    assert torch.equal(trainer.generator.output.weight, before)
    assert recorder.values[0][1]["answer"] == 42.0


class PlainNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"joint_batch": True}, "the discriminator's 1 does not"),
        ({"sync_batchnorm": True}, "the discriminator's 1 cannot"),
        ({"update_rule": "one_stage"}, "this one has batch norm"),
        ({"update_rule": "simultaneous", "share_fakes": False}, "share_fakes is off"),
    ],
)
def test_choices_that_would_not_do_what_they_say_are_refused(settings, message):
    rule = settings.pop("update_rule", "alternating")
    config, objective = TrainConfig(batch_size=4, **settings), GANObjective(update_rule=rule)
    generator = tiny_trainer().generator
    with pytest.raises(ValueError, match=message):
        Trainer(generator, PlainNorm(), tiny_data(), config, objective=objective)


@pytest.mark.parametrize("settings", [{"loss": "hinge"}, {"smooth_fake": 0.1}])
def test_one_stage_refuses_losses_whose_slope_may_vanish(settings):
    with pytest.raises(ValueError, match="one_stage works with the losses non_saturating"):
        tiny_trainer(norm="none", update_rule="one_stage", **settings)


def test_one_stage_needs_one_logit_an_image():
    trainer = tiny_trainer(norm="none", dropout=0.0, update_rule="one_stage")
    trainer.gan.discriminator = nn.Conv2d(1, 1, 3)
    with pytest.raises(ValueError, match=r"one logit an image, got logits of shape \[8, 1, 6, 6\]"):
        gan_step(trainer.gan, lambda _: batch())


class Jitter(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + torch.randn_like(images)


def test_finite_differences_are_taken_of_images_that_were_augmented_once(tmp_path):
    settings = {"regularizer": "r1_finite", "reg_fraction": 0.5, "batch_size": 8}
    trainer, seen = tiny_trainer(parts={"augment": Jitter()}, **settings), []
    hook = trainer.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    trainer.train_step()
    hook.remove()
    assert [len(images) for images in seen] == [8, 8, 4, 4, 8]  # real, fake, the penalty's, fake
    assert (seen[2] - seen[3]).std().item() == pytest.approx(0.01, rel=0.3)
    assert (seen[3] - seen[0][:4]).std() > 0.1
    assert "r1_finite" in trainer.latest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reg_fraction": 0.0, "regularizer": "r1"}, r"reg_fraction must lie in \(0, 1\], got 0"),
        ({"reg_fraction": 0.5, "regularizer": "lecam"}, "reg_fraction is of gradient penalties"),
    ],
)
def test_a_share_of_the_batch_is_of_gradient_penalties(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)
