"""What the kinks of ReLU and LeakyReLU leave open in a gradient.

Where an activation's input is within rounding of zero, either branch's slope is right, and which
one an implementation takes is an accident of its sums' order. One such unit among four million
moved the float32 weight gradients of a DCGAN-64 generator by 1.7e-3 of their norm, and eager's own
by nothing: it took the exact branch there (with eager's branches forced upon the float64 reference,
its error was 1e-6 throughout). No multiple of eager's error covers that. So the reference is
computed with the branches of all such units up, and down: what an implementation may deviate by is
what these two deviate by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LEAKY = {F.leaky_relu: 0.01, F.leaky_relu_: 0.01}  # with PyTorch's default slope
_KINKED = {*_LEAKY, F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}

UP, DOWN = "up", "down"


class _Kinked(TorchFunctionMode):
    """Sees each activation of a run, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in _KINKED:
            return function(*args, **kwargs)
        self.calls += 1
        x = args[0] if args else kwargs["input"]

        def slope() -> float:
            given = args[1] if len(args) > 1 else kwargs.get("negative_slope")
            return 0.0 if function not in _LEAKY else _LEAKY[function] if given is None else given

        return self.activate(x, slope, lambda: function(*args, **kwargs))

    def activate(self, x: Tensor, slope: Callable[[], float], call: Callable[[], Tensor]) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no activate")


class Signs(_Kinked):
    """Which branch a run took, for each activation."""

    def __init__(self) -> None:
        super().__init__()
        self.positive: list[Tensor] = []

    def activate(self, x: Tensor, slope: Callable[[], float], call: Callable[[], Tensor]) -> Tensor:
        self.positive.append(x.detach() > 0)
        return call()


class Margins(_Kinked):
    """In the float64 run: how near to zero either branch is right, for each activation.

    Twice the distance at which one of the given runs took the other branch, plus `floor` of the
    largest value: the tolerance rule, said of the activation's input. flips: how many units were on
    the other branch in the run where most were.
    """

    def __init__(self, runs: Iterable[Signs], floor: float) -> None:
        super().__init__()
        self.runs, self.floor = list(runs), floor
        self.margins: list[float] = []
        self.near = 0
        self._flips = [0 for _ in self.runs]

    @property
    def flips(self) -> int:
        return max(self._flips, default=0)

    def activate(self, x: Tensor, slope: Callable[[], float], call: Callable[[], Tensor]) -> Tensor:
        z, far = x.detach().abs(), 0.0
        for k, run in enumerate(self.runs):
            flipped = run.positive[self.calls - 1] != (x.detach() > 0)
            self._flips[k] += int(flipped.sum())
            if flipped.any():
                far = max(far, float(z[flipped].max()))
        margin = 2 * far + self.floor * float(z.max()) if z.numel() else 0.0
        self.margins.append(margin)
        self.near += int((z <= margin).sum())
        return call()


class Branch(_Kinked):
    """Runs with every unit within its activation's margin on one branch, UP or DOWN."""

    def __init__(self, margins: Sequence[float], branch: str) -> None:
        super().__init__()
        self.margins, self.branch = margins, branch

    def activate(self, x: Tensor, slope: Callable[[], float], call: Callable[[], Tensor]) -> Tensor:
        margin = self.margins[self.calls - 1]
        positive = x.detach() >= -margin if self.branch == UP else x.detach() > margin
        applied: Tensor = _OnBranch.apply(x, slope(), positive)
        return applied


class _OnBranch(torch.autograd.Function):
    """LeakyReLU whose gradient takes the branch that it is told."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, positive: Tensor) -> Tensor:
        ctx.slope = slope
        ctx.save_for_backward(positive)
        return torch.where(x > 0, x, slope * x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (positive,) = ctx.saved_tensors
        return torch.where(positive, gradient, ctx.slope * gradient), None, None
