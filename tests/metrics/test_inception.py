"""Inception's path with a stand-in for its weights, which cannot be fetched everywhere.

torch-fidelity's network with random weights, written as the file that it loads, and the digest of
that file in place of the published one: all is real but the weights' values.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastgan.cli import main
from fastgan.data import load
from fastgan.engine import load_generator
from fastgan.engine.checkpoint import save_checkpoint
from fastgan.engine.sampling import sample_images
from fastgan.metrics import FeatureNetwork, evaluate, get_network, load_scores, pretrained
from fastgan.models import create_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_statistics")]

OUTPUTS = ["2048", "logits_unbiased"]
# Where `make setup` puts torch-fidelity, beside the environment's packages.
BESIDE = Path(sys.prefix) / "torch-fidelity" / "torch_fidelity"


@pytest.fixture(scope="module")
def architecture() -> Iterator[ModuleType]:
    """torch-fidelity's module of the network, without its package where that does not import."""
    name = "torch_fidelity.feature_extractor_inceptionv3"
    try:
        found = importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        if not BESIDE.is_dir():
            pytest.skip(f"needs torch-fidelity: pip install 'fastgan[inception]' ({error})")
        spec = ModuleSpec("torch_fidelity", None, is_package=True)
        spec.submodule_search_locations = [str(BESIDE)]
        sys.modules["torch_fidelity"] = module_from_spec(spec)
        found = importlib.import_module(name)
    yield found
    # No other test shall find it.
    for module in [m for m in sys.modules if m.partition(".")[0] == "torch_fidelity"]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def weights(architecture, tmp_path_factory) -> Iterator[Path]:
    """A file of random weights, its digest in place of the published one."""
    torch.manual_seed(0)
    kind = architecture.FeatureExtractorInceptionV3
    nothing = mock.patch.object(architecture, "load_state_dict_from_url")
    with nothing, mock.patch.object(kind, "load_state_dict"):
        model = kind("stand-in", OUTPUTS)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    # One pass in training mode: statistics of the batch norms with which images differ in features.
    model.train()(coloured(8, seed=0))
    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(model.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with mock.patch.object(pretrained, "INCEPTION_SHA256", digest[:8]):
        yield file
    # 96 MB, which pytest would keep for three runs.
    file.unlink()


@pytest.fixture(scope="module")
def network(weights) -> FeatureNetwork:
    return get_network("inception", weights)


@pytest.fixture(scope="module")
def direct(architecture, weights) -> nn.Module:
    """torch-fidelity's network as its own package makes it."""
    path = str(weights)
    kind = architecture.FeatureExtractorInceptionV3
    return kind("direct", OUTPUTS, feature_extractor_weights_path=path).eval()


def coloured(count: int, seed: int) -> Tensor:
    """uint8 [count, 3, 28, 28]: four fields of random colours, and noise."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256, (count, 3, 2, 2)).repeat(14, axis=2).repeat(14, axis=3)
    noise = rng.integers(-20, 21, (count, 3, 28, 28))
    return torch.from_numpy((fields + noise).clip(0, 255).astype(np.uint8))


def outputs_of(direct: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """torch-fidelity's features and logits of uint8 images, in float64."""
    features, logits = direct(images)
    return features.double().numpy(), logits.double().numpy()


# Of few images torchmetrics' FID sums roots of 2,000 eigenvalues that are 0 but for rounding.
FID_ROUNDING = 1e-5


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """tr (Σ Σ')^½ as the sum of the singular values of X X'ᵀ, which has no such zeros."""
    x, y = ((a - a.mean(0)) / np.sqrt(len(a) - 1) for a in (real, fake))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    shift = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    return shift + (x**2).sum() + (y**2).sum() - 2 * root


def kid(real: np.ndarray, fake: np.ndarray) -> float:
    """The unbiased estimate over whole sets of one size."""
    n, width = real.shape

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p @ q.T / width + 1) ** 3

    within = [k.sum() - np.trace(k) for k in (kernel(real, real), kernel(fake, fake))]
    return sum(within) / (n * (n - 1)) - 2 * kernel(real, fake).mean()


def inception_scores(logits: np.ndarray, seed: int) -> list[float]:
    """Of ten splits of the shuffled images."""
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    p = np.exp(logits[order] - logits[order].max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    parts = [p[i * len(p) // 10 : (i + 1) * len(p) // 10] for i in range(10)]
    return [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in parts]


def test_features_and_logits_are_torch_fidelitys(network, direct):
    images = coloured(3, seed=1)
    features, logits = network(images.float() / 127.5 - 1)
    assert (features.shape, logits.shape) == ((3, 2048), (3, 1008))
    expected = direct(images)
    assert torch.equal(features, expected[0])
    assert torch.equal(logits, expected[1])
    # The logits of the Inception Score are those without the bias.
    assert torch.equal(logits, features @ direct.fc.weight.T)
    assert direct.fc.bias.abs().max() > 0.01
    assert features.std(0).mean() > 0.1


def test_samples_are_rounded_to_the_nearest_of_256_levels(network, direct):
    images = coloured(2, seed=2)
    near = images.float() + torch.tensor([0.45, -0.45]).view(2, 1, 1, 1)
    assert torch.equal(network(near / 127.5 - 1).features, direct(images)[0])


def test_a_file_with_another_byte_is_refused(weights, tmp_path):
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    other = tmp_path / "other.pth"
    other.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file of Inception's weights: its SHA-256"):
        get_network("inception", other)
    other.unlink()


def test_weights_are_downloaded_once(weights, network, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretrained, "INCEPTION_URL", weights.as_uri())
    with mock.patch.object(pretrained, "INCEPTION_SHA256", "0" * 8):
        with pytest.raises(OSError, match=r"could not be fetched \(invalid hash value"):
            get_network("inception")
        assert not list(tmp_path.rglob("*.pth"))
    assert get_network("inception").digest == network.digest
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    assert get_network("inception").digest == network.digest
    (tmp_path / "checkpoints" / weights.name).unlink()


def make_checkpoint(folder: Path) -> Path:
    """A generator of 28x28 RGB whose weights are large enough for samples of many colours."""
    arguments = {"channels": 3, "width": 8}
    torch.manual_seed(1)
    generator = create_model("tf_dcgan_generator", **arguments)
    for parameter in generator.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.25)
    info = {"generator": {"name": "tf_dcgan_generator", "arguments": arguments}}
    return save_checkpoint(folder, 0, {"generator": generator.state_dict()}, info)


def test_eval_prints_the_formulas_of_the_networks_outputs(
    weights, network, direct, tmp_path, capsys
):
    checkpoint, reals, count, seed = make_checkpoint(tmp_path), coloured(12, seed=3), 12, 5
    np.save(tmp_path / "reals.npy", reals.numpy())
    arguments = [
        "eval", str(checkpoint), "--metrics", "is,fid,kid", "--samples", str(count),
        "--data", str(tmp_path / "reals.npy"), "--features", "inception",
        "--feature-weights", str(weights), "--seed", str(seed), "--device", "cpu",
        "-o", str(tmp_path / "scores.json"),
    ]  # fmt: skip
    assert main(arguments) == 0
    text = capsys.readouterr().out
    setting = (
        f"(features inception-v3-compat, features_sha256 {network.digest[:12]}, "
        f"resize 299x299 bilinear as TensorFlow 1, fakes {count}, seed {seed}, "
    )
    assert text.count(setting) == 3
    scores = {score.metric: score for score in load_scores(tmp_path / "scores.json")}
    for name, others in (("fid", "reals 12, data"), ("kid", "reals 12, data"), ("is", "splits 10")):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert f"{name} {scores[name].value:.4f}" in line
        assert f"{setting}{others}" in line
    assert "biased upwards: 12 images for 2048 features" in text

    fakes = sample_images(load_generator(checkpoint), count, seed=seed)
    levels = torch.from_numpy(np.rint((fakes.numpy() + 1) * 127.5).astype(np.uint8))
    features, logits = outputs_of(direct, levels)
    real = outputs_of(direct, reals)[0]
    assert scores["fid"].value == pytest.approx(fid(real, features), rel=FID_ROUNDING)
    assert scores["kid"].value == pytest.approx(kid(real, features), rel=1e-6)
    assert scores["kid"].spread == pytest.approx(0, abs=1e-6 * scores["kid"].value)
    over_splits = inception_scores(logits, seed)
    assert scores["is"].value == pytest.approx(np.mean(over_splits), rel=1e-6)
    assert scores["is"].spread == pytest.approx(np.std(over_splits, ddof=1), rel=1e-6)


def test_few_grey_images(network, direct):
    reals, fakes = load("mnist5k", limit=3), coloured(4, seed=4)[:, :1]
    floats = fakes.float() / 127.5 - 1
    scores = {s.metric: s for s in evaluate([floats], reals, network, ("fid", "kid"))}
    real, fake = (outputs_of(direct, x.repeat(1, 3, 1, 1))[0] for x in (reals.images, fakes))
    assert scores["fid"].value == pytest.approx(fid(real, fake), rel=FID_ROUNDING)
    assert "biased upwards: 3 images for 2048 features" in scores["fid"].note
    assert scores["kid"].setting["subset_size"] == 3
    with pytest.raises(ValueError, match="is: 10 splits need as many images at least, got 4"):
        evaluate([floats], None, network, ("is",))
    with pytest.raises(ValueError, match="kid needs at least 2 images of each kind"):
        evaluate([floats[:1]], reals, network, ("kid",))
