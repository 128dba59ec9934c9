"""Both ONNX exporters take a fused model and the layers of fastgan.nn: they see torch's own ops."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx
from torch import Tensor, nn

import fastgan
import fastgan.nn as fnn
from fastgan.ops.conv import tuning

onnx = pytest.importorskip("onnx")
pytestmark = [
    NEEDS_ONNX,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def layers() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.InstanceNorm2d(4, affine=True), nn.ReLU(),
        nn.Conv2d(4, 3, 3), nn.Tanh(),
    ]  # fmt: skip


def ours() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 8, 3), fnn.BatchNormAct2d(8, activation="leaky_relu", negative_slope=0.2),
        fnn.ConvNormAct2d(8, 4, 3), nn.Conv2d(4, 4, 1, bias=False), fnn.BiasAct(4),
        nn.Conv2d(4, 4, 1), fnn.InstanceNormAct2d(4), fnn.BatchNormAct2d(4, order="act_norm"),
    ]  # fmt: skip


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.first(x))) + x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: fastgan.fuse(nn.Sequential(*layers()), prefer="memory"),
    "fused with a skip": lambda: fastgan.fuse(nn.Sequential(Skip(), Skip()), prefer="memory"),
    "FusedSequential": lambda: fnn.FusedSequential(*layers()),
    "fastgan.nn": lambda: nn.Sequential(*ours()),
}


def trained(model: nn.Module) -> nn.Module:
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return model.eval()


def by_dynamo(model: nn.Module, x: Tensor) -> bytes:
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: batch},)
    )
    return program.model_proto.SerializeToString()


def by_torchscript(model: nn.Module, x: Tensor) -> bytes:
    file = io.BytesIO()
    axes = {"x": {0: "batch"}}
    torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return file.getvalue()


@pytest.mark.parametrize("exporter", [by_dynamo, by_torchscript])
@pytest.mark.parametrize("name", MODELS)
def test_the_file_gives_the_models_images(name: str, exporter):
    model = trained(MODELS[name]())
    x = torch.randn(2, 3, 10, 10)
    with tuning.convolution_form("recompute"), torch.no_grad():
        before = model(x)
        file = exporter(model, x)
        assert {node.domain for node in onnx.load_from_string(file).graph.node} == {""}
        assert_onnx(file, model, torch.randn(5, 3, 10, 10))
        # What was fused stays fused.
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("name", MODELS)
def test_a_trace_and_an_exported_program_run(name: str):
    model = trained(MODELS[name]())
    x = torch.randn(2, 3, 10, 10)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(model, (x,))(x), model(x))
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x))
