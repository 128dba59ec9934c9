"""The class loss of a discriminator with class outputs, written out; labels that do not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tolerance import within
from torch import Tensor

from fastgan.data import ImageDataset
from fastgan.engine import Batch, GANObjective, TrainConfig, Trainer, gan_step
from fastgan.models import create_model

from .conftest import TINY, tiny_data


def labelled(classes: int = 3) -> ImageDataset:
    images = tiny_data().images
    return ImageDataset(images=images, labels=torch.arange(len(images)) % classes, name="tiny")


def trainer(data: ImageDataset | None = None, norm: str = "none", **settings) -> Trainer:
    torch.manual_seed(0)
    rule = settings.pop("update_rule", "alternating")
    return Trainer(
        create_model("cdcgan_generator", latent_dim=6, num_classes=3, norm=norm, **TINY),
        create_model("acgan_discriminator", num_classes=3, norm=norm, **TINY),
        data or labelled(),
        TrainConfig(**{"batch_size": 8, "conditional": True, "steps": 2, **settings}),
        objective=GANObjective(update_rule=rule),
    )


def batch() -> Batch:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 8, 8, generator=rng) * 2 - 1
    return Batch(images, torch.arange(8) % 3, torch.randn(8, 6, generator=rng))


def gradients(made: Trainer) -> dict[str, Tensor]:
    networks = {"g": made.generator, "d": made.discriminator}
    return {f"{k}.{n}": p.grad for k, m in networks.items() for n, p in m.named_parameters()}


def written_out(weight: float, update_rule: str) -> dict[str, Tensor]:
    plain, data = trainer(), batch()
    g, d = plain.generator, plain.discriminator
    fakes = g(data.noise, data.labels)

    def outputs(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, classes = d(images, data.labels)
        return logits, F.cross_entropy(classes, data.labels)

    real, class_real = outputs(data.images)
    fake, class_fake = outputs(fakes.detach())
    loss_d = F.softplus(-real).mean() + F.softplus(fake).mean() + weight * (class_real + class_fake)
    grads_d = torch.autograd.grad(loss_d, list(d.parameters()))
    if update_rule == "alternating":
        for parameter, gradient in zip(d.parameters(), grads_d, strict=True):
            parameter.grad = gradient
        plain.optimizer_d.step()
    logits, class_loss = outputs(fakes)
    loss_g = F.softplus(-logits).mean() + weight * class_loss
    grads_g = torch.autograd.grad(loss_g, list(g.parameters()))
    named = zip([f"d.{n}" for n, _ in d.named_parameters()], grads_d, strict=True)
    return dict(named) | dict(
        zip([f"g.{n}" for n, _ in g.named_parameters()], grads_g, strict=True)
    )


@pytest.mark.parametrize("joint_batch", [False, True])
@pytest.mark.parametrize("update_rule", ["alternating", "simultaneous"])
def test_both_networks_learn_the_classes(update_rule, joint_batch):
    made = trainer(class_weight=0.5, update_rule=update_rule, joint_batch=joint_batch)
    metrics = gan_step(made.gan, lambda _: batch())
    assert metrics["loss_class"] > 1
    expected = written_out(0.5, update_rule)
    for name, gradient in gradients(made).items():
        torch.testing.assert_close(
            gradient, expected[name], **within(torch.float32, 100, 1), msg=name
        )


def test_class_outputs_and_gradient_penalty_go_together():
    made = trainer(regularizer="r1")
    metrics = gan_step(made.gan, lambda _: batch())
    assert metrics["r1"].isfinite()


def test_class_outputs_need_labels_and_two_passes():
    made = trainer(update_rule="one_stage")
    with pytest.raises(ValueError, match="one_stage has no place for class outputs"):
        gan_step(made.gan, lambda _: batch())
    made = Trainer(
        create_model("dcgan_generator", latent_dim=6, **TINY),
        create_model("acgan_discriminator", num_classes=3, **TINY),
        tiny_data(),
        TrainConfig(batch_size=8),
    )
    with pytest.raises(ValueError, match="conditional must be on: the discriminator gives"):
        made.train_step()


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (tiny_data(), {}, "conditional needs labels, and tiny has none: give it a folder"),
        (
            labelled(5),
            {},
            r"labels must lie in 0..2, .* tiny: image 4 has label 4: .* num_classes=5",
        ),
        (labelled(), {"conditional": False}, "CDCGANGenerator draws 3 classes: it is trained with"),
    ],
)
def test_labels_must_fit_the_classes(data, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(data, **settings)


def test_networks_that_take_no_labels_are_refused():
    for taking in (0, 1):
        networks = [
            create_model(f"dcgan_{part}", **TINY) for part in ("generator", "discriminator")
        ]
        networks[taking] = create_model(
            f"cdcgan_{('generator', 'discriminator')[taking]}", num_classes=3, **TINY
        )
        other = type(networks[1 - taking]).__name__
        with pytest.raises(ValueError, match=f"{other} takes none: its forward has one argument"):
            Trainer(*networks, labelled(), TrainConfig(batch_size=8, conditional=True))


def test_the_names_of_classes_are_written_down():
    named = dataclasses.replace(labelled(), classes=("cat", "dog", "owl"))
    assert trainer(named).facts()["data"]["classes"] == ["cat", "dog", "owl"]
    assert "classes" not in trainer().facts()["data"]
