"""Values of fused blocks that later layers change in place: what the original runs, fused runs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgan
from fastgan.fusion.plan import plan_of

FORMS = ["recompute", "fused"]
pytestmark = pytest.mark.usefixtures("form")
in_each_form = pytest.mark.parametrize("form", FORMS, indirect=True)


def conv(dims: int = 2) -> nn.Module:
    return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](4, 4, 3, padding=1)


def norm(dims: int = 2) -> nn.Module:
    return {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](4)


LAYERS = {
    "conv-leaky": lambda: [conv(), nn.LeakyReLU(0.2)],
    "conv-relu": lambda: [conv(), nn.ReLU()],
    "conv-norm-leaky": lambda: [conv(), norm(), nn.LeakyReLU(0.2)],
    "norm-leaky-conv": lambda: [norm(), nn.LeakyReLU(0.2), conv()],
    "norm-leaky-conv 1d": lambda: [norm(1), nn.LeakyReLU(0.2), conv(1)],
    "norm-leaky-conv 3d": lambda: [norm(3), nn.LeakyReLU(0.2), conv(3)],
    "conv-norm-relu-conv 1d": lambda: [conv(1), norm(1), nn.ReLU(), conv(1)],
    "instance norm": lambda: [conv(), nn.InstanceNorm2d(4), nn.LeakyReLU(0.1), conv()],
    "relu-norm": lambda: [nn.ReLU(), norm()],
    "tanh-norm-conv": lambda: [nn.Tanh(), norm(), conv()],
    "leaky-norm": lambda: [nn.LeakyReLU(0.2), norm()],
    "relu-conv": lambda: [nn.ReLU(), conv()],
}


class Writing(nn.Module):
    def __init__(self, layers: list[nn.Module], way: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        y = self.layers(x.view_as(x))
        way = self.way
        if way == "view":
            y.view_as(y).add_(1)
        elif way == "channel":
            y[:, 0].mul_(2)
        elif way == "corner":
            y.narrow(-1, 0, 1).zero_()
        elif way == "transposed":
            t = y.transpose(1, 2)
            t *= 2
        elif way == "detached":
            y.detach().clamp_(max=0.5)
        elif way == "data":
            y.data.neg_()
        elif way == "channel of data":
            y.data[:, 1].neg_()
        elif way == "data kept":
            data = y.data
            data *= -1
        elif way == "data less":
            y.data -= 0.3
        elif way == "data set":
            y.data = -y.data
        elif way == "transposed whole":
            t = y.mT
            t -= 0.3
        elif way == "list":
            torch._foreach_neg_([y.detach()])
        elif way == "by place":
            F.hardtanh(y.detach(), -0.1, 0.1, True)
        elif way == "whole":
            y += 1
        elif way == "relu":
            y = F.relu(y, inplace=True)
        elif way == "input":
            x.mul_(2)
        elif way == "data of the input":
            x.data.neg_()
        elif way == "view of the input":
            x[:, 1].zero_()
        elif way == "other":
            z = y * 2
            z += y
            y = z
        return y * 1


class Untraced(Writing):
    """Its layers are fused by themselves: what becomes of their output is not seen."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() < torch.inf else -x)


def outcome(model: nn.Module, x: Tensor) -> list[Tensor] | str:
    x = x.clone().requires_grad_()
    try:
        y = model(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]
    except RuntimeError as error:
        return str(error)


WAYS = ["view", "channel", "corner", "transposed", "detached", "whole", "relu", "input"]
WAYS += ["view of the input", "other", "data", "channel of data", "data kept"]
WAYS += ["transposed whole", "list", "by place"]


# Each way of each layers, the forms in turn: each form meets each way, and each layers.
@pytest.mark.parametrize(
    ("form", "way", "name"),
    [
        (FORMS[(i + j) % 2], way, name)
        for i, way in enumerate(WAYS)
        for j, name in enumerate(LAYERS)
    ],
    indirect=["form"],
)
def test_what_the_original_runs_runs(name: str, way: str):
    compare(Writing, name, way)


@in_each_form
@pytest.mark.parametrize("way", ["whole", "data less", "input", "data of the input"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_part_runs_what_the_original_runs(name: str, way: str):
    compare(Untraced, name, way)


def compare(kind: type[Writing], name: str, way: str) -> None:
    layers = LAYERS[name]()
    dims = int(name[-2]) if name.endswith("d") else 2
    original = kind(layers, way).double()
    x = torch.randn(2, 4, *(6,) * dims, dtype=torch.float64)
    found = outcome(fastgan.fuse(copy.deepcopy(original), prefer="memory"), x)
    expected = outcome(copy.deepcopy(original), x)
    if isinstance(expected, str):
        return
    with torch.autograd.graph.saved_tensors_hooks(Tensor.clone, lambda t: t):
        right = outcome(original, x)
    # Otherwise `data` was changed that the original's layers keep: its own gradients are wrong.
    if all(map(torch.equal, expected, right)):
        assert isinstance(found, list), found
        torch.testing.assert_close(found, expected)


@in_each_form
@pytest.mark.parametrize("way", ["data less", "data set"])
def test_what_sets_attributes_of_values_is_not_traced(way: str):
    original = Writing([conv(), nn.LeakyReLU(0.2)], way).double()
    fused = fastgan.fuse(copy.deepcopy(original))
    ((_, reason),) = fused.fusion_report.untraced
    assert "sets data of a value" in reason
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(fused(x), original(x))


@in_each_form
def test_only_what_is_written_to_is_left():
    """And the report says by what; of the parts within, too, whose own graphs do not show it."""
    model = Writing([conv(), nn.LeakyReLU(0.2), conv(), nn.LeakyReLU(0.2)], "channel")
    report = fastgan.fuse(model).fusion_report
    assert [block.reason for block in report.blocks] == ["", "mul_ changes its output in place"]
    parts = dict(plan_of(model.layers).graphs[True].named_children())
    assert [name for name, _ in parts.pop("_chain_0").leaves] == [
        "layers.0",
        "layers.1",
        "layers.2",
    ]
    assert [type(part) for part in parts.values()] == [nn.LeakyReLU]
    untouched = Writing([conv(), nn.LeakyReLU(0.2)], "other")
    assert fastgan.fuse(untouched).fusion_report.fused == 1
