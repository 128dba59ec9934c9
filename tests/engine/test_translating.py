"""The step of generators that are given something of each image, against the same written out."""

from __future__ import annotations

import copy

import pytest
import torch
from tolerance import assert_gradients, within
from torch import nn

from fastgan.data import ImageDataset
from fastgan.engine import Batch, TrainConfig, Trainer, sample_images
from fastgan.engine.log import SilentReporter
from fastgan.engine.objectives import TranslationObjective
from fastgan.losses import get_loss
from fastgan.models import create_model

from .conftest import tiny_data, tiny_trainer

UNET = {"width": 8, "depth": 2, "dropout": 0.0, "channels": 1}
NO_NORM = {"width": 8, "layers": 1, "norm": "none", "channels": 1, "condition_channels": 1}


def made(discriminator: bool = True, data: ImageDataset | None = None, **settings) -> Trainer:
    torch.manual_seed(0)
    own = {k: settings.pop(k) for k in list(settings) if hasattr(TranslationObjective, k)}
    return Trainer(
        create_model("unet", **UNET),
        create_model("patch_discriminator", **NO_NORM) if discriminator else None,
        data or tiny_data(),
        TrainConfig(batch_size=8, sample_count=4, device="cpu", **settings),
        objective=TranslationObjective(**own),
    )


def test_the_step_is_pix2pix_with_features():
    trainer = made(content_weight=3.0, feature_weight=2.0, adversarial_weight=0.5)
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    twin, critic = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    data = Batch(images, None, torch.empty(8, 0))
    metrics = trainer.step_function(trainer.gan, lambda _: data, ())
    fakes = twin(images)  # the luma of one channel is the channel
    loss = get_loss("non_saturating")
    real = critic(images, images)
    assert_gradients(
        trainer.discriminator, loss.discriminator(real, critic(fakes.detach(), images)), critic
    )
    after = trainer.discriminator  # the generator's update sees the updated discriminator
    content = (fakes - images).abs().mean()
    fooled = loss.generator(after(fakes, images))
    features = [after.features(x, images) for x in (fakes, images)]
    near = (features[0] - features[1].detach()).abs().mean()
    assert_gradients(trainer.generator, 3 * content + 0.5 * fooled + 2 * near, twin)
    torch.testing.assert_close(metrics["loss_content"], content.detach())
    torch.testing.assert_close(metrics["loss_g"], fooled.detach())


def test_without_a_discriminator_content_alone_is_learnt(tmp_path):
    trainer = made(False, adversarial_weight=0.0, content_weight=1.0, lr_g=2e-3, steps=60)
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    data = Batch(images, None, torch.empty(8, 0))
    losses = [
        float(trainer.step_function(trainer.gan, lambda _: data, ())["loss_content"])
        for _ in range(60)
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_parts_of_a_batch_add_up():
    whole, parts = made(), made(accumulate=2)
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    data = Batch(images, None, torch.empty(8, 0))
    for trainer in (whole, parts):
        for layer in trainer.generator.modules():  # whose statistics are of a part
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        trainer.step_function(trainer.gan, lambda _: data, ())
    for a, b in zip(whole.generator.parameters(), parts.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, **within(torch.float32, 100, 10))


def test_data_in_pairs_give_their_other_halves(tmp_path):
    images = tiny_data().images
    paired = ImageDataset(images, labels=255 - images)
    trainer = made(data=paired, condition="pairs", conditional=True, steps=1)
    torch.testing.assert_close(trainer.fixed_labels, -trainer.fixed_images[0])
    trainer.fit(tmp_path / "run", reporter=SilentReporter())
    assert (tmp_path / "run" / "samples" / "reconstructions-00000001.png").exists()


def test_random_conditions_of_the_grid_stay_and_cost_no_random_numbers():
    trainer = made(condition="grey")
    trainer.step_function.condition = "box"
    before = torch.get_rng_state()
    first, second = trainer.fixed_labels, trainer.fixed_labels
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condition": "gray"}, "condition must be one of .* .*'gray' .did you mean 'grey'"),
        ({"content_weight": -1.0}, "content_weight must be a number of at least 0"),
        ({"condition": "pairs"}, "condition pairs is of data in pairs"),
        ({"conditional": True}, "condition pairs is of data in pairs"),
        ({"adversarial_weight": 0.0}, "adversarial_weight must be 0 without a discriminator"),
        ({"discriminator": False}, "adversarial_weight must be 0 without a discriminator"),
        ({"augment": "diffaugment"}, "objective translation takes no augment"),
        (
            {"discriminator": False, "adversarial_weight": 0.0, "feature_weight": 1.0},
            "feature_weight needs a discriminator with features",
        ),
        ({"data": ImageDataset(torch.zeros(9, 3, 8, 8))}, "makes images of 1 channels"),
    ],
)
def test_it_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_networks_refuse_other_shapes():
    unet, critic = create_model("unet", **UNET), create_model("patch_discriminator", **NO_NORM)
    with pytest.raises(
        ValueError, match=r"\[N, 1, H, W\], H, W multiples of 4, got \[2, 1, 8, 6\]"
    ):
        unet(torch.zeros(2, 1, 8, 6))
    with pytest.raises(ValueError, match=r"condition must have shape \[2, 1, 8, 8\], got None"):
        critic(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"images must have shape \[N, 1, H, W\]"):
        critic(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="UNet draws nothing by itself"):
        sample_images(unet, 2)
    with pytest.raises(ValueError, match=r"takes conditions alone .*, got DCGANGenerator"):
        tiny_trainer(parts={"objective": TranslationObjective()})
