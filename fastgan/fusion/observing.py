"""Watches the Python that runs while a forward is traced: calls, attributes of modules, tensors."""

from __future__ import annotations

import dis
import functools
import gc
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fastgan.fusion.code import reads, why_undecidable
from fastgan.fusion.purity import is_observed, is_of_torch, of_observed, why_impure, why_impure_call
from fastgan.fusion.watching import Unwatchable, Watch


class Observer:
    """Sees what a traced forward does besides calling its inputs, and stops what it must not do.

    Attributes:
        modules: those whose forwards run, the innermost last.
        offence: the first of them that did what no trace can show, and what that was; known also
            where the code itself caught the error.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.modules: list[nn.Module] = []
        self.offence: tuple[nn.Module, str] | None = None
        self._on = False
        self._calls: list[tuple[types.FrameType, Any]] = []  # of C, from code that is observed
        self._entered: dict[int, types.CodeType] = {}
        self._within: dict[int, types.CodeType] = {}  # code that stands in other code

    def offend(self, reason: str) -> NoReturn:
        if self.offence is None:
            self.offence = (self.modules[-1], reason)
        raise fx.proxy.TraceError(reason)

    def calling(self, frame: types.FrameType) -> Any:
        """The C function that a frame is calling, if it is seen to."""
        return self._calls[-1][1] if self._calls and self._calls[-1][0] is frame else None

    def is_recording(self, frame: types.FrameType) -> bool:
        """Whether a frame is in an operator, or a call of torch's: they ask for types, too."""
        function = self.calling(frame)
        if function is not None:
            return is_of_torch(function)
        operation = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        return operation.startswith(("BINARY_", "COMPARE_", "INPLACE_", "UNARY_", "STORE_SUBSCR"))

    @contextmanager
    def observing(self) -> Iterator[None]:
        before, collecting = sys.getprofile(), gc.isenabled()
        gc.disable()  # what is collected may run code of its own
        nn.Module.__getattribute__ = self._reading()  # type: ignore[method-assign,assignment]
        try:
            with _Concrete(self):
                yield
        finally:
            sys.setprofile(before)
            del nn.Module.__getattribute__
            if collecting:
                gc.enable()

    def seen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, observed as it runs."""

        @functools.wraps(function)
        def observed(*args: Any, **kwargs: Any) -> Any:
            return self._switched(True, function, args, kwargs)

        return observed

    def unseen(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of a function that runs no code of the model, or does so by a `seen` one."""
        return self._switched(False, function, args, kwargs)

    def _switched(self, on: bool, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before, self._on = self._on, on
        sys.setprofile(self._see if on else None)
        try:
            return function(*args, **kwargs)
        finally:
            self._on = before
            sys.setprofile(self._see if before else None)

    def begin(self, module: nn.Module) -> None:
        """The forward of a module begins."""
        self.modules.append(module)
        self.watch.reader = module
        self.watch.add(module)
        self._try(self.watch.add, type(module).forward, True)

    def end(self) -> None:
        self.modules.pop()
        self.watch.reader = self.modules[-1] if self.modules else None

    def _see(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "return":
            return
        if event == "call":
            if of_observed(frame):
                self._enter(frame)
            elif frame.f_back is not None and of_observed(frame.f_back):
                self._refuse(why_impure_call(frame))
        elif event == "c_call":
            if of_observed(frame):
                self._calls.append((frame, argument))
                self._refuse(why_impure(argument))
        elif self.calling(frame) is not None:
            self._calls.pop()

    def _refuse(self, reason: str | None) -> None:
        if reason is not None:
            self.offend(reason)

    def _enter(self, frame: types.FrameType) -> None:
        code = frame.f_code
        if id(code) in self._entered:
            return
        self._entered[id(code)] = code
        within = (c for c in code.co_consts if isinstance(c, types.CodeType))
        self._within.update((id(c), c) for c in within)
        self._refuse(why_undecidable(frame))
        if not self._is_known(code):
            self._find(frame)
        for holder, name, value in self._try(reads, frame):
            watched = holder is not None and is_observed(holder.__name__)
            if watched and not isinstance(value, types.ModuleType):
                self.watch.name(holder, name, value)
            if value is type:  # that of a module, as `why_undecidable` has it
                for local in frame.f_locals.values():
                    if isinstance(local, nn.Module):
                        self._try(self.watch.add, type(local), True)
            elif not isinstance(value, types.ModuleType):
                self._try(self.watch.add, value, True)

    def _is_known(self, code: types.CodeType) -> bool:
        return id(code) in self._within or id(code) in self.watch.functions

    def _find(self, frame: types.FrameType) -> None:
        """Watches the method that a frame runs, which was reached past its object: by `super()`."""
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
        kind = first if isinstance(first, type) else type(first)
        for parent in kind.__mro__:
            found = vars(parent).get(code.co_name)
            self._try(self.watch.add, found, True)
            if self._is_known(code):
                return
        self.offend(f"it calls {code.co_name} in a way that is not understood")

    def _reading(self) -> Callable[[nn.Module, str], Any]:
        thread, get, caller = threading.get_ident(), object.__getattribute__, sys._getframe

        def __getattribute__(module: nn.Module, name: str) -> Any:
            if self._on and of_observed(caller(1)) and threading.get_ident() == thread:
                self.unseen(self._read, module, name)
            return get(module, name)

        return __getattribute__

    def _read(self, module: nn.Module, name: str) -> None:
        if name == "__dict__":
            self.offend("it reads the dictionary of a module")
        self._try(self.watch.read, module, name)

    def _try(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Unwatchable as error:
            self.offend(str(error))


class _Concrete(TorchFunctionMode):
    """Refuses operations on tensors alone: their results would be constants of the graph."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = (kwargs or {}, args)
        stood_for = any(issubclass(kind, fx.Proxy) for kind in types)
        if not stood_for and self.observer.unseen(_is_alone, sys._getframe(1), given):
            self.observer.offend("it computes with tensors that do not come from its input")
        return func(*args, **(kwargs or {}))


def _is_alone(frame: types.FrameType, given: Any) -> bool:
    if not of_observed(frame):
        return False
    return not any(issubclass(type(value), fx.Proxy) for value in tree_leaves(given))
