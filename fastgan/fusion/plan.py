"""The forward that `fuse` puts on a module: its fused graph where that applies, else its own."""

from __future__ import annotations

import inspect
import types
from typing import Any

from torch import Tensor, fx, nn

from fastgan.fusion.matching import fused_graph
from fastgan.fusion.report import Block
from fastgan.fusion.tracing import Trace, trace
from fastgan.nn._blocks import hooked


class Plan:
    """Stands as `forward` in the instance dictionary of a module, which stays what it was.

    A call is answered by the fused graph if it gives the traced arguments as tensors, and if what
    the traced forwards decided by (plain attributes, children, `training`) is as it was then and
    nobody hooks into the calls between; otherwise by the module's own forward.
    """

    def __init__(self, module: nn.Module, traced: Trace, graphs: dict[bool, fx.GraphModule]):
        self.module = module
        self.graphs = graphs
        self.inputs = traced.inputs
        self.watched = traced.watched
        self.inner = traced.containers[1:]
        self.by_mode = graphs[True] is not graphs[False]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._applies(args, kwargs):
            return self.graphs[self.module.training].forward(*args)
        return type(self.module).forward(self.module, *args, **kwargs)

    def _applies(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if kwargs or len(args) != len(self.inputs):
            return False
        if not all(isinstance(a, Tensor) for a in args):
            return False
        for container, state in self.watched:
            if any(getattr(container, name, None) != value for name, value in state.items()):
                return False
        if self.by_mode and any(m.training != self.module.training for m in self.inner):
            return False
        return not any(hooked(m) for m in self.inner)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.module).forward.__get__(self.module))

    @property
    def __code__(self) -> types.CodeType:  # torch.export asks where a forward stands
        code: types.CodeType = inspect.unwrap(type(self.module).forward).__code__
        return code


def make_plan(module: nn.Module, prefix: str) -> tuple[Plan | None, list[Block], list[nn.Module]]:
    """(the plan, if there is anything to fuse; the blocks found; the modules traced through).

    prefix: the module's own name, for those of the blocks. Untraceable, if its forward is.
    """
    traced = trace(module)
    training, blocks = fused_graph(traced.graphs[True], module, prefix)
    evaluation = training
    if traced.graphs[False] is not traced.graphs[True]:
        evaluation, _ = fused_graph(traced.graphs[False], module, prefix)
    if training is None or evaluation is None:
        return None, blocks, traced.containers
    return Plan(module, traced, {True: training, False: evaluation}), blocks, traced.containers
