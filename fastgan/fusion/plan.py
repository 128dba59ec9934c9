"""The forward that `fuse` puts on a module: its fused graph where that applies, else its own."""

from __future__ import annotations

import inspect
import types
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastgan.fusion.chain import Chain
from fastgan.fusion.matching import fused_graph
from fastgan.fusion.report import Block
from fastgan.fusion.tracing import Trace, trace
from fastgan.nn._blocks import MOST_KINDS, hooked
from fastgan.nn.sequential import is_recording, kind_of, kind_of_call


class Plan:
    """Stands as `forward` in the instance dictionary of a module, which stays what it was.

    A call is answered by the fused graph if it gives the traced arguments as tensors, and if what
    the traced forwards decided by (plain attributes, children, `training`) is as it was then and
    nobody hooks into the calls between; otherwise by the module's own forward. So it is for kinds
    of inputs of which every block was found to be as fast layer by layer.
    """

    def __init__(self, module: nn.Module, traced: Trace, graphs: dict[bool, fx.GraphModule]):
        self.module = module
        self.graphs = graphs
        self.inputs = traced.inputs
        self.watched = traced.watched
        self.inner = traced.containers[1:]
        self.by_mode = graphs[True] is not graphs[False]
        self.plain: set[Hashable] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._applies(args, kwargs):
            return type(self.module).forward(self.module, *args, **kwargs)
        graph = self.graphs[self.module.training]
        if torch.compiler.is_compiling() or is_recording():
            return graph.forward(*args)
        kind = (self.module.training, kind_of_call(), *map(kind_of, args))
        if kind in self.plain:
            return type(self.module).forward(self.module, *args)
        outputs = graph.forward(*args)
        chains = [m for m in graph.children() if isinstance(m, Chain)]
        if all(chain.planned.ran_plainly for chain in chains) and len(self.plain) < MOST_KINDS:
            self.plain.add(kind)
        return outputs

    def _applies(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if kwargs or len(args) != len(self.inputs):
            return False
        if not all(isinstance(a, Tensor) for a in args):
            return False
        for container, plain, children in self.watched:
            own = vars(container)
            if own["_modules"] != children:
                return False
            for name, value in plain.items():
                if own.get(name) != value:
                    return False
        if self.by_mode and any(m.training != self.module.training for m in self.inner):
            return False
        return not any(map(hooked, self.inner))

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.module).forward.__get__(self.module))

    @property
    def __code__(self) -> types.CodeType:  # torch.export asks where a forward stands
        code: types.CodeType = inspect.unwrap(type(self.module).forward).__code__
        return code


def make_plan(
    module: nn.Module, prefix: str, keep_activations: bool
) -> tuple[Plan | None, list[Block], list[nn.Module]]:
    """(the plan, if there is anything to fuse; the blocks found; the modules traced through).

    prefix: the module's own name, for those of the blocks. Untraceable, if its forward is.
    """
    traced = trace(module)
    training, blocks = fused_graph(traced.graphs[True], module, prefix, keep_activations)
    evaluation = training
    if traced.graphs[False] is not traced.graphs[True]:
        evaluation, _ = fused_graph(traced.graphs[False], module, prefix, keep_activations)
    if training is None or evaluation is None:
        return None, blocks, traced.containers
    return Plan(module, traced, {True: training, False: evaluation}), blocks, traced.containers
