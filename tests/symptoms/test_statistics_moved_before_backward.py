"""A pass in evaluation, one in training, then backward through the first: the gradient is that of
the statistics of the first. PyTorch's own layer gives that of the statistics that have moved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d, FusedSequential, InstanceNormAct2d
from fastgan.ops import convolution_form, norm_act, norm_act_conv
from fastgan.ops.core import dispatch
from fastgan.ops.norm_act_conv import Norm

C = 4


class Functions(nn.Module):
    """The ops as functions, by statistics of a dtype of their own."""

    def __init__(self, convolves: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, C, 3, 3))
        self.gamma = nn.Parameter(torch.rand(C) + 0.5)
        self.register_buffer("mean", torch.zeros(C, dtype=dtype))
        self.register_buffer("var", torch.ones(C, dtype=dtype))
        self.convolves = convolves

    def forward(self, x: Tensor) -> Tensor:
        if not self.convolves:
            return norm_act(x, self.mean, self.var, self.gamma, None, self.training, 0.7)
        norm = Norm(self.mean, self.var, self.gamma, None, self.training, 0.7)
        return norm_act_conv(x, self.weight, None, norm, pre_activation="tanh", padding=1)


def chain(norm: nn.Module) -> nn.Module:
    return FusedSequential(
        nn.Conv2d(C, C, 3, padding=1), norm, nn.LeakyReLU(0.2), nn.Conv2d(C, 3, 3), nn.Tanh()
    )


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "BatchNormAct": lambda: BatchNormAct2d(C, momentum=0.7),
    "act_norm": lambda: BatchNormAct2d(C, momentum=0.7, order="act_norm"),
    "InstanceNormAct": lambda: InstanceNormAct2d(
        C, momentum=0.7, affine=True, track_running_stats=True
    ),
    "FusedSequential": lambda: chain(nn.BatchNorm2d(C, momentum=0.7)),
    "FusedSequential of BatchNormAct": lambda: chain(BatchNormAct2d(C, momentum=0.7)),
    "norm_act": lambda: Functions(False, torch.float32),
    "norm_act_conv": lambda: Functions(True, torch.float32),
}


def gradients(model: nn.Module, x: Tensor, moved: bool, twice: bool = False) -> list[Tensor]:
    """Through a pass in evaluation; moved: after a pass in training over other values."""
    x = x.clone().requires_grad_()
    z = model.eval()(x)
    if moved:
        model.train()(x.detach() * 2 + 3)
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    dz = torch.linspace(-1, 1, z.numel()).to(z.dtype).reshape(z.shape)
    found = torch.autograd.grad(z, wanted, dz, create_graph=twice, allow_unused=True)
    if twice:
        if moved:
            model.train()(x.detach() - 5)
        assert found[0] is not None
        found = torch.autograd.grad(found[0].square().sum(), wanted, allow_unused=True)
    return [g for g in found if g is not None]


def check(make: Callable[[], nn.Module], x: Tensor, twice: bool = False) -> None:
    model = make()
    expected = gradients(copy.deepcopy(model), x, False, twice)
    for own, exact in zip(gradients(model, x, True, twice), expected, strict=True):
        assert torch.equal(own, exact)


@pytest.mark.parametrize("twice", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("name", MAKERS)
def test_gradient_is_by_the_statistics_of_the_forward(
    name: str, twice: bool, host_backend: str
) -> None:
    check(MAKERS[name], torch.randn(4, C, 6, 5), twice)


@pytest.mark.parametrize("name", ["BatchNormAct", "norm_act", "InstanceNormAct"])
def test_so_it_is_without_the_derivatives_in_cpp(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "in_cpp", lambda *_: False)
    check(MAKERS[name], torch.randn(4, C, 6, 5))


def test_so_it_is_in_the_fused_form() -> None:
    with convolution_form("fused"):
        check(MAKERS["FusedSequential"], torch.randn(4, C, 6, 5))


@pytest.mark.parametrize("convolves", [False, True])
def test_so_it_is_for_statistics_that_are_converted(convolves: bool) -> None:
    check(lambda: Functions(convolves, torch.bfloat16), torch.randn(4, C, 6, 5).bfloat16())


@pytest.mark.parametrize("name", ["BatchNormAct", "FusedSequential"])
def test_compiled_models_refuse(name: str) -> None:
    """Their graphs keep the buffers themselves for the backward."""
    torch.compiler.reset()
    model = torch.compile(MAKERS[name](), backend="aot_eager")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(model, torch.randn(4, C, 6, 5), True)
