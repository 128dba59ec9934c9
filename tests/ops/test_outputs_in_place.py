"""An op's output may be changed in place, through a view of it as well, before backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fastgan.ops import conv_block, norm_act, norm_act_conv
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


def changed(y: Tensor, way: str) -> Tensor:
    WAYS[way](y)
    return y.square().sum()
