"""An ONNX generator measured by torch-fidelity's own command, and by ours in the same features.

The features are the 64 of its Inception's first block, with random weights: with 80 images their
covariance is not singular, so FID is known to all digits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stub_torchvision
import torch
from PIL import Image
from torch import Tensor, nn

from fastgan.data import ImageDataset
from fastgan.fusion import export
from fastgan.metrics import FeatureNetwork, Options, evaluate
from fastgan.models import create_model

from .test_inception import BESIDE, architecture, coloured, weights  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow

COUNT, LATENT, SEED = 80, 16, 7
# The command takes means of features and sums of kernels in float32, ours in float64.
ROUNDING = {"rel": 1e-4}


class Levels(nn.Module):
    """A generator's images as torch-fidelity wants them, uint8."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, noise: Tensor) -> Tensor:
        return ((self.generator(noise) + 1) * 127.5).round().to(torch.uint8)


class FirstBlock(nn.Module):
    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.extractor(((images + 1) * 127.5).round().to(torch.uint8))
        return features


def made_generator() -> nn.Module:
    torch.manual_seed(1)
    generator = create_model("tf_dcgan_generator", channels=3, width=8, latent_dim=LATENT)
    for parameter in generator.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.25)  # samples of many colours
    return generator.eval()


def command(model: Path, reals: Path, file: Path) -> dict[str, float]:
    """What `fidelity` prints."""
    program = Path(stub_torchvision.__file__)
    beside = [str(BESIDE.parent)] if BESIDE.is_dir() else []
    path = os.pathsep.join([*beside, os.environ.get("PYTHONPATH", "")])
    arguments = [
        "--input1", model, "--input1-model-z-type", "normal", "--input1-model-z-size", LATENT,
        "--input1-model-num-classes", 0, "--input1-model-num-samples", COUNT, "--input2", reals,
        "--fid", "--kid", "--kid-subsets", 2, "--kid-subset-size", COUNT, "--rng-seed", SEED,
        "--feature-extractor", "inception-v3-compat", "--feature-extractor-weights-path", file,
        "--feature-layer-fid", "64", "--feature-layer-kid", "64", "--cpu", "--json", "--silent",
        "--no-cache", "--save-cpu-ram", "--batch-size", 64,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, program, "torch_fidelity.fidelity", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def test_the_command_gives_our_fid_and_kid(architecture, weights, tmp_path):  # noqa: F811
    generator, reals = made_generator(), coloured(COUNT, seed=3)
    model = export(Levels(generator), (torch.randn(2, LATENT),), tmp_path / "generator.onnx")
    (tmp_path / "reals").mkdir()
    for i, image in enumerate(reals):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "reals" / f"{i:03}.png")
    theirs = command(model, tmp_path / "reals", weights)

    # The noise that the command draws, by its own definition.
    noise = torch.from_numpy(np.random.RandomState(SEED).randn(COUNT, LATENT)).float()
    with torch.no_grad():
        levels = Levels(generator)(noise)
    kind = architecture.FeatureExtractorInceptionV3
    extractor = kind("first block", ["64"], feature_extractor_weights_path=str(weights))
    network = FeatureNetwork("first block", FirstBlock(extractor), 3, 0, classes=False)
    options = Options(kid_subsets=2, kid_subset_size=COUNT)
    ours = evaluate(
        [levels.float() / 127.5 - 1], ImageDataset(reals), network, ("fid", "kid"), options
    )
    values = {score.metric: score.value for score in ours}
    assert values["fid"] == pytest.approx(theirs["frechet_inception_distance"], **ROUNDING)
    assert values["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], **ROUNDING)
    assert values["fid"] > 0.01
