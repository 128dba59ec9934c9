"""fuse: what it finds, what it leaves and why, and that results stay the original's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from originals import Skipping, as_chosen, assert_equal, image, reasons, sequential
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastgan
from fastgan.fusion.plan import plan_of
from fastgan.nn import BatchNormAct2d, steps

pytestmark = pytest.mark.usefixtures("form")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("build", [sequential, Skipping])
def test_results_and_keys_are_the_originals(build: Callable[[], nn.Module], training: bool):
    original = build().train(training)
    fused = copy.deepcopy(original)
    parameters = list(fused.parameters())
    assert fastgan.fuse(fused) is fused
    assert fused.fusion_report.fused == len(fused.fusion_report) > 1
    assert list(fused.state_dict()) == list(original.state_dict())
    assert all(a is b for a, b in zip(fused.parameters(), parameters, strict=True))
    assert type(fused) is type(original)
    assert_equal(fused, original, image())


def test_blocks_of_a_hand_written_forward_are_named():
    report = fastgan.fuse(Skipping()).fusion_report
    assert [block.layers for block in report.blocks] == [
        ("conv1", "norm1", "leaky_relu()"),
        ("conv2", "norm2", "relu_()"),
    ]
    first, *rest = str(report).splitlines()
    assert first == "2 of 2 blocks recognised; the first call shows which run fused"
    assert "  conv1, norm1, leaky_relu(): Conv2d → BatchNorm2d → LeakyReLU: recognised" in rest


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_the_report_names_the_form_of_each_block_and_why(monkeypatch):
    monkeypatch.setattr(steps, "serve", lambda x: False)
    model = fastgan.fuse(nn.Sequential(*sequential(), nn.Conv2d(2, 3, 1), nn.InstanceNorm2d(3)))
    assert model.fusion_report.runs == []
    model(image(128, 3, 64, 64))
    runs = model.fusion_report.runs
    layers = [("0", "1"), ("2",), ("3", "4", "5", "6"), ("7",), ("8",)]
    assert [run.layers for run in runs] == layers
    assert [run.form for run in runs] == ["unfused", "unfused", "norm_fused", "unfused", "norm_act"]
    assert "the library's convolution is as fast" in runs[2].why
    assert f"3, 4, 5, 6: norm_fused: {runs[2].why}" in str(model.fusion_report)
    known = f"{model.fusion_report.fused} of {len(model.fusion_report)} blocks recognised"
    opening = f"2 of 5 parts run fused on the last kind of input; {known}"
    assert str(model.fusion_report).splitlines()[0] == opening
    model(image(2, 3, 8, 8))  # the kind that came last
    assert [run.form for run in model.fusion_report.runs] == ["unfused"] * 5
    copied = copy.deepcopy(model)
    copied.eval()(image(128, 3, 64, 64))
    assert copied.fusion_report.runs[2].form == "norm_fused"


def test_unfuse_gives_the_original_back():
    model = nn.ModuleDict({"a": Skipping(), "b": sequential()})
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    fastgan.fuse(model)
    assert plan_of(model["a"]) is not None
    assert inspect.ismethod(model["a"].forward)
    assert inspect.signature(model["a"].forward) == inspect.signature(Skipping().forward)
    assert fastgan.unfuse(model) is model
    for name, m in model.named_modules():
        assert vars(m) == before[name]


def test_a_copy_shares_parameters_and_buffers():
    model = sequential()
    fused = fastgan.fuse(model, inplace=False)
    assert "forward" not in vars(model)
    assert fused is not model
    own, theirs = ([*m.parameters(), *m.buffers()] for m in (fused, model))
    assert all(a is b for a, b in zip(own, theirs, strict=True))
    fused(image())
    assert model[3].num_batches_tracked == 1


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return F.relu(self.norm(self.conv(x)))


def test_a_norm_that_is_used_twice_is_left():
    original = Shared()
    fused = fastgan.fuse(copy.deepcopy(original))
    assert fused.fusion_report.fused == 0
    assert set(reasons(fused)) == {"Conv2d is used 2 times", "BatchNorm2d is used 2 times"}
    assert_equal(fused, original, image())


class Branching(nn.Module):
    """What must not be swallowed, or moved past a change in place."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "kept":  # the value before the norm is used elsewhere
            return F.relu(self.norm(y)) + y
        if self.kind == "aliased":  # two names for one tensor that then changes
            z = y
            y += 1.0
            return F.relu(self.norm(y)) + z
        if self.kind == "written to":  # after a fused activation, which would keep its output
            z = F.leaky_relu(y, 0.2)
            z += x
            return z
        if self.kind == "activated input":  # the caller's own tensor changes
            return self.norm(self.conv(F.relu_(y.view_as(y)))) + y
        view = y.view(-1)
        return self.norm(F.relu_(y)) + view.view_as(y)  # a view made before sees the change


@pytest.mark.parametrize("kind", ["kept", "aliased", "written to", "activated input", "viewed"])
def test_values_used_elsewhere_are_not_swallowed(kind: str):
    original = Branching(kind)
    fused = fastgan.fuse(copy.deepcopy(original))
    assert_equal(fused, original, image())


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm"])
def test_parametrised_convolutions_stay_so(wrap: str):
    def build() -> nn.Sequential:
        model = sequential()
        getattr(parametrizations, wrap)(model[2])
        return model

    original = build()
    fused = fastgan.fuse(build())
    fused.load_state_dict(original.state_dict())
    assert fused.fusion_report.fused == 3
    assert "parametrizations" in dict(fused[2].named_children())
    assert_equal(fused, original, image())  # spectral norm takes one step a call, as unfused


@pytest.mark.parametrize(
    ("layers", "fused"),
    [
        ([nn.Linear(3, 5), nn.BatchNorm1d(5), nn.LeakyReLU(0.1)], 1),
        ([nn.Conv2d(3, 4, 3, groups=1, dilation=2), nn.BatchNorm2d(4), nn.ReLU()], 1),
        ([nn.Conv2d(3, 4, 3, dilation=2), nn.ReLU()], 0),
        ([nn.LeakyReLU(0.2), nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Sigmoid()], 1),
        ([nn.ReLU(), nn.BatchNorm2d(3)], 1),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False)], 1),
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Identity(), nn.Tanh()], 1),
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ELU()], 0),
        ([nn.Conv2d(3, 4, 3), nn.LeakyReLU(-0.1)], 0),
        ([nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 2, 1)], 1),
        ([nn.Conv2d(3, 4, 3), nn.Dropout(0.0), nn.ReLU()], 0),
        ([nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU()], 1),
        ([nn.ConvTranspose1d(3, 4, 4, 2, 1), nn.InstanceNorm1d(4), nn.Tanh()], 1),
        ([nn.Conv3d(3, 4, 3), nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(0.2)], 1),
        ([nn.ConvTranspose3d(3, 4, 4, 2, 1), nn.BatchNorm3d(4), nn.Tanh()], 1),
    ],
    ids=str,
)
def test_layers(layers: list[nn.Module], fused: int):
    dims = {nn.Linear: 0, nn.Conv1d: 1, nn.ConvTranspose1d: 1, nn.Conv3d: 3, nn.ConvTranspose3d: 3}
    x = torch.randn(4, 3, *[6] * dims.get(type(layers[0]), 2))
    original = nn.Sequential(*copy.deepcopy(layers))
    model = fastgan.fuse(copy.deepcopy(original))
    assert model.fusion_report.fused == fused, str(model.fusion_report)
    if any(p.requires_grad for p in model.parameters()):
        assert_equal(model, original, x)
    model.eval(), original.eval()
    torch.testing.assert_close(model(x), original(x))


def test_memory_layout_is_the_originals():
    """A tensor of one channel is contiguous and channels-last at once; a `view` tells."""
    for channels, size in ((1, 8), (5, 1)):
        layers = [nn.ConvTranspose2d(channels, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU()]
        fused = fastgan.fuse(nn.Sequential(*layers, nn.Conv2d(4, 3, 1), nn.Tanh()))
        assert fused(torch.randn(2, channels, size, size)).is_contiguous()
        fused.to(memory_format=torch.channels_last)
        assert fused(torch.randn(2, channels, 3, 3)).is_contiguous(
            memory_format=torch.channels_last
        )


def test_tensors_that_the_ops_do_not_take_run_unfused():
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(1, 1, 2), nn.Tanh())).to(torch.complex64)
    assert model(torch.randn(1, 1, 3, 3, dtype=torch.complex64)).dtype is torch.complex64
    single = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()))
    assert single(torch.randn(3, 5, 5)).shape == (2, 3, 3)


@as_chosen
def test_integers_are_an_error_as_before():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    for model in (nn.Sequential(*layers), fastgan.fuse(nn.Sequential(*layers))):
        with pytest.raises(RuntimeError, match=r"[Ii]nput type|same dtype|expected scalar"):
            model(torch.ones(2, 3, 5, 5, dtype=torch.int64))


@as_chosen
def test_channels_that_do_not_match_are_an_error_as_before():
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5), nn.ReLU()))
    with pytest.raises((ValueError, RuntimeError)):
        model(image())


def test_bad_models_are_refused():
    for function in (fastgan.fuse, fastgan.fold):
        with pytest.raises(TypeError, match=r"model: expected an nn\.Module, got int"):
            function(3)


def test_example_inputs_are_compared():
    model = sequential()
    assert fastgan.fuse(model, image()).fusion_report.fused == 3
    assert model[3].num_batches_tracked == 0
    model.train()

    class Counting(nn.Module):
        """Its outputs depend on something that no tensor tells."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = sequential()

        def forward(self, x: Tensor) -> Tensor:
            CALLS.append(0)
            return self.layers(x) * len(CALLS)

    CALLS: list[int] = []
    with pytest.raises(RuntimeError, match="does not give the original's outputs"):
        fastgan.fuse(counting := Counting(), image())
    assert "forward" not in vars(counting)


def test_a_report_is_short_at_a_prompt_and_tells_where_there_is_nothing() -> None:
    assert repr(fastgan.fuse(Skipping()).fusion_report) == (
        "<2 of 2 blocks recognised; the first call shows which run fused; print() shows them>"
    )
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.GroupNorm(2, 4)))
    model(torch.ones(2, 3, 8, 8))
    assert str(model.fusion_report).startswith("no block to fuse")


def test_a_fused_model_runs_on_the_meta_device() -> None:
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).to("meta")
    assert model(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 4, 6, 6)
