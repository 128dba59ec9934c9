"""The tolerance rule: at most twice the error of PyTorch's own composition, plus a floor.

Errors are the largest deviation from a float64 reference, over the largest magnitude in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.ops.core.tolerance import FLOOR


def error(actual: Tensor, exact: Tensor, size: float = 0.0) -> float:
    """Largest deviation relative to the largest magnitude; NaN and inf must stand alike.

    Args:
        size: the least magnitude to relate to. A sum over few values may cancel to nearly nothing,
            which says nothing of its rounding; its natural size is the root of its summed squared
            terms.
    """
    actual, exact = actual.detach().double(), exact.detach().double()
    assert actual.shape == exact.shape
    finite = exact.isfinite()
    if not finite.all():
        torch.testing.assert_close(actual[~finite], exact[~finite], equal_nan=True)
        actual, exact = actual[finite], exact[finite]
    if not exact.numel():
        return 0.0
    assert actual.isfinite().all(), "not finite where the reference is"
    scale = exact.abs().max().clamp_min(max(size, 1e-30))
    return float((actual - exact).abs().max() / scale)


def assert_as_exact(
    name: str,
    actual: Tensor,
    eager: Tensor,
    exact: Tensor,
    *,
    floor: torch.dtype | None = None,
    size: float = 0.0,
    slack: float = 0.0,
    share: float = 1.0,
) -> None:
    """Holds `actual` to the rule: `eager` is PyTorch at the dtype, `exact` at float64.

    Args:
        floor: the dtype whose floor applies, if not the result's own.
        size: as in `error`.
        slack: what one rounding within the computation moves, where that is more than the floor.
        share: of the floor, where less of it will do.
    """
    own, theirs = error(actual, exact, size), error(eager, exact, size)
    allowed = 2 * theirs + max(share * FLOOR[floor or eager.dtype], slack)
    assert own <= allowed, f"{name}: error {own:.2e}, PyTorch's {theirs:.2e}, allowed {allowed:.2e}"


def within(dtype: torch.dtype, relative: float, absolute: float) -> dict[str, float]:
    """rtol and atol of `torch.testing.assert_close`, in floors of a dtype: for two runs of which
    neither is the exact one."""
    return {"rtol": relative * FLOOR[dtype], "atol": absolute * FLOOR[dtype]}


def assert_gradients(module: nn.Module, loss: Tensor, twin: nn.Module) -> None:
    """Holds the gradients in a module of float32 to those of a loss of its copy."""
    expected = torch.autograd.grad(loss, list(twin.parameters()), retain_graph=True)
    for (name, p), gradient in zip(module.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, **within(torch.float32, 100, 10), msg=name)


def assert_as_exact_on_average(name: str, actual: Tensor, eager: Tensor, exact: Tensor) -> None:
    """Holds the root mean square of many errors to the rule.

    Of many values PyTorch is not exact by luck: the floor is that of the sums, float32's for half.
    """

    def average(t: Tensor) -> float:
        exact_ = exact.detach().double()
        deviation = (t.detach().double() - exact_).square().mean().sqrt()
        return float(deviation / exact_.square().mean().sqrt().clamp_min(1e-30))

    own, theirs = average(actual), average(eager)
    allowed = 2 * theirs + FLOOR[torch.float64 if eager.dtype is torch.float64 else torch.float32]
    assert own <= allowed, f"{name}: RMS {own:.2e}, PyTorch's {theirs:.2e}, allowed {allowed:.2e}"


def assert_rounded_once(name: str, actual: Tensor, exact: Tensor) -> None:
    """Holds many values, the largest of them and on average, to a single rounding by the rule.

    What PyTorch makes at best is the reference, rounded.
    """
    eager = exact.to(actual.dtype)
    assert_as_exact(name, actual, eager, exact, floor=torch.float32)
    assert_as_exact_on_average(name, actual, eager, exact)
