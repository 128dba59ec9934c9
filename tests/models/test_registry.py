"""The registry: names, patterns, suggestions."""

from __future__ import annotations

import pytest
from torch import nn

from fastgan.models import DCGANGenerator, _registry, create_model, list_models, register_model

FAMILIES = [
    "cdcgan",
    "cycle",
    "dcgan",
    "few_shot",
    "hifigan",
    "mlp",
    "modern",
    "r3gan",
    "resnet",
    "text",
    "tf_dcgan",
    "wavegan",
]
OTHERS = {"acgan_discriminator", "autoencoder", "vae", "unet", "patch_discriminator"}
OTHERS |= {"tile_generator", "video_generator", "volume_discriminator", "volume_generator"}
OTHERS |= {"text_rnn", "resnet_translator", "projected_discriminator"}
OTHERS |= {"srresnet", "inpainter", "inpainting_discriminator"}


@pytest.fixture(autouse=True)
def _restore_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_MODELS", dict(_registry._MODELS))


def test_every_family_is_registered() -> None:
    expected = {
        f"{family}_{part}" for family in FAMILIES for part in ("generator", "discriminator")
    }
    assert set(list_models()) == expected | OTHERS
    assert list_models() == sorted(list_models())


def test_filter_is_a_shell_pattern() -> None:
    assert list_models("*dcgan_generator") == [
        "cdcgan_generator",
        "dcgan_generator",
        "tf_dcgan_generator",
    ]
    assert list_models("mlp") == []


def test_arguments_reach_the_constructor() -> None:
    model = create_model("dcgan_generator", image_size=28, channels=1, width=8)
    assert isinstance(model, DCGANGenerator)
    assert (model.image_size, model.channels, model.latent_dim) == (28, 1, 100)


def test_unknown_argument() -> None:
    with pytest.raises(TypeError, match="colours"):
        create_model("dcgan_generator", colours=3)


def test_unknown_name_is_answered_with_suggestions() -> None:
    with pytest.raises(ValueError, match="unknown model 'dcgan_genrator'; did you mean 'dcgan_gen"):
        create_model("dcgan_genrator")
    with pytest.raises(ValueError, match="there are acgan_discriminator, autoencoder, "):
        create_model("xyz")


def test_registering_by_function_and_by_name() -> None:
    @register_model
    def my_generator(width: int = 1) -> nn.Module:
        return nn.Linear(width, width)

    @register_model("another_generator")
    class Another(nn.Module):
        pass

    assert create_model("my_generator", width=3).in_features == 3
    assert isinstance(create_model("another_generator"), Another)


def test_a_name_is_not_taken_twice() -> None:
    with pytest.raises(ValueError, match="'dcgan_generator' is already registered"):

        @register_model("dcgan_generator")
        class Mine(nn.Module):
            pass

    assert isinstance(create_model("dcgan_generator", width=4), DCGANGenerator)


def test_a_reloaded_module_replaces_its_own_entry() -> None:
    assert register_model("dcgan_generator")(DCGANGenerator) is DCGANGenerator
