"""An op's output may be changed in place, through a view of it as well, before backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import bias_act, conv_block, norm_act, norm_act_conv
from fastgan.ops.conv.algorithms import ALGORITHMS, force
from fastgan.ops.norm_act_conv import Norm

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda y: y.add_(1),
    "view": lambda y: y.view_as(y).add_(1),
    "channel": lambda y: y[:, 0].mul_(2),
    "corner": lambda y: y.narrow(-1, 0, 1).zero_(),
}


def convolved(x: Tensor, **options: object) -> Tensor:
    weight = torch.randn(4, 4, *(2,) * (x.dim() - 2)).to(x).requires_grad_()
    return norm_act_conv(x, weight, None, Norm(None, None, None, None, True), **options)


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "norm_act": lambda x: norm_act(x, None, None, None, None, True),
    "norm_act_conv": convolved,
    "norm_act_conv, transposed": lambda x: convolved(x, transposed=True),
    "conv_block": lambda x: conv_block(x, torch.randn(4, 4, *(2,) * (x.dim() - 2)).to(x))[0],
}


@pytest.fixture(params=["chosen", *ALGORITHMS])
def algorithm(request: pytest.FixtureRequest) -> Iterator[None]:
    with force(**({} if request.param == "chosen" else {request.param: True})):
        yield


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.usefixtures("algorithm")
def test_outputs_may_be_changed_in_place(op: str, way: str, dims: int, last: bool):
    x = torch.randn(2, 4, *(4,) * dims)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x.requires_grad_()
    torch.manual_seed(1)
    (expected,) = torch.autograd.grad(changed(OPS[op](x).clone(), way), x)
    torch.manual_seed(1)
    (found,) = torch.autograd.grad(changed(OPS[op](x), way), x)
    torch.testing.assert_close(found, expected)


LEAKY = {"activation": "leaky_relu", "negative_slope": 0.2}
KEEPING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch.nn, in place": lambda x, w: F.leaky_relu(F.conv2d(x, w), 0.2, inplace=True),
    "bias_act": lambda x, w: bias_act(F.conv2d(x, w), **LEAKY),
    "norm_act_conv": lambda x, w: norm_act_conv(x, w, **LEAKY),
    "conv_block": lambda x, w: conv_block(x, w, **LEAKY)[0],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", KEEPING)
def test_outputs_that_are_kept_may_not(op: str, way: str, request: pytest.FixtureRequest):
    if op == "bias_act":  # without the library PyTorch's LeakyReLU runs, which keeps its input
        request.getfixturevalue("native")
    y = KEEPING[op](torch.randn(2, 4, 4, 4), torch.randn(4, 4, 2, 2, requires_grad=True))
    loss = changed(y, way)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def changed(y: Tensor, way: str) -> Tensor:
    WAYS[way](y)
    return y.square().sum()
