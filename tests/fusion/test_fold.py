"""fold and export: the inference model gives the images of the trained one, also elsewhere."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx
from safetensors import safe_open
from tolerance import assert_as_exact
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import fastgan
import fastgan.nn as fnn
from fastgan.cli import main
from fastgan.fusion import export
from fastgan.fusion.folding import fold_norms
from fastgan.models import create_model


def trained(model: nn.Module) -> nn.Module:
    """The model with weights and statistics that are no accident of initialisation."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    for m in model.modules():
        if isinstance(m, _BatchNorm) and m.running_mean is not None:
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, _BatchNorm) for m in model.modules())


FOLDED = {
    "conv": ([nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Tanh()], (4, 5, 5)),
    "transposed": (
        [nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), nn.BatchNorm2d(6, affine=False)],
        (4, 3, 3),
    ),
    "one dimension": ([nn.ConvTranspose1d(3, 2, 4), nn.BatchNorm1d(2), nn.ReLU()], (3, 5)),
    "linear": ([nn.Linear(3, 5), nn.BatchNorm1d(5, eps=0.1), nn.LeakyReLU(0.2)], (3,)),
    "weight norm": (
        [nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)],
        (3, 5, 5),
    ),
    "BatchNormAct2d": ([nn.Conv2d(3, 4, 3), fnn.BatchNormAct2d(4, activation="tanh")], (3, 5, 5)),
    "ConvNormAct2d": ([fnn.ConvNormAct2d(3, 4, 3), fnn.ConvNormAct2d(4, 2, 1)], (3, 5, 5)),
    "FusedSequential": (
        [fnn.FusedSequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Sigmoid())],
        (1, 3, 3, 3),
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_norms_fold_into_the_layers_before_them(name: str):
    layers, shape = FOLDED[name]
    model = trained(nn.Sequential(*layers)).double()
    x = torch.randn(3, *shape, dtype=torch.float64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(x)
    for folded in (fastgan.fold(model), fold_norms(model)):
        assert norms(folded) == 0
        assert not folded.training
        torch.testing.assert_close(folded(x), expected)
        assert not folded(x).requires_grad
    assert not any(type(m).__module__.startswith("fastgan") for m in folded.modules())
    torch.testing.assert_close(model.state_dict(), before)
    torch.testing.assert_close(model(x), expected)


KEPT = {
    "act before norm": [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)],
    "instance norm": [nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)],
    "no statistics": [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
    "other norms of fastgan": [
        nn.Conv2d(3, 4, 3), fnn.BiasAct(4, activation="sigmoid"), fnn.InstanceNormAct2d(4),
        fnn.BatchNormAct2d(4, order="act_norm"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_folded_stays(name: str):
    model = trained(nn.Sequential(*KEPT[name])).double()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    folded = fastgan.fold(model)
    torch.testing.assert_close(folded(x), model(x))
    assert sum("Norm" in type(m).__name__ for m in folded.modules()) >= 1


class Twice(nn.Module):
    """A pair that must stay a pair: the convolution's output is used elsewhere, or it is shared."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + (self.conv(x) * 2 if self.shared else y)


@pytest.mark.parametrize("shared", [True, False])
def test_a_convolution_that_is_used_elsewhere_is_not_folded(shared: bool):
    model = trained(Twice(shared))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fastgan.fold(model)(x), model(x))


@pytest.fixture(scope="module")
def generator() -> nn.Module:
    return trained(create_model("dcgan_generator", latent_dim=8, image_size=16, width=4))


def assert_images(images: Tensor, generator: nn.Module, z: Tensor) -> None:
    """That an exported program's images are the generator's, by the tolerance rule."""
    exact = copy.deepcopy(generator).double()(z.double())
    assert_as_exact("images", images, generator(z), exact)


def test_torch_export_runs_without_fastgan_for_any_batch(generator, tmp_path):
    path = export(generator, (torch.randn(2, 8),), tmp_path / "new" / "g.pt2", "torch-export")
    program = torch.export.load(path)
    assert not any("fastgan" in str(node.target) for node in program.graph.nodes)
    z = torch.randn(5, 8)
    assert_images(program.module()(z), generator, z)


@NEEDS_ONNX
def test_onnx_gives_the_same_images(generator, tmp_path):
    path = export(generator, (torch.randn(2, 8),), tmp_path / "g.onnx")
    assert_onnx(path, generator, torch.randn(5, 8))


def test_what_cannot_be_exported_is_said(generator, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="format: 'tflite' is not one of onnx, torch-export"):
        export(generator, (torch.randn(2, 8),), tmp_path / "g", "tflite")
    with pytest.raises(ValueError, match="a batch of at least 2"):
        export(generator, (torch.randn(1, 8),), tmp_path / "g", "torch-export")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastgan\[onnx\]'"):
        export(generator, (torch.randn(2, 8),), tmp_path / "g.onnx")


def test_export_on_the_command_line(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--steps=2", "--batch-size=4", "--limit=16", "--sample-count=4", "--device=cpu"]
    assert main(["train", "digits", "--out", "run", *short]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--format", "safetensors", "--weights", "raw"]) == 0
    assert capsys.readouterr().out.strip() == "generator.safetensors"
    with safe_open(tmp_path / "generator.safetensors", "pt") as file:
        spec = json.loads(file.metadata()["generator"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    loaded = create_model(spec["name"], **spec["arguments"])
    loaded.load_state_dict(tensors)
    assert main(["export", "run", "--format", "torch-export", "-o", "g.pt2"]) == 0
    assert (
        torch.export.load(tmp_path / "g.pt2").module()(torch.randn(3, loaded.latent_dim)).ndim == 4
    )
    assert main(["export", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
