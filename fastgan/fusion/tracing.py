"""Tracing a forward with torch.fx, and refusing where the trace would not tell the whole truth.

torch.fx records the operations that one run of `forward` makes. What it does not see (a decision
taken from Python state, a value stored on the module, an autograd or autocast region) would be
lost from the recorded graph in silence. So such a forward is refused with the reason, and
attributes that the run may have read are remembered, to notice when they change.
"""

from __future__ import annotations

import inspect
import operator
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastgan.nn.layers import hooked, layer_kind
from fastgan.nn.sequential import unfused

# Names in the code of a forward that tell the tracer's stand-ins from tensors, or whose effect the
# graph would not hold: it was decided once, while tracing.
_UNSEEN = {
    "autocast": "enters an autocast region",
    "bernoulli": "draws random numbers",
    "choice": "draws random numbers",
    "checkpoint": "recomputes activations",
    "enable_grad": "switches gradients",
    "inference_mode": "switches gradients",
    "isinstance": "asks for the type of a value",
    "is_autocast_enabled": "asks for autocast",
    "is_grad_enabled": "asks whether gradients are on",
    "is_tensor": "asks for the type of a value",
    "no_grad": "switches gradients",
    "rand": "draws random numbers",
    "randint": "draws random numbers",
    "randn": "draws random numbers",
    "random": "draws random numbers",
    "randperm": "draws random numbers",
    "set_grad_enabled": "switches gradients",
    "shuffle": "draws random numbers",
    "uniform": "draws random numbers",
}
_PLAIN = (bool, int, float, str, type(None), types.FunctionType, types.BuiltinFunctionType)


class Untraceable(Exception):
    """`module` cannot be traced; the message says why."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__(reason)
        self.module = module


class Trace:
    """The graph of a module's forward in training and in evaluation.

    graphs: by `module.training`; one graph stands under both keys where they do not differ.
    containers: the modules whose forward was traced through, the root first.
    watched: (container, {attribute: value}, {name: child}) of the plain values and children they
        held, by which their forwards may have decided.
    inputs: the names of the arguments, all of them without a default.
    """

    def __init__(self, root: nn.Module, opaque: set[nn.Module]) -> None:
        with _untouched(root):
            training, self.containers, self.inputs = _trace(root, True, opaque)
            evaluation, also, _ = _trace(root, False, opaque)
        self.containers += [m for m in also if m not in self.containers]
        if _code(training) == _code(evaluation):
            evaluation = training
        self.graphs = {True: training, False: evaluation}
        self.watched = [(m, plain_state(m), dict(m._modules)) for m in self.containers]


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
            opaque.add(error.module)


def plain_state(module: nn.Module) -> dict[str, Any]:
    """The attributes that a forward may have decided by."""
    return {k: v for k, v in vars(module).items() if _is_plain(v) and k not in _OWN}


_OWN = set(vars(nn.Module())) | {"forward", "fusion_report", "_fusion_plan"}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(v) for v in value)
    return isinstance(value, _PLAIN)


class _CalledTwice(Exception):
    def __init__(self, modules: set[nn.Module]) -> None:
        super().__init__()
        self.modules = modules


class _Proxy(fx.Proxy):
    """A stand-in that records `x += y` as what it is; torch.fx would record `x = x + y`.

    A value that is set on it (`x.data = y`) would be no operation of the graph.
    """

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _Attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HELD:
            raise fx.proxy.TraceError(f"its forward sets {name} of a value")
        super().__setattr__(name, value)


class _Attribute(_Proxy, fx.proxy.Attribute):
    """The same of `x.data` and other attributes."""


_HELD = {"attr", "node", "root", "tracer", "_node"}  # by the stand-ins themselves


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    setattr(_Proxy, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque
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
        if self.is_leaf_module(m, ""):
            return super().call_module(m, forward, args, kwargs)
        self.calls[m] += 1
        self.containers.append(m)
        with _blaming(m):
            return super().call_module(m, forward, args, kwargs)

    def create_proxy(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        if _modes() != self.modes:
            raise fx.proxy.TraceError("it switches gradients or autocast")
        return super().create_proxy(kind, *args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

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
        return root_fn, args


def _trace(
    root: nn.Module, training: bool, opaque: set[nn.Module]
) -> tuple[fx.Graph, list[nn.Module], list[str]]:
    tracer = _Tracer(opaque)
    reason = why_not_traced(root)
    if reason is not None:
        raise Untraceable(root, reason)
    with _mode(root, training), _blaming(root), unfused():
        graph = tracer.trace(root)
    twice = {m for m, n in tracer.calls.items() if n > 1}
    if twice:
        raise _CalledTwice(twice)
    return graph, [root, *tracer.containers], tracer.inputs


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


@contextmanager
def _mode(root: nn.Module, training: bool) -> Iterator[None]:
    before = [(m, m.training) for m in root.modules()]
    try:
        for m, _ in before:
            m.training = training
        yield
    finally:
        for m, flag in before:
            m.training = flag


def _modes() -> tuple[bool, ...]:
    autocast = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast


def why_not_traced(module: nn.Module) -> str | None:
    """Why the forward of a module is not even tried; None where it is."""
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return "is a torch.jit.script module"
    if "forward" in vars(module):
        return "has a forward of its own, set on the instance"
    forward = inspect.unwrap(type(module).forward)
    if not isinstance(forward, types.FunctionType):
        return "has a forward that is no Python function"
    for name in _names(forward.__code__, type(module), set()):
        if name in _UNSEEN:
            return f"cannot be traced: its forward {_UNSEEN[name]} ({name})"
    return None


def _names(code: types.CodeType, owner: type, seen: set[types.CodeType]) -> set[str]:
    """The names that a forward's code speaks of, with those of its class's methods it calls."""
    if code in seen:
        return set()
    seen.add(code)
    found = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= _names(inner, owner, seen)
    for name in code.co_names:
        method = inspect.getattr_static(owner, name, None)
        if isinstance(method, types.FunctionType) and not hasattr(nn.Module, name):
            found |= _names(method.__code__, owner, seen)
    return found


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
def _untouched(root: nn.Module) -> Iterator[None]:
    """Puts back what the traced forwards stored on their modules; Untraceable if they did."""
    before = [(m, dict(_state(m))) for m in root.modules()]
    try:
        yield
    finally:
        changed = [(m, names) for m, state in before if (names := _put_back(m, state))]
    if changed:
        module, names = changed[0]
        stored = ", ".join(sorted(names))
        raise Untraceable(module, f"cannot be traced: its forward stores {stored} on the module")


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


def _code(graph: fx.Graph) -> str:
    return graph.python_code("self").src
