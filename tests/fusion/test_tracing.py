"""Forwards that torch.fx cannot trace, and those whose trace would not tell the whole truth."""

from __future__ import annotations

import copy

import pytest
import torch
from originals import image, sequential
from torch import Tensor, nn

import fastgan

pytestmark = pytest.mark.usefixtures("form")


class Untraceable(nn.Module):
    """A forward that asks for values, around a part that can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = sequential()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


class Switching(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.inner(x)
        return y + x.mean()


class Storing(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.inner(x)
        return self.last


class Making(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.ones(1)


class Asking(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if isinstance(x, Tensor) else x


class Gathering(Untraceable):
    def forward(self, *parts: Tensor) -> Tensor:
        return self.inner(torch.cat(parts))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Untraceable, "cannot be traced"),
        (Switching, "switches gradients"),
        (Storing, "stores last on the module"),
        (Making, "computes with tensors that do not come from its input"),
        (Asking, "asks for the type of a value"),
        (Gathering, "takes *parts"),
    ],
)
def test_what_cannot_be_traced_is_left_and_its_parts_are_fused(kind: type, reason: str):
    original = kind()
    before = dict(vars(original))
    fused = fastgan.fuse(copy.deepcopy(original))
    ((name, why),) = fused.fusion_report.untraced
    assert name == ""
    assert reason in why
    assert reason in str(fused.fusion_report)
    assert set(vars(fused)) - set(before) == {"fusion_report"}
    assert fused.fusion_report.fused == 3
    x = image()
    torch.testing.assert_close(fused(x), original(x))
    fused.eval(), original.eval()
    torch.testing.assert_close(fused(x), original(x))


def test_scripted_modules_are_left():
    inner = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    model = nn.Sequential(inner, nn.Conv2d(4, 4, 3), nn.ReLU())
    expected = model(x := image())
    fastgan.fuse(model)
    assert model.fusion_report.fused == 1
    assert ("0", "is a torch.jit.script module") in model.fusion_report.untraced
    torch.testing.assert_close(model(x), expected)
