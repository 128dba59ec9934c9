"""What all families share: shapes, attributes, memory format, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgan.models import create_model

SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"image_size": 16, "channels": 3, "width": 4},
    "tf_dcgan": {"image_size": 12, "channels": 3, "width": 4},
    "mlp": {"image_size": 9, "channels": 3, "hidden": (8,)},
    "resnet": {"image_size": 16, "channels": 3, "width": 4},
    "modern": {"image_size": 16, "channels": 3, "width": 4},
    "r3gan": {"image_size": 16, "channels": 3, "width": 4, "group_width": 4},
}
families = pytest.mark.parametrize("family", SMALL)
# Those with LeakyReLU and dropout to choose.
choosable = pytest.mark.parametrize("family", ["dcgan", "tf_dcgan", "mlp"])


def _generator(family: str, **kwargs: Any) -> torch.nn.Module:
    return create_model(f"{family}_generator", **{"latent_dim": 5, **SMALL[family], **kwargs})


def _discriminator(family: str, **kwargs: Any) -> torch.nn.Module:
    return create_model(f"{family}_discriminator", **{**SMALL[family], **kwargs})


@families
def test_shapes_and_attributes(family: str) -> None:
    torch.manual_seed(0)
    generator, discriminator = _generator(family), _discriminator(family)
    size = SMALL[family]["image_size"]
    assert (generator.latent_dim, generator.image_size, generator.channels) == (5, size, 3)
    assert (discriminator.image_size, discriminator.channels) == (size, 3)
    z = torch.randn(4, 5)
    images = generator(z)
    assert images.shape == (4, 3, size, size)
    # R3GAN's images end without a tanh.
    assert images.abs().max() <= 1 or family == "r3gan"
    assert discriminator(images).shape == (4,)
    generator.eval()
    torch.testing.assert_close(generator(z), generator(z[:, :, None, None]))


@families
def test_batch_of_one_keeps_its_dimension(family: str) -> None:
    generator, discriminator = _generator(family).eval(), _discriminator(family).eval()
    assert discriminator(generator(torch.randn(1, 5))).shape == (1,)


@families
def test_every_parameter_gets_a_gradient(family: str) -> None:
    torch.manual_seed(0)
    generator, discriminator = _generator(family), _discriminator(family)
    for module in (generator, discriminator):
        for parameter in module.parameters():
            if not parameter.any():  # layers that start at zero hide those before them
                torch.nn.init.normal_(parameter, std=0.1)
    discriminator(generator(torch.randn(8, 5))).square().sum().backward()
    for module in (generator, discriminator):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", ["dcgan", "tf_dcgan"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last])
def test_images_are_channels_last_in_memory(
    family: str, channels: int, weights: torch.memory_format
) -> None:
    generator = _generator(family, channels=channels).to(memory_format=weights)
    seen: dict[str, torch.Tensor] = {}
    for name in ("project", "blocks"):
        getattr(generator, name).register_forward_hook(
            lambda _module, _args, out, name=name: seen.update({name: out})
        )
    images = generator(torch.randn(4, 5))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert seen["blocks"].is_contiguous(memory_format=torch.channels_last)
    assert not seen["blocks"].is_contiguous()


@families
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_discriminator_accepts_both_layouts(
    family: str, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    discriminator = _discriminator(family).double().eval()
    size = SMALL[family]["image_size"]
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(
        discriminator(images.contiguous(memory_format=memory_format)), discriminator(images)
    )


@families
@pytest.mark.parametrize("shape", [(5,), (4, 6), (4, 5, 1), (4, 5, 2, 2), ()])
def test_wrong_latent_shape(family: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"z must have shape \[N, 5\] or \[N, 5, 1, 1\], got"):
        _generator(family)(torch.zeros(shape))


@families
def test_wrong_image_shape(family: str) -> None:
    size = SMALL[family]["image_size"]
    for shape in [(4, 1, size, size), (4, 3, size, size + 1), (3, size, size), (4, 3 * size**2)]:
        with pytest.raises(ValueError, match=rf"images must have shape \[N, 3, {size}, {size}\]"):
            _discriminator(family)(torch.zeros(shape))


@families
def test_images_that_are_not_square(family: str) -> None:
    size = {**SMALL[family], "image_size": [12, 20]}
    generator = create_model(f"{family}_generator", latent_dim=5, **size)
    discriminator = create_model(f"{family}_discriminator", **size)
    assert generator.image_size == discriminator.image_size == (12, 20)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 3, 12, 20)
    assert discriminator(images).shape == (2,)
    with pytest.raises(ValueError, match=r"images must have shape \[N, 3, 12, 20\]"):
        discriminator(torch.zeros(2, 3, 20, 12))


@families
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
@pytest.mark.parametrize("argument", ["latent_dim", "image_size", "channels", "width"])
def test_sizes_must_be_positive_integers(family: str, argument: str, value: Any) -> None:
    wrong, rest = (ValueError, "at least 1") if type(value) is int else (TypeError, "an int")
    match = f"{argument} must be {rest}, got"
    if family == "mlp" and argument == "width":
        argument, match, value = "hidden", rf"hidden\[1\] must be {rest}, got", (4, value)
    with pytest.raises(wrong, match=match):
        _generator(family, **{argument: value})
    if argument != "latent_dim":
        with pytest.raises(wrong, match=match):
            _discriminator(family, **{argument: value})


@choosable
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_negative_slope_must_be_finite_and_not_negative(family: str, value: float) -> None:
    for build in (_generator, _discriminator):
        with pytest.raises(ValueError, match="negative_slope must be a finite number"):
            build(family, negative_slope=value)


@choosable
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_dropout_must_be_a_rate(family: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got"):
        _discriminator(family, dropout=value)


@choosable
def test_dropout_acts_in_training_only(family: str) -> None:
    torch.manual_seed(0)
    discriminator = _discriminator(family, dropout=0.5)
    images = torch.randn(8, 3, *[SMALL[family]["image_size"]] * 2)
    assert not torch.equal(discriminator(images), discriminator(images))
    discriminator.eval()
    assert torch.equal(discriminator(images), discriminator(images))


@families
def test_construction_is_reproducible(family: str) -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(_generator(family).state_dict() | _discriminator(family).state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
