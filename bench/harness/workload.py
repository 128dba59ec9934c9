"""What is measured: a model with its inputs, forward and backward, by every implementation."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.harness import peers
from bench.harness.case import BACKWARD, BOTH, Case, laid, laid_model
from bench.harness.cost import Cost
from bench.harness.machine import last_level_cache
from bench.harness.peers import Build
from fastgan.ops import backend

MAX_SETS = 64
Shapes = Sequence[Sequence[int]] | Callable[[], Sequence[Tensor]]


class Run(Protocol):
    """An implementation, ready to be checked and timed. ready: makes what is timed of a turn."""

    parameters: list[Tensor]

    def forward(self, i: int) -> object: ...
    def results(self, i: int) -> list[Tensor]: ...
    def ready(self, turn: int) -> Callable[[], object]: ...


class Work(Protocol):
    """A case with its implementations, its input sets, and the truth about them.

    exact, eager: the results of a set in float64, and by PyTorch's own layers at the case's dtype.
    runner: an implementation, built; whatever the build raises says why it cannot run.
    network: its own activations exceed the cache, so that two sets will do, and the kinks of its
    activations move all that stands behind them.
    """

    case: Case
    cost: Cost | None
    network: bool
    sets: int
    implementations: Mapping[str, Any]

    def runner(self, name: str) -> Run: ...
    def exact(self, i: int) -> list[Tensor]: ...
    def eager(self, i: int, layout: str) -> list[Tensor]: ...

    @property
    def own(self) -> list[str]:
        return [name for name, how in self.implementations.items() if how.own]

    def why_not(self, name: str) -> str | None:
        """Why an implementation cannot run here; None where it can."""
        graphs = name.partition(" (")[0] in peers.GRAPHED and self.case.device == "cpu"
        return "CUDA graphs need a CUDA device" if graphs else None


class Call(nn.Module):
    """A plain function of tensors as a model: for raw kernels, whose gradient nobody asks for."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class Implementation(NamedTuple):
    """How a model is run. layout: of its inputs and weights."""

    build: Build
    layout: str
    own: bool = False
    backend: str = "auto"


class Workload(Work):
    """One model, timed in one part (forward, backward or both), by several implementations.

    Inputs are drawn afresh for each workload: as many sets as exceed the last cache twice over, and
    a call takes the set that was not used for the longest time. A network has two sets: its own
    activations exceed the cache.

    Args:
        model: of torch.nn layers, in training mode; every implementation gets a copy.
        shapes: of its inputs, or a function that draws them in float32.
        input_gradients: whether backward goes into them.
    """

    def __init__(
        self,
        case: Case,
        model: nn.Module,
        shapes: Shapes,
        implementations: dict[str, Implementation],
        cost: Cost | None = None,
        *,
        input_gradients: bool = True,
        network: bool = False,
    ) -> None:
        self.case, self.cost, self.network = case, cost, network
        self.model = model.to(case.device)
        self.implementations = implementations
        self._eager: dict[str, Runner] = {}
        self.dtype: torch.dtype = getattr(torch, case.dtype)
        self.input_gradients = input_gradients
        self.given = [self._inputs(shapes)]
        outputs = self._outputs(self.model, self._in_layout(0, case.layout))
        self.like = [(y.shape, y.dtype) for y in outputs]
        size = sum(t.numel() * t.element_size() for t in (*self.given[0], *outputs))
        wanted = 2 if network else -(-2 * last_level_cache(case.device) // size)
        self.given += [self._inputs(shapes) for _ in range(min(MAX_SETS, max(2, wanted)) - 1)]
        self.cotangents = [
            [torch.randn(shape, device=case.device).to(dtype) for shape, dtype in self.like]
            for _ in self.given
        ]
        self.sets = len(self.given)

    def runner(self, name: str) -> Runner:
        return self._build(self.implementations[name])

    def _build(self, how: Implementation) -> Runner:
        model = laid_model(copy.deepcopy(self.model), how.layout)
        return Runner(self, how.build(model), how)

    def exact(self, i: int) -> list[Tensor]:
        _seed()
        wide = copy.deepcopy(self.model).double()
        inputs = [t.detach().double().requires_grad_(t.requires_grad) for t in self.given[i]]
        outputs = tree_leaves(wide(*inputs))
        cotangents = [c.double() for c in self.cotangents[i]]
        return _results(outputs, [*inputs, *wide.parameters()], cotangents)

    def eager(self, i: int, layout: str) -> list[Tensor]:
        if layout not in self._eager:
            self._eager[layout] = self._build(Implementation(lambda model: model, layout))
        return self._eager[layout].results(i)

    def _inputs(self, shapes: Shapes) -> list[Tensor]:
        device = self.case.device
        drawn = shapes() if callable(shapes) else [torch.randn(*s, device=device) for s in shapes]
        return [t.to(device, self.dtype).requires_grad_(self.input_gradients) for t in drawn]

    def _in_layout(self, i: int, layout: str) -> list[Tensor]:
        return [laid(t.detach(), layout).requires_grad_(t.requires_grad) for t in self.given[i]]

    def _outputs(self, model: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
        return tree_leaves(model(*inputs))


class Runner(Run):
    """An implementation of a workload."""

    def __init__(self, workload: Workload, model: Any, how: Implementation) -> None:
        self.workload, self.model, self.how = workload, model, how
        sets = range(workload.sets)
        self.inputs = [workload._in_layout(i, how.layout) for i in sets]
        self.cotangents = [
            [laid(c, how.layout) for c in cotangents] for cotangents in workload.cotangents
        ]
        self.parameters = list(model.parameters())
        self._buffers = [(b, b.clone()) for b in model.buffers()]

    def forward(self, i: int) -> list[Tensor]:
        with ExitStack() as stack:
            if self.how.own:
                stack.enter_context(backend(self.how.backend))
            return self.workload._outputs(self.model, self.inputs[i])

    def backward(self, i: int, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        return _gradients(outputs, [*self.inputs[i], *self.parameters], self.cotangents[i])

    def results(self, i: int) -> list[Tensor]:
        """From the model's first state: calls before must not move what is compared."""
        _seed()
        with torch.no_grad():
            for buffer, first in self._buffers:
                buffer.copy_(first)
        outputs = self.forward(i)
        return [t.detach().clone() for t in (*outputs, *self.backward(i, outputs))]

    def ready(self, turn: int) -> Callable[[], object]:
        i = turn % self.workload.sets
        part = self.workload.case.part
        if part == BOTH:
            return lambda: self.backward(i, self.forward(i))
        if part == BACKWARD:
            outputs = self.forward(i)
            return lambda: self.backward(i, outputs)
        return lambda: self.forward(i)


def _seed() -> None:
    """For models that draw numbers as they run."""
    random.seed(0)
    torch.manual_seed(0)


def _results(outputs: list[Tensor], leaves: list[Tensor], cotangents: list[Tensor]) -> list[Tensor]:
    return [t.detach() for t in (*outputs, *_gradients(outputs, leaves, cotangents))]


def _gradients(
    outputs: list[Tensor], leaves: list[Tensor], cotangents: list[Tensor]
) -> tuple[Tensor, ...]:
    """Of all outputs but those that are functions of the inputs alone."""
    wanted = [t for t in leaves if t.requires_grad]
    kept = [(y, dy) for y, dy in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not kept:
        return ()
    return torch.autograd.grad([y for y, _ in kept], wanted, [dy for _, dy in kept])
