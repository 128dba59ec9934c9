"""What is measured: a model with its inputs, forward and backward, by every implementation."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.harness import peers
from bench.harness.case import BACKWARD, BOTH, CONTIGUOUS, Case, laid, laid_model
from bench.harness.cost import Cost, Operations
from bench.harness.machine import last_level_cache
from bench.harness.peers import PEERS, Build
from fastgan.ops import backend

MAX_SETS = 64
Shapes = Sequence[Sequence[int]] | Callable[[], Sequence[Tensor]]


class Run(Protocol):
    """An implementation, ready to be checked and timed. ready: makes what is timed of a turn."""

    parameters: list[Tensor]

    def forward(self, i: int) -> object: ...
    def results(self, i: int) -> list[Tensor]: ...
    def ready(self, turn: int) -> Callable[[], object]: ...


class Work:
    """A case with its implementations, its input sets, and the truth about them.

    way: what an implementation is described by, given at least what builds it and a layout.
    network: its own activations exceed the cache, so that two sets will do, and the kinks of its
    activations move all that stands behind them.
    """

    way: Callable[..., Any]
    cost: Cost | None
    sets: int

    def __init__(self, case: Case, implementations: dict[str, Any], network: bool) -> None:
        self.case, self.implementations, self.network = case, implementations, network
        self._plain: dict[str, Run] = {}

    def built(self, how: Any, dtype: torch.dtype | None = None, sets: slice = slice(None)) -> Run:
        """An implementation, on all input sets or some; dtype: of all tensors, by default as they
        are. Whatever this raises says why it cannot run."""
        raise NotImplementedError

    def runner(self, name: str) -> Run:
        return self.built(self.implementations[name])

    def exact(self, i: int) -> list[Tensor]:
        """The results of a set in float64."""
        how = self.way(PEERS["eager"], CONTIGUOUS)
        return self.built(how, torch.float64, slice(i, i + 1)).results(0)

    def eager(self, i: int, layout: str) -> list[Tensor]:
        """Those by PyTorch's own layers at the case's dtype."""
        if layout not in self._plain:
            self._plain[layout] = self.built(self.way(PEERS["eager"], layout))
        return self._plain[layout].results(i)

    def operations(self) -> Cost:
        """Those of eager's convolutions and matrix products, as they are defined."""
        run = self.built(self.way(PEERS["eager"], CONTIGUOUS), sets=slice(1)).ready(0)
        with Operations() as counted:
            run()
        return Cost(counted.count, 0, 0)

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
    a call takes the set that was not used for the longest time. A network has two sets, and costs
    its operations.

    Args:
        model: of torch.nn layers, in training mode; every implementation gets a copy.
        shapes: of its inputs, or a function that draws them in float32.
        input_gradients: whether backward goes into them.
    """

    way = Implementation

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
        super().__init__(case, implementations, network)
        self.model = model.to(case.device)
        self.dtype: torch.dtype = getattr(torch, case.dtype)
        self.input_gradients = input_gradients
        self.given = [self._inputs(shapes)]
        outputs = tree_leaves(self.model(*(laid(t, case.layout) for t in self.given[0])))
        size = sum(t.nbytes for t in (*self.given[0], *outputs))
        wanted = 2 if network else -(-2 * last_level_cache(case.device) // size)
        self.given += [self._inputs(shapes) for _ in range(min(MAX_SETS, max(2, wanted)) - 1)]
        self.cotangents = [[torch.randn_like(y) for y in outputs] for _ in self.given]
        self.sets = len(self.given)
        self.cost = self.operations() if network else cost

    def built(
        self, how: Implementation, dtype: torch.dtype | None = None, sets: slice = slice(None)
    ) -> Runner:
        return Runner(self, how, dtype, sets)

    def _inputs(self, shapes: Shapes) -> list[Tensor]:
        device = self.case.device
        drawn = shapes() if callable(shapes) else [torch.randn(*s, device=device) for s in shapes]
        return [t.to(device, self.dtype).requires_grad_(self.input_gradients) for t in drawn]


class Runner(Run):
    """An implementation of a workload."""

    def __init__(
        self, workload: Workload, how: Implementation, dtype: torch.dtype | None, sets: slice
    ) -> None:
        self.workload, self.how = workload, how
        model = laid_model(copy.deepcopy(workload.model), how.layout)
        self.model = how.build(model if dtype is None else model.to(dtype))

        def placed(t: Tensor, wanted: bool = False) -> Tensor:
            own = laid(t.detach().to(dtype or t.dtype), how.layout)
            return own.requires_grad_(wanted)

        wanted = workload.input_gradients
        self.inputs = [[placed(t, wanted) for t in given] for given in workload.given[sets]]
        self.cotangents = [[placed(t) for t in given] for given in workload.cotangents[sets]]
        self.parameters = list(self.model.parameters())
        self._buffers = [(b, b.clone()) for b in self.model.buffers()]

    def forward(self, i: int) -> list[Tensor]:
        with backend(self.how.backend) if self.how.own else nullcontext():
            return tree_leaves(self.model(*self.inputs[i]))

    def backward(self, i: int, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        """The gradients of all outputs but those that are functions of the inputs alone."""
        leaves = [t for t in (*self.inputs[i], *self.parameters) if t.requires_grad]
        pairs = zip(outputs, self.cotangents[i], strict=True)
        kept = [(y, dy) for y, dy in pairs if y.requires_grad]
        if not kept:
            return ()
        return torch.autograd.grad([y for y, _ in kept], leaves, [dy for _, dy in kept])

    def results(self, i: int) -> list[Tensor]:
        """From the model's first state: calls before must not move what is compared."""
        random.seed(0)  # for models that draw numbers as they run
        torch.manual_seed(0)
        with torch.no_grad():
            for buffer, first in self._buffers:
                buffer.copy_(first)
        outputs = self.forward(i)
        return [t.detach().clone() for t in (*outputs, *self.backward(i, outputs))]

    def ready(self, turn: int) -> Callable[[], object]:
        i = turn % len(self.inputs)
        part = self.workload.case.part
        if part == BOTH:
            return lambda: self.backward(i, self.forward(i))
        if part == BACKWARD:
            outputs = self.forward(i)
            return lambda: self.backward(i, outputs)
        return lambda: self.forward(i)
