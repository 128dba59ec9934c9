"""Plain functions of tensors, without autograd: raw kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.harness.case import Case, Cost, laid
from bench.harness.machine import last_level_cache
from bench.harness.workload import MAX_SETS

Function = Callable[..., Tensor]


class FunctionImplementation(NamedTuple):
    """A function of the workload's inputs; layout: of those among them that are images."""

    function: Function
    layout: str
    own: bool = False


class FunctionWorkload:
    """One function of inputs drawn afresh, as many sets of them as exceed the last cache twice.

    draw: makes the inputs, float32; implementations get them at the case's dtype. `exact`: the
    function whose float64 result is the truth, and whose result at the dtype the errors are
    compared with.
    """

    network = False

    def __init__(
        self,
        case: Case,
        draw: Callable[[], Sequence[Tensor]],
        exact: Function,
        implementations: dict[str, FunctionImplementation],
        cost: Cost,
    ) -> None:
        self.case, self.cost, self.implementations = case, cost, implementations
        self.function = exact
        dtype = getattr(torch, case.dtype)

        def inputs() -> list[Tensor]:
            return [t.to(dtype).to(case.device) for t in draw()]

        self.given = [inputs()]
        size = sum(t.numel() * t.element_size() for t in self.given[0])
        wanted = -(-2 * last_level_cache(case.device) // size)
        self.given += [inputs() for _ in range(min(MAX_SETS, max(2, wanted)) - 1)]

    @property
    def sets(self) -> int:
        return len(self.given)

    @property
    def own(self) -> list[str]:
        return [name for name, how in self.implementations.items() if how.own]

    def why_not(self, name: str) -> str | None:
        return None

    def runner(self, name: str) -> FunctionRunner:
        how = self.implementations[name]
        given = [[laid(t, how.layout) for t in inputs] for inputs in self.given]
        return FunctionRunner(how.function, given)

    def exact(self, i: int) -> list[Tensor]:
        return [self.function(*(t.double() for t in self.given[i]))]

    def eager(self, i: int, layout: str) -> list[Tensor]:
        return [self.function(*(laid(t, layout) for t in self.given[i]))]


class FunctionRunner:
    """A function with its inputs, ready to be checked and timed."""

    def __init__(self, function: Function, given: list[list[Tensor]]) -> None:
        self.function, self.given = function, given
        self.parameters: list[Tensor] = []

    def forward(self, i: int) -> Tensor:
        with torch.no_grad():
            return self.function(*self.given[i])

    def results(self, i: int) -> list[Tensor]:
        return [self.forward(i).clone()]

    def ready(self, turn: int) -> Callable[[], object]:
        i = turn % len(self.given)
        return lambda: self.forward(i)
