"""The forward that `fuse` puts on a module: its fused graph where that applies, else its own."""

from __future__ import annotations

import inspect
import types
from collections.abc import Hashable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import _has_any_global_hook

from fastgan.fusion.copying import sharing
from fastgan.fusion.looking import entries, in_mode
from fastgan.fusion.matching import Choice, Written, fused_graph
from fastgan.fusion.memory_format import Border, borders, with_borders
from fastgan.fusion.report import Block
from fastgan.fusion.specialized import Specialized, chains_of, pattern, specialized
from fastgan.fusion.tracing import Trace, Untraceable, trace
from fastgan.fusion.watching import Watch
from fastgan.nn import steps
from fastgan.nn.layers import hooked
from fastgan.nn.planner import MAX_KINDS, kind_of, kind_of_call
from fastgan.nn.recording import is_recording, recorded_as_converted
from fastgan.ops.core import native
from fastgan.ops.core.dispatch import in_plain_export, is_composite, setting
from fastgan.ops.core.setting import Setting


class Plan:
    """Answers calls of a module's `forward`; the module stays what it was.

    The two stand in the module's instance dictionary: the plan, and as `forward` a bound method of
    the module that asks whatever plan stands there at the time. So a copy of the module asks its
    own, and what wraps the method and binds it again finds the plan again.

    A call is answered by the fused graph if it gives the traced arguments as tensors, and if what
    the traced forwards decided by (plain attributes, children, `training`) is as it was then and
    nobody hooks into the calls between; otherwise by the module's own forward.

    The first call with a kind of inputs chooses how each block runs. From then on what runs as
    layers costs what it does unfused: the graph has the layers themselves in its place, and where
    that is every block, the module's own forward runs, past the plans of the modules within it.
    """

    def __init__(self, module: nn.Module, traced: Trace, graphs: dict[bool, fx.GraphModule]):
        self.module = module
        self.graphs = graphs
        self.inputs = traced.inputs
        self.code = traced.code
        self.watch: Watch | None = traced.watch
        self.inner = traced.containers[1:]
        self.moded = {**dict.fromkeys(self.inner), **traced.watch.modes}
        self.by_mode = graphs[True] is not graphs[False]
        self.running = _Running()
        self.around: list[_Running] = []
        self._forget()

    def _forget(self) -> None:
        self.forwards: dict[Hashable, Specialized] = {}  # by kind of call
        self.specialized: dict[Hashable, Specialized] = {}
        self.converting: dict[tuple[Border, ...], fx.GraphModule] = {}
        self.looks: dict[bool, steps.State | None] = {}  # by mode, see `_looks`

    def __getstate__(self) -> dict[str, Any]:  # a copy chooses for itself
        chosen = ("forwards", "specialized", "converting", "looks")
        return {k: v for k, v in vars(self).items() if k not in chosen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()
        # A method is pickled as `getattr(module, "forward")`, which is to find this one: it comes
        # after the plan in the module's dictionary, when the module itself is still empty.
        self._bind()

    def install(self) -> None:
        vars(self.module)[_KEY] = self
        self._bind()
        vars(self.module)[_SCRIPTED] = _ItsOwnForwards(self.module)

    def _bind(self) -> None:
        method = types.MethodType(_forward(type(self.module)), self.module)
        vars(self.module)["forward"] = method

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.module
        own = type(module).forward
        if torch.compiler.is_compiling():
            return self._compiled(own, args, kwargs)
        # Where nothing is fused this is all that a call costs, run from cold caches: few steps.
        for outer in self.around:
            if outer.plainly:
                return own(module, *args, **kwargs)
        if kwargs or len(args) != len(self.inputs):
            return own(module, *args, **kwargs)
        known = native.WITH_AUTOGRAD.known(self.forwards, module.training, Setting.state, args)
        if not known:
            if not _serves(args):
                return own(module, *args)
            known = self.forwards.get(_kind(module.training, args))
        if known is ITS_OWN and not is_recording():
            self.running.plainly = True
            try:
                return own(module, *args)
            finally:
                self.running.plainly = False
        if is_composite(setting()) or not self._holds():
            return own(module, *args)
        if is_recording():
            return self._recorded(self.graphs[module.training], args)
        if known and (not known.relies or steps.unchanged(known.relies)):
            return known.forward(*args)
        return self._choose(args)

    def _compiled(self, own: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer where torch.compile or torch.export watches."""
        serves = not kwargs and len(args) == len(self.inputs) and _serves(args)
        if not serves or in_plain_export() or not self._holds():
            return own(self.module, *args, **kwargs)
        return self.graphs[self.module.training](*args)

    def _choose(self, args: tuple[Tensor, ...]) -> Any:
        """The first answer to calls of a kind, and to those after a layer became another."""
        kind, graph = _kind(self.module.training, args), self.graphs[self.module.training]
        self.forwards.pop(kind, None)
        if len(self.forwards) >= MAX_KINDS:
            return graph.forward(*args)
        graph = self._converting(graph, args)
        outputs = graph.forward(*args)
        self.forwards[kind] = self._chosen(graph, any(steps.serve(x) for x in args))
        return outputs

    def _converting(self, graph: fx.GraphModule, args: tuple[Tensor, ...]) -> fx.GraphModule:
        """The graph in the memory formats that pay for inputs of this kind."""
        found = borders(graph, args)
        if not found:
            return graph
        if found not in self.converting:
            self.converting[found] = with_borders(graph, found)
        return self.converting[found]

    def _recorded(self, graph: fx.GraphModule, args: tuple[Tensor, ...]) -> Any:
        chosen = self._converting(graph, args)
        with nullcontext() if chosen is graph else recorded_as_converted():
            return chosen(*args)

    def _chosen(self, graph: fx.GraphModule, stepped: bool) -> Specialized:
        """What answers calls of the kind that the graph has just run."""
        key = graph, pattern(graph), stepped
        found = self.specialized.get(key)
        if found is None or not steps.unchanged(found.relies):
            # Where all is plain, what steps save is what `_holds` takes, run from cold caches.
            found = ITS_OWN if _is_plain(graph) else specialized(graph, stepped)
            self.specialized[key] = found
        return found

    def _holds(self) -> bool:
        """Whether the modules that were traced through are as they were then."""
        if _has_any_global_hook():
            return False
        looks = None if torch.compiler.is_compiling() else self._looks()
        if looks is not None and steps.unchanged(looks):
            return True
        watch = self.watch
        if watch is not None and (watch.names is None or watch.outside is None):
            if torch.compiler.is_compiling():
                return False
            self.watch = watch = self._watch_anew()
            self.looks.clear()
        if watch is None or not watch.holds():
            return False
        if self.by_mode and any(m.training != self.module.training for m in self.moded):
            return False
        return not any(map(hooked, self.inner))

    def _looks(self) -> steps.State | None:
        """Entries for `steps.unchanged`, by which `_holds` sees in one call that all is as it was;
        None where it has to look itself."""
        training = self.module.training
        if training not in self.looks:
            found = None if self.watch is None else entries(self.watch, self.inner)
            if found is not None and self.by_mode:
                found += in_mode(self.moded, training)
            self.looks[training] = found
        return self.looks[training]

    def _watch_anew(self) -> Watch | None:
        """For a plan that was pickled: what stands outside of its module is another process's.

        None, where the module would be traced to something else there.
        """
        planned = [vars(m) for m in self.module.modules() if plan_of(m) is not None]
        forwards = [(own, own.pop("forward")) for own in planned if "forward" in own]
        try:
            traced = trace(self.module)
        except Untraceable:
            return None
        finally:
            for own, forward in forwards:
                own["forward"] = forward
        return traced.watch if traced.code == self.code else None


def _serves(args: tuple[Any, ...]) -> bool:
    """Whether a plan answers to such arguments at all."""
    return all(isinstance(x, Tensor) and not x.is_meta for x in args)


def _kind(training: bool, args: tuple[Tensor, ...]) -> Hashable:
    """What of a call its answer depends on, beside the module."""
    kind = native.WITH_AUTOGRAD.call_kind(training, Setting.state, args)
    return kind or (training, *map(kind_of, args), *kind_of_call())


_KEY = "_fusion_plan"
_SCRIPTED = "__prepare_scriptable__"


def plan_of(module: nn.Module) -> Plan | None:
    plan: Plan | None = vars(module).get(_KEY)
    return plan


def uninstall(module: nn.Module) -> None:
    """Gives a module its own forward back; one that somebody wrapped since then calls that."""
    own = vars(module)
    own.pop(_KEY, None)
    own.pop(_SCRIPTED, None)
    own.pop("fusion_report", None)
    code = getattr(own.get("forward"), "__code__", None)
    if code is _forward(nn.Module).__code__:
        del own["forward"]


def _forward(kind: type[nn.Module]) -> Any:
    """The forward of modules of a class that may have a plan; what it is called like is its own."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plan = self.__dict__.get(_KEY)
        if plan is None:
            return type(self).forward(self, *args, **kwargs)
        return plan.answer(args, kwargs)

    own: Any = kind.forward
    forward.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
    forward.__doc__, forward.__module__ = own.__doc__, own.__module__
    forward.__qualname__ = getattr(own, "__qualname__", "forward")
    return forward


class _ItsOwnForwards:
    """What `torch.jit.script` asks a module for: a copy to compile, here one without plans, whose
    parameters and buffers are the module's own."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> nn.Module:
        copy = sharing(self.module)
        for part in copy.modules():
            uninstall(part)
        return copy


def _is_plain(graph: fx.GraphModule) -> bool:
    """Whether all blocks ran as the layers they are made of."""
    return all(form.plain for chain in chains_of(graph) for form in chain.planned.last or ())


def _its_own(*_: Any) -> Any:
    """Stands for the forward of a module's class, which a plan calls in its place."""
    raise NotImplementedError("a plan calls the forward of its module's class itself")


ITS_OWN = Specialized(_its_own, ())


class _Running:
    """Whether a plan's module runs its own forward, in which no call is for the plans within."""

    plainly = False


def link(plans: list[Plan]) -> None:
    """Tells each plan, the outermost first, of those whose traces went through its module."""
    for plan in plans:
        for other in plans:
            if plan.module in other.inner:
                plan.around.append(other.running)


def make_plan(
    module: nn.Module, prefix: str, chosen: Choice, written: Written
) -> tuple[Plan | None, list[Block], list[nn.Module]]:
    """(the plan, if there is anything to fuse; the blocks found; the modules traced through).

    Args:
        prefix: the module's own name, for those of the blocks.
        written: as found in the graphs of larger modules; is added to.

    Raises:
        Untraceable: its forward is.
    """
    traced = trace(module)
    training, blocks = fused_graph(traced.graphs[True], module, prefix, chosen, written)
    evaluation = training
    if traced.graphs[False] is not traced.graphs[True]:
        graph = traced.graphs[False]
        evaluation, _ = fused_graph(graph, module, prefix, chosen, written)
    if training is None or evaluation is None:
        return None, blocks, traced.containers
    return Plan(module, traced, {True: training, False: evaluation}), blocks, traced.containers
