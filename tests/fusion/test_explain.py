"""explain, tune and the tables that choose a form."""

from __future__ import annotations

import copy
import json
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dcgan64
import pytest
import torch
from torch import Tensor, nn

import fastgan
from bench.harness.memory import saved_sizes
from fastgan.cli import main
from fastgan.fusion import explained, tune
from fastgan.models import create_model
from fastgan.nn import FusedSequential
from fastgan.ops import convolution_form
from fastgan.ops.conv import tuning
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.timing import Times
from fastgan.ops.core import dispatch, processor

LAYER = (64, 128, 16, 16), (256, 128, 4, 4), Geometry((2, 2), (1, 1), (0, 0), False)


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's table, in a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning._devices.cache_clear()
    yield tmp_path / "fastgan" / "tuning.json"
    tuning._devices.cache_clear()


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Of the distinct storages kept for backward, parameters and a few statistics aside."""
    sizes = saved_sizes(lambda: model(x), model.parameters())
    return sum(size for size in sizes if size > 300)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_explained_sizes_are_those_measured(network: str) -> None:
    x = torch.randn(16, 8, 1, 1) if network == "generator" else torch.randn(4, 3, 64, 64)
    model = getattr(dcgan64, network)(2).to(memory_format=torch.channels_last)
    fused = FusedSequential(OrderedDict(model.named_children()))
    x = x.to(memory_format=torch.channels_last)
    rows = explained(fused, x)
    assert sum(r.saved_fused for r in rows) == saved_bytes(fused, x)
    fast = fastgan.fuse(copy.deepcopy(model))
    assert sum(r.saved_fused for r in explained(fast, x)) == saved_bytes(fast, x)
    assert sum(r.saved_eager for r in rows) == saved_bytes(model, x)
    convolutions = [m for m in model if hasattr(m, "kernel_size")]
    assert sum(r.operations > 0 for r in rows) == len(convolutions)
    of_second = rows[1]
    if network == "discriminator":  # 2 to 4 channels, 16x16 positions, 4x4 taps, 4 images
        assert of_second.operations == 2 * 4 * 16 * 16 * 4 * 2 * 16
        assert of_second.name == "2"
        assert of_second.traffic == 4 * (4 * 2 * 32 * 32 + 4 * 2 * 16 + 4 * 4 * 16 * 16)


def test_explain_prints_what_ran(native: None, capsys: pytest.CaptureFixture[str]) -> None:
    model = create_model("dcgan_discriminator", image_size=16, width=4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rows = fastgan.explain(model, torch.randn(4, 3, 16, 16))
    out = capsys.readouterr().out
    assert "saved" in out
    assert max(map(len, out.splitlines())) <= 100
    assert repr(rows) == "<3 rows>"
    assert [r.form for r in rows] == ["recompute", "recompute", "recompute"]
    assert rows[1].name == "blocks.1.conv"
    assert rows[2].name == "blocks.1.norm, output"
    torch.testing.assert_close(model.state_dict(), before)
    with convolution_form("fused"):
        rows = explained(model, torch.randn(4, 3, 16, 16))
    assert {(r.form, r.why) for r in rows} == {("fused", "asked for")}


def test_explain_names_the_kernels_of_each_convolution(
    native: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "fast_in", lambda dtype: False)
    model = create_model("dcgan_discriminator", image_size=32, width=64)
    model.to(memory_format=torch.channels_last)
    x = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    rows = explained(model, x)
    assert [str(r.kernels) for r in rows] == [
        "small-channel direct",
        "Winograd F(2x2, 2x2)",
        "Winograd F(2x2, 2x2)",
        "im2col + GEMM",
    ]
    with convolution_form("fused"):  # by the reference, on a CPU
        assert {str(r.kernels) for r in explained(model, x)} == {"oneDNN"}
    fastgan.explain(model, x)
    assert "Winograd" in capsys.readouterr().out


def test_explain_says_why_not(native: None) -> None:
    layers = [nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)]
    rows = explained(FusedSequential(*layers), torch.randn(4, 4, 8, 8))
    assert [(r.form, r.why) for r in rows] == [
        ("as it is", "groups or dilation is not 1"),
        ("norm_act", "no convolution follows"),
        ("as it is", "not a convolution"),
    ]
    with pytest.raises(ValueError, match="no block to fuse in Linear"):
        fastgan.explain(nn.Linear(2, 2), torch.ones(1, 2))


def test_a_plain_model_is_explained_as_it_would_be_fused(native: None) -> None:
    layers = [nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, dilation=2), nn.ReLU()]
    model = nn.Sequential(*layers)
    rows = explained(model, torch.randn(2, 3, 16, 16))
    assert [(r.name, r.form, r.why) for r in rows] == [
        ("0, 1", "unfused", "the library's convolution is as fast by itself"),
        ("2, 3", "as it is", "groups or dilation is not 1"),
    ]
    assert rows[0].output == (2, 4, 7, 7)
    assert str(rows[0].kernels) in ("ATen", "oneDNN")
    assert rows[1].kernels is None
    assert "forward" not in vars(model)
    fused = explained(fastgan.fuse(model), torch.randn(2, 3, 16, 16))
    assert fused == rows
    with convolution_form("recompute"):
        assert explained(model, torch.randn(2, 3, 16, 16))[0].form == "recompute"


def test_explain_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "digits", "--batch-size", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.count(" on 2×") == 2
    assert main(["explain", "--batch-size", "1"]) == 2
    assert "batch_size must be at least 2, got 1" in capsys.readouterr().err


def times(**forms: float) -> dict[str, Times]:
    return {form: Times(mean + 1, mean - 1) for form, mean in forms.items()}


def choice() -> tuple[str, str]:
    return tuning.explained(torch.device("cuda"), torch.bfloat16, *LAYER)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device by name that runs both forms, as the tables see it."""
    monkeypatch.setattr(tuning, "device_name", lambda device: "some GPU")
    monkeypatch.setattr(dispatch, "why_not", lambda *_: None)
    return "some GPU"


def test_the_default_is_recompute(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(tuning.SHIPPED.read_text())["devices"] == {}
    assert choice() == ("recompute", "not measured on this device; fastgan tune measures")
    with convolution_form("fused"):
        assert choice() == ("fused", "asked for")
    cpu = tuning.explained(torch.device("cpu"), torch.float32, *LAYER)
    assert cpu == ("recompute", "the only form for cpu that saves memory")
    monkeypatch.setattr(dispatch, "why_not", lambda *_: "triton is not installed")
    assert choice() == ("recompute", "triton is not installed")


def test_measured_choices_are_kept(gpu: str, table: Path) -> None:
    key = tuning.layer_key(*LAYER)
    assert key == "conv 64x128x16x16 to 256, kernel 4x4, stride 2x2, padding 1x1"
    assert tuning.store(gpu, torch.bfloat16, {key: times(recompute=9.0, fused=7.0)}) == table
    assert choice() == ("fused", "measured")
    tuning.store(gpu, torch.bfloat16, {key: times(recompute=5.0, fused=7.0)})
    tuning.store(gpu, torch.float32, {key: times(fused=7.0)})
    assert choice() == ("recompute", "measured")
    assert [p.name for p in table.parent.iterdir()] == ["tuning.json"]
    assert tuning.explained(torch.device("cuda"), torch.float32, *LAYER)[0] == "fused"


def test_a_choice_is_for_a_class_of_batches(gpu: str, table: Path) -> None:
    _, *rest = LAYER
    measured = {128: times(recompute=9.0, fused=7.0), 1024: times(recompute=5.0, fused=7.0)}
    keys = {n: tuning.layer_key((n, 128, 16, 16), *rest) for n in measured}
    tuning.store(gpu, torch.bfloat16, {keys[n]: found for n, found in measured.items()})
    for n, form in ((2, "fused"), (362, "fused"), (363, "recompute"), (4096, "recompute")):
        shape = (n, 128, 16, 16)
        found = tuning.explained(torch.device("cuda"), torch.bfloat16, shape, *rest)
        assert found == (form, "measured")
    other = tuning.explained(torch.device("cuda"), torch.bfloat16, (128, 128, 8, 8), *rest)
    assert other == ("recompute", "not measured on this device; fastgan tune measures")


@pytest.mark.parametrize("text", ["{", '{"format": 0, "devices": {}}', "[]"])
def test_a_broken_table_is_ignored_with_a_warning(gpu: str, table: Path, text: str) -> None:
    table.parent.mkdir()
    table.write_text(text)
    with pytest.warns(UserWarning, match="is no tuning table, and ignored"):
        assert choice()[0] == "recompute"


def test_a_table_is_written_whole_or_not_at_all(
    gpu: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tuning.layer_key(*LAYER)
    tuning.store(gpu, torch.bfloat16, {key: times(fused=7.0)})

    def torn(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", torn)
    with pytest.raises(OSError, match="full"):
        tuning.store(gpu, torch.bfloat16, {key: times(recompute=7.0)})
    assert choice() == ("fused", "measured")
    assert [p.name for p in table.parent.iterdir()] == ["tuning.json"]


def test_old_names_of_forms(native: None, table: Path) -> None:
    key = tuning.layer_key((2, 3, 16, 16), (8, 3, 4, 4), Geometry((2, 2), (1, 1), (0, 0), False))
    tuning.store("cpu", torch.float32, {key: times(composed=1.0, apart=2.0)})
    model = FusedSequential(nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), keep_activations=True)
    assert explained(model, torch.randn(2, 3, 16, 16))[0].form == "recompute"
    for old, new in (("composed", "recompute"), ("apart", "norm_fused")):
        with pytest.warns(DeprecationWarning, match=f"'{old}' is now '{new}'"):
            setting = convolution_form(old)
        with setting:
            assert convolution_form.value == new
    with warnings.catch_warnings(), convolution_form("recompute"):
        warnings.simplefilter("error")
        assert convolution_form.value == "recompute"


def test_tune_measures_every_form(table: Path) -> None:
    model = create_model("dcgan_generator", image_size=16, width=4, latent_dim=4)
    measured = tune(model, torch.randn(4, 4), rounds=1, forms=("recompute", "fused"))
    assert len(measured) == 2
    for layer, times in measured.items():
        assert layer.startswith("conv_transpose 4x")
        assert times.keys() == {"recompute", "fused"}
        assert min(min(t) for t in times.values()) > 0
    kept = json.loads(table.read_text())["devices"]["cpu"]["float32"]
    assert kept.keys() == measured.keys()
    for layer, times in measured.items():
        assert kept[layer]["microseconds"] == {form: t.mean for form, t in times.items()}
        assert kept[layer]["cold"] == {form: t.cold for form, t in times.items()}


def test_the_command(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", "dcgan-28", "--batch-size=2", "--rounds=1", "--device=cpu"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("conv")]) == 5
    assert all("recompute" in line and "norm_fused" in line for line in lines[-6:-1])
    assert lines[-1] == f"kept in {table}"
    for arguments, message in (
        (["tune", "mlp-gan"], "there is no block to fuse in MLPGenerator"),
        (["tune", "dcgan-28", "--batch-size=1"], "batch_size must be at least 2"),
        (["tune", "dcgan-28", "--rounds=0"], "rounds must be at least 1"),
        (["tune", "dcgam"], "unknown recipe"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_setting_errors() -> None:
    with pytest.raises(ValueError, match="convolution_form: 'triton' is not one of"):
        convolution_form("triton")


def test_explain_checks_what_it_is_given() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.ones(1, 3, 8, 8)
    for arguments, message in (
        (("dcgan-64",), "module: expected an nn.Module, got str"),
        ((x, model), "module: expected an nn.Module, got Tensor"),
        ((model,), "inputs: expected the tensors that module is called with, got nothing"),
        ((model, (x,)), "inputs: expected the tensors .* got tuple"),
    ):
        with pytest.raises(TypeError, match=message):
            fastgan.explain(*arguments)


def test_no_name_is_broken_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    inner = nn.Sequential(
        OrderedDict(
            transposed_convolution_of_many_features=nn.ConvTranspose2d(3, 4, 4, 2, 1),
            normalisation_over_the_whole_batch=nn.BatchNorm2d(4),
            activation_that_follows_the_two=nn.LeakyReLU(0.2),
        )
    )
    rows = fastgan.explain(
        nn.Sequential(OrderedDict(upsampling_part=inner)), torch.ones(8, 3, 4, 4)
    )
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    words = out.replace(",", " ").replace(":", " ").split()
    for row in rows:
        assert {*row.name.split(", "), *row.kind.split(" → ")} <= set(words)
