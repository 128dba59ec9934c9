"""fastgan.ops.conv.second_order against autograd's own derivatives of ATen's convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_as_exact
from torch import Tensor, nn

from fastgan.ops.conv import second_order
from fastgan.ops.conv.second_order import Arguments, differentiated_twice
from fastgan.regularizers import r1

# stride, padding, dilation, transposed, output padding, groups.
CASES = {
    "plain": Arguments((1, 1), (1, 1), (1, 1), False, (0, 0), 1),
    "strided": Arguments((2, 3), (1, 2), (1, 1), False, (0, 0), 1),
    "grouped": Arguments((2, 1), (1, 0), (1, 1), False, (0, 0), 2),
    "dilated": Arguments((1, 2), (2, 1), (2, 2), False, (0, 0), 2),
    "depthwise": Arguments((1, 1), (1, 1), (1, 1), False, (0, 0), 4),
    "transposed": Arguments((2, 2), (1, 0), (1, 1), True, (1, 0), 1),
    "transposed, grouped, dilated": Arguments((2, 3), (1, 1), (2, 1), True, (0, 2), 2),
}


def tensors(arguments: Arguments, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias of 4 channels to 4."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, **options)
    weight = torch.randn(4, 4 // arguments.groups, 3, 3, **options)
    return x, weight, torch.randn(4, **options)


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_derivatives(arguments: Arguments) -> None:
    """The first three orders: the third is that of the gradients' own derivative."""
    x, weight, bias = tensors(arguments, dtype=torch.float64)
    given = [t[:1, :, :3, :4] if t is x else t for t in (x, weight, bias)]
    x, weight, bias = (t.detach().clone().requires_grad_() for t in given)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return second_order.convolution(x, weight, bias, arguments)

    assert torch.equal(run(x, weight, bias), torch.convolution(x, weight, bias, *arguments))
    assert torch.autograd.gradcheck(run, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, weight, bias), fast_mode=True)
    dy = torch.randn_like(run(x, weight)).requires_grad_()

    def gradients(dy: Tensor, x: Tensor, weight: Tensor) -> Any:
        return second_order.gradients(dy, x, weight, arguments, (True, True, True))

    assert torch.autograd.gradgradcheck(gradients, (dy, x, weight), fast_mode=True)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_gradients_of_some(wanted: tuple[int, ...]) -> None:
    """Those of frozen tensors and those that nobody asks for are not computed, the others are."""
    arguments = CASES["grouped"]
    all_three = tensors(arguments, dtype=torch.float64)
    for free in (wanted, (0, 1, 2)):
        leaves = [t.requires_grad_(i in free) for i, t in enumerate(all_three)]
        some = [leaves[i] for i in wanted]

        def slopes(run: Any, leaves: list[Tensor] = leaves, some: list[Tensor] = some) -> Any:
            y = run(*leaves, arguments).tanh()
            found = torch.autograd.grad(y.sum(), some, create_graph=True)
            return *found, *torch.autograd.grad(sum(g.square().sum() for g in found), some)

        for own, theirs in zip(slopes(second_order.convolution), slopes(_torchs), strict=True):
            torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_a_penalty_equals_autograds_own(arguments: Arguments, dtype: torch.dtype) -> None:
    x, weight, bias = tensors(arguments)
    cotangent = torch.randn_like(torch.convolution(x, weight, bias, *arguments))

    def penalised(to: torch.dtype, own: bool) -> list[Tensor]:
        leaves = [t.to(dtype).to(to).requires_grad_() for t in (x, weight, bias)]
        run = second_order.convolution if own else _torchs
        y = torch.tanh(run(*leaves, arguments))
        slopes = torch.autograd.grad(y, leaves, cotangent.to(dtype).to(to), create_graph=True)
        return list(torch.autograd.grad(sum(s.square().sum() for s in slopes), leaves))

    found, eager, exact = (
        penalised(*how) for how in ((dtype, True), (dtype, False), (torch.float64, False))
    )
    for name, *results in zip(("x", "weight", "bias"), found, eager, exact, strict=True):
        assert_as_exact(name, *results)


def _torchs(x: Tensor, weight: Tensor, bias: Tensor, arguments: Arguments) -> Tensor:
    return torch.convolution(x, weight, bias, *arguments)


CONVOLUTIONS = {
    "grouped": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (6, 6)),
    "1-D, padded around": (
        lambda: nn.Conv1d(4, 8, 5, stride=2, padding=2, padding_mode="circular"), (9,),
    ),
    "3-D, transposed": (
        lambda: nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (3, 2, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("make", "size"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_layers_within_a_penalty(
    make: Callable[[], nn.Module],
    size: tuple[int, ...],
    autocast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(make(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1))
    images = torch.randn(3, 4, *size)
    critic(images)

    def gradients(images: Tensor, known: dict[Any, Any]) -> list[Tensor]:
        monkeypatch.setattr(second_order, "_BOUND", known)
        lower = autocast and images.dtype is torch.float32
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            loss = r1(critic, images)
        return list(torch.autograd.grad(loss, [critic[0].weight, critic[0].bias, critic[3].weight]))

    known = second_order._BOUND
    ran: list[Any] = []
    run = second_order.convolution
    monkeypatch.setattr(
        second_order, "convolution", lambda *given: (ran.append(given), run(*given))[1]
    )
    own = gradients(images, known)
    assert ran
    ran.clear()
    eager = gradients(images, {})
    assert not ran
    critic.double()
    exact = gradients(images.double(), {})
    for name, *results in zip(("weight", "bias", "last"), own, eager, exact, strict=True):
        assert_as_exact(name, *results, floor=torch.bfloat16 if autocast else None)


def test_what_stays_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it was to stay PyTorch's")

    monkeypatch.setattr(second_order, "convolution", refuse)
    x, weight = torch.randn(4, 5, 5), torch.randn(8, 4, 3, 3, requires_grad=True)
    with differentiated_twice():
        assert F.conv2d(x, weight).shape == (8, 3, 3)  # without a batch
        assert F.conv2d(x[None], weight, padding="same").shape == (1, 8, 5, 5)
        with torch.no_grad():
            assert F.conv2d(x[None], weight).shape == (1, 8, 3, 3)
        with pytest.raises(AssertionError, match="stay"):
            F.conv2d(x[None], weight)
    assert F.conv2d(x[None], weight).shape == (1, 8, 3, 3)
