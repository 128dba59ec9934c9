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

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LEAKY = (F.leaky_relu, F.leaky_relu_)
_KINKED = {*_LEAKY, F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}

UP, DOWN = "up", "down"
Units = list[Tensor]  # of each activation of a run, in order


class _Kinked(TorchFunctionMode):
    """Hands the input and the slope of each activation of a run to `look`, which may return what
    is computed in its stead."""

    def __init__(self, look: Callable[[Tensor, float], Tensor | None]) -> None:
        super().__init__()
        self.look = look

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _KINKED:
            given = dict(zip(("input", "negative_slope"), args, strict=False)) | kwargs
            slope = given.get("negative_slope", 0.01) if function in _LEAKY else 0.0
            if (instead := self.look(given["input"], slope)) is not None:
                return instead
        return function(*args, **kwargs)


def signs(into: Units) -> _Kinked:
    """Notes which branch a run takes."""
    return _Kinked(lambda x, _: into.append(x.detach() > 0))


class Margins:
    """How near to zero either branch is right, for each activation of a run in float64.

    Twice the distance at which one of the given runs took the other branch, plus `floor` of the
    largest value: the tolerance rule, said of the activation's input.

    Attributes:
        near: how many units are within their margin.
        flips: how many were on the other branch in the run where most were.
    """

    def __init__(self, runs: Sequence[Units], floor: float) -> None:
        self.runs, self.floor = runs, floor
        self.margins: list[float] = []
        self.near = 0
        self._flips = [0 for _ in runs]

    @property
    def flips(self) -> int:
        return max(self._flips, default=0)

    def noted(self) -> _Kinked:
        return _Kinked(self._note)

    def _note(self, x: Tensor, _: float) -> None:
        z, far = x.detach().abs(), 0.0
        for k, run in enumerate(self.runs):
            flipped = z[run[len(self.margins)] != (x.detach() > 0)]
            self._flips[k] += flipped.numel()
            if flipped.numel():
                far = max(far, float(flipped.max()))
        margin = 2 * far + self.floor * float(z.max()) if z.numel() else 0.0
        self.margins.append(margin)
        self.near += int((z <= margin).sum())

    def on(self, branch: str) -> _Kinked:
        """A run with every unit within its activation's margin on one branch, UP or DOWN."""
        margins = iter(self.margins)

        def look(x: Tensor, slope: float) -> Tensor:
            margin = next(margins)
            positive = x.detach() >= -margin if branch == UP else x.detach() > margin
            # The value of the function, with the gradient of the branch.
            linear = torch.where(positive, x, slope * x)
            return linear + (torch.where(x > 0, x, slope * x) - linear).detach()

        return _Kinked(look)
