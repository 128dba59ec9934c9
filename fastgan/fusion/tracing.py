"""Tracing a forward with torch.fx, and refusing where the trace would not tell the whole truth.

torch.fx records the operations that one run of `forward` makes. What it does not see (a random
number, a decision by Python's state, a value stored somewhere, an autograd or autocast region)
would be lost from the recorded graph in silence. So the run is observed: a forward is refused, with
the reason, where it does what is not known to be a function of its inputs, and what it read is
remembered, to notice when that changes. It runs again, from other random states and in other modes
of autograd, and must record the same.
"""

from __future__ import annotations

import inspect
import random
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fastgan.fusion.observing import Observer
from fastgan.fusion.proxies import StandIn
from fastgan.fusion.purity import is_observed
from fastgan.fusion.watching import Watch
from fastgan.nn.layers import hooked, layer_kind
from fastgan.nn.modes import in_mode
from fastgan.nn.runner import unfused


class Untraceable(Exception):
    """`module` cannot be traced; the message says why."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__(reason)
        self.module = module


class Trace:
    """The graph of a module's forward in training and in evaluation.

    Attributes:
        graphs: by `module.training`; one graph stands under both keys where they do not differ.
        containers: the modules whose forward was traced through, the root first.
        code: what the graphs record, in text.
        watch: the Python values that the forwards read.
        inputs: the names of the arguments, all of them without a default.
    """

    def __init__(self, root: nn.Module, opaque: set[nn.Module]) -> None:
        self.watch = Watch(root)
        self.containers: list[nn.Module] = []
        found = []
        with _untouched(root, self.watch):
            for training, otherwise in ((True, False), (True, True), (False, True)):
                with _circumstances(otherwise):
                    graph, containers, self.inputs = _trace(root, training, opaque, self.watch)
                found.append((_operations(graph), graph))
                self.containers += [m for m in containers if m not in self.containers]
        (code, graph), (again, _), (in_evaluation, other) = found
        if code != again:
            raise Untraceable(root, "cannot be traced: two runs of its forward differ")
        self.code = code[0], in_evaluation[0]
        self.graphs = {True: graph, False: graph if code == in_evaluation else other}


def trace(root: nn.Module) -> Trace:
    """Traces through everything in `root` that can be; Untraceable, if its own forward cannot.

    A submodule that cannot be, or that is called twice, is one operation of the graph.
    """
    opaque: set[nn.Module] = set()
    while True:
        try:
            return Trace(root, opaque)
        except _CalledTwice as again:
            opaque |= again.modules
        except Untraceable as error:
            if error.module is root:
                raise
            if error.module in opaque:  # so it was not its own forward that did it
                raise Untraceable(root, str(error)) from error
            opaque.add(error.module)


class _CalledTwice(Exception):
    def __init__(self, modules: set[nn.Module]) -> None:
        super().__init__()
        self.modules = modules


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, opaque: set[nn.Module], observer: Observer) -> None:
        super().__init__()
        self.opaque = opaque
        self.observer = observer
        self.containers: list[nn.Module] = []
        self.calls: Counter[nn.Module] = Counter()
        self.modes = _modes()
        self.inputs: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self.opaque or hooked(m) or layer_kind(m) or why_not_traced(m):
            return True
        if m.__module__.startswith("fastgan.nn"):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return self.observer.unseen(self._call_module, m, forward, args, kwargs)

    def _call_module(self, m: nn.Module, forward: Callable[..., Any], *given: Any) -> Any:
        if is_observed(type(m).__call__.__module__):
            self.observer.offend(f"the call of {type(m).__name__} does more than its forward")
        if self.is_leaf_module(m, ""):
            return super().call_module(m, forward, *given)
        self.calls[m] += 1
        with self.inside(m), _blaming(m):
            return super().call_module(m, self.observer.seen(forward), *given)

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """While the forward of a module runs, what is done is its doing."""
        self.containers.append(module)
        try:
            self.observer.begin(module)
            yield
        finally:
            self.observer.end()

    def create_proxy(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        if _modes() != self.modes:
            raise fx.proxy.TraceError("it switches gradients or autocast")
        return self.observer.unseen(super().create_proxy, kind, *args, **kwargs)

    def getattr(self, *args: Any) -> Any:
        return self.observer.unseen(super().getattr, *args)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return StandIn(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, fx.Proxy):
            known = [*self.root.parameters(), *self.root.buffers(), *self.tensor_attrs]
            if not any(a is t for t in known):
                raise fx.proxy.TraceError("it makes a tensor that does not come from its input")
        return super().create_arg(a)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Arguments with a default keep it: a call that gives one is not for this graph."""
        args: list[Any] = [self.root]
        for p in list(inspect.signature(root_fn).parameters.values())[1:]:
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise fx.proxy.TraceError(f"its forward takes {p}")
            if p.default is not p.empty:
                continue
            if p.kind is p.KEYWORD_ONLY:
                raise fx.proxy.TraceError(f"its forward needs the keyword {p.name}")
            self.inputs.append(p.name)
            args.append(self.create_proxy("placeholder", p.name, (), {}))

        return self.observer.seen(root_fn), args


def _trace(
    root: nn.Module, training: bool, opaque: set[nn.Module], watch: Watch
) -> tuple[fx.Graph, list[nn.Module], list[str]]:
    observer = Observer(watch)
    tracer = _Tracer(opaque, observer)
    reason = why_not_traced(root)
    if reason is not None:
        raise Untraceable(root, reason)
    try:
        with (
            in_mode(root, training), unfused(), _blaming(root), tracer.inside(root),
            observer.observing(),
        ):  # fmt: skip
            graph = tracer.trace(root)
    finally:  # whatever its own code made of the error
        if observer.offence is not None:
            module, reason = observer.offence
            raise Untraceable(module, f"cannot be traced: {reason}")
    twice = {m for m, n in tracer.calls.items() if n > 1}
    if twice:
        raise _CalledTwice(twice)
    return graph, tracer.containers, tracer.inputs


@contextmanager
def _blaming(module: nn.Module) -> Iterator[None]:
    """What goes wrong in here is `module`'s, unless a module within it was blamed already."""
    try:
        yield
    except (Untraceable, _CalledTwice):
        raise
    except Exception as error:  # whatever a forward may raise that is handed a stand-in
        raise Untraceable(module, f"cannot be traced: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0]


def _modes() -> tuple[bool, ...]:
    autocast = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast


def why_not_traced(module: nn.Module) -> str | None:
    """Why the forward of a module is not even tried; None where it is."""
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return "is a torch.jit.script module"
    if "forward" in vars(module):
        return "has a forward of its own, set on the instance"
    forward = type(module).forward
    if not isinstance(forward, types.FunctionType):
        return "has a forward that is no Python function"
    return None


def _state(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Everything that a forward could leave on a module, containers by a copy of their contents."""
    for name, value in vars(module).items():
        if name != "training":
            yield name, (value, _contents(value))


def _contents(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, set)) else None


@contextmanager
def _untouched(root: nn.Module, watch: Watch) -> Iterator[None]:
    """Puts back what the traced forwards changed of Python; Untraceable if they did."""
    before = [(m, dict(_state(m))) for m in root.modules()]
    try:
        yield
    finally:
        elsewhere = watch.put_back()
        changed = [(m, names) for m, state in before if (names := _put_back(m, state))]
    if changed:
        module, names = changed[0]
        stored = ", ".join(sorted(names))
        raise Untraceable(module, f"cannot be traced: its forward stores {stored} on the module")
    if elsewhere is not None:
        module, what = elsewhere
        raise Untraceable(module, f"cannot be traced: its forward changes {what}")


def _put_back(module: nn.Module, before: dict[str, Any]) -> set[str]:
    """The attributes that had changed."""
    changed = set(vars(module)) - set(before) - {"training"}
    for name in changed:
        del vars(module)[name]
    for name, (value, contents) in before.items():
        if vars(module).get(name) is not value:
            vars(module)[name] = value
            changed.add(name)
        elif _differs(_contents(value), contents):
            _restore(value, contents)
            changed.add(name)
    return changed


def _differs(now: list[Any] | None, old: list[Any] | None) -> bool:
    if now is None or old is None:
        return now is not old
    return len(now) != len(old) or any(a is not b for a, b in zip(now, old, strict=True))


def _restore(value: Any, contents: list[Any]) -> None:
    value.clear()
    if isinstance(value, list):
        value.extend(contents)
    elif isinstance(value, set):
        value.update(contents)
    else:
        half = len(contents) // 2
        value.update(zip(contents[:half], contents[half:], strict=True))


def _operations(graph: fx.Graph) -> tuple[str, list[Any]]:
    """The code, with the functions of which it has but the names."""
    return graph.python_code("self").src, [node.target for node in graph.nodes]


@contextmanager
def _circumstances(otherwise: bool) -> Iterator[None]:
    """Random numbers from a certain state, which is put back; `otherwise`, other modes, too."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=otherwise)
    with torch.random.fork_rng([]), torch.set_grad_enabled(not otherwise), autocast:
        for seed in (random.seed, np.random.seed, torch.default_generator.manual_seed):
            seed(int(otherwise))
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002
