"""The class loss of a discriminator with class outputs, written out; labels that do not fit."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from tolerance import within
from torch import Tensor

from fastgan.data import ImageDataset
from fastgan.engine import (
    AutoencoderObjective,
    Batch,
    CheckpointError,
    GANObjective,
    TrainConfig,
    Trainer,
    gan_step,
)
from fastgan.engine.outputs import output_of
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


def written_out(
    weight: float, update_rule: str, weights: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> dict[str, Tensor]:
    plain, data = trainer(), batch()
    g, d = plain.generator, plain.discriminator
    fakes = g(data.noise, data.labels)

    def outputs(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, classes = d(images, data.labels)
        chosen = classes.log_softmax(1)[torch.arange(8), data.labels]
        return logits, -(torch.tensor(weights)[data.labels] * chosen).mean()

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


@pytest.mark.parametrize("joint_batch", [False, True])
@pytest.mark.parametrize("update_rule", ["alternating", "simultaneous"])
def test_classes_weigh_in_both_networks_as_they_are_told_to(update_rule, joint_batch):
    rule = {"update_rule": update_rule, "joint_batch": joint_batch}
    made = trainer(class_weight=0.5, class_weights="0.5,4,1", **rule)
    gan_step(made.gan, lambda _: batch())
    expected = written_out(0.5, update_rule, (0.5, 4.0, 1.0))
    plain = written_out(0.5, update_rule)
    for name, gradient in gradients(made).items():
        torch.testing.assert_close(
            gradient, expected[name], **within(torch.float32, 100, 1), msg=name
        )
    assert not torch.allclose(expected["d.output.weight"], plain["d.output.weight"], rtol=0.01)


def test_weights_of_classes_are_a_mean_over_images_whatever_the_parts():
    """So a batch in parts, or over processes, has the gradients of the whole."""
    made = [trainer(class_weights="0.5,4,1", accumulate=parts) for parts in (1, 4)]
    for each in made:
        gan_step(each.gan, lambda _: batch())
    whole, parts = (gradients(each) for each in made)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, **within(torch.float32, 100, 1), msg=name)


def test_weights_that_a_callback_changes_take_effect():
    made, told = trainer(class_weights="1,1,1"), trainer(class_weights="0.5,4,1")
    before = made.gan.host_values()
    gan_step(made.gan, lambda _: batch())
    made = trainer(class_weights="1,1,1")
    made.gan.class_weights = (0.5, 4.0, 1.0)
    assert made.gan.host_values() != before  # a captured step is recorded anew
    for each in (made, told):
        gan_step(each.gan, lambda _: batch())
    assert all(torch.equal(v, gradients(told)[k]) for k, v in gradients(made).items())


def uneven(*counts: int) -> ImageDataset:
    labels = torch.tensor([c for c, count in enumerate(counts) for _ in range(count)])
    return ImageDataset(images=tiny_data(len(labels)).images, labels=labels, name="uneven")


def test_balanced_classes_weigh_alike_among_the_images_that_are_drawn():
    weights = trainer(uneven(30, 8, 2), class_weights="balanced").gan.class_weights
    assert weights == pytest.approx((40 / 90, 40 / 24, 40 / 6))
    assert sum(n * w for n, w in zip((30, 8, 2), weights, strict=True)) == pytest.approx(40)
    # What is drawn balanced already weighs alike, and half of it the other half.
    drawn = trainer(uneven(30, 8, 2), class_weights="balanced", balance=1.0)
    assert drawn.gan.class_weights == pytest.approx((1, 1, 1))
    half = trainer(uneven(16, 9, 0), class_weights="balanced", balance=0.5)
    assert half.gan.class_weights == pytest.approx((7 / 8, 7 / 6, 1))


def test_weights_of_classes_are_written_down_and_kept(tmp_path, recorder):
    weighed = {"steps": 2, "sample_count": 4, "class_weights": "balanced"}
    made = trainer(uneven(20, 10, 10), **weighed)
    made.fit(tmp_path / "run", reporter=recorder)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["class_weights"] == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert facts["config"]["class_weights"] == "balanced"
    assert "class_weights" not in trainer().facts()
    other = trainer(uneven(20, 10, 10), **{**weighed, "class_weights": "1,1,1", "steps": 4})
    with pytest.raises(CheckpointError, match="class_weights: 'balanced' in the checkpoint, '1,1"):
        other.fit(tmp_path / "run", resume=True, reporter=recorder)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("even", "must be off, balanced or a positive number for each class, .*got 'even'"),
        ("1,,2", "must be off, balanced or a positive number"),
        ("1,0,2", "must be off, balanced or a positive number .*got '1,0,2'"),
        ("1,nan,2", "must be off, balanced or a positive number"),
        ("1,2", "class_weights must be 3 numbers, one a class, got 2"),
    ],
)
def test_weights_that_are_none_are_told(value, message):
    with pytest.raises(ValueError, match=message):
        trainer(class_weights=value)


def test_weights_of_classes_need_a_loss_of_classes():
    with pytest.raises(ValueError, match="class_weights balanced needs conditional"):
        TrainConfig(class_weights="balanced")
    with pytest.raises(TypeError, match=r"class_weights must be .* got \[1, 2\] of type list"):
        TrainConfig(class_weights=[1, 2], conditional=True)
    config = TrainConfig(batch_size=8, conditional=True, class_weights="1,2,3")
    networks = [
        create_model(f"cdcgan_{part}", num_classes=3, **TINY)
        for part in ("generator", "discriminator")
    ]
    with pytest.raises(ValueError, match="CDCGANDiscriminator gives logits alone: take a discrim"):
        Trainer(*networks, labelled(), config)
    autoencoder = create_model("autoencoder", latent_dim=4, image_size=8, channels=1)
    with pytest.raises(ValueError, match=r"class_weights are of objective gan, .*got auto"):
        Trainer(autoencoder, None, labelled(), config, objective=AutoencoderObjective())
    with pytest.raises(ValueError, match="3 numbers, one a class of the discriminator's outputs"):
        output_of((torch.zeros(2), torch.zeros(2, 3)), torch.tensor([0, 1]), torch.ones(4))


def test_balanced_needs_all_labels_and_a_list_does_not():
    images = tiny_data().images
    items = [(image, int(label)) for image, label in zip(images, labelled().labels, strict=True)]
    assert trainer(items, class_weights="1,2,3").gan.class_weights == (1, 2, 3)
    with pytest.raises(ValueError, match="class_weights balanced needs all classes beforehand"):
        trainer(items, class_weights="balanced")


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
