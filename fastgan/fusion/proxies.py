"""Stand-ins for tensors: they record what is done with them, and refuse what they cannot tell."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from fastgan.fusion.purity import of_stand_ins

_HELD = {"attr", "node", "root", "tracer", "_node"}  # by the stand-ins themselves
# Of a tensor these may be None; a stand-in's never are.
_MAY_BE_NONE = {"_backward_hooks", "_base", "_grad", "_grad_fn", "grad", "grad_fn", "name"}
# What a stand-in has and a tensor has not, or another.
_STRANGE = (set(dir(fx.proxy.Attribute)) | _HELD) - set(dir(Tensor)) | {"__class__"}


class StandIn(fx.Proxy):
    """A stand-in that records `x += y` as what it is; torch.fx would record `x = x + y`.

    A value that is set on it (`x.data = y`) would be no operation of the graph. Its type, hash and
    text are not a tensor's: code that asks for them would decide by them.
    """

    def __hash__(self) -> int:
        self._refuse("it looks a value up by its hash")
        return object.__hash__(self)

    def __repr__(self) -> str:
        self._refuse("it writes a value as text")
        return super().__repr__()

    tracer: Any

    def __getattribute__(self, name: str) -> Any:
        if name in _STRANGE and not of_stand_ins(reader := sys._getframe(1)):
            observer = object.__getattribute__(self, "tracer").observer
            if name != "__class__":
                observer.offend(f"it asks whether a value has {name}")
            if not observer.is_recording(reader):  # by isinstance, `match`, singledispatch
                observer.offend("it asks for the type of a value")
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        reader = sys._getframe(1)
        if not of_stand_ins(reader):
            if self.tracer.observer.calling(reader) in (hasattr, getattr):
                self.tracer.observer.offend(f"it asks whether a value has {name}")
            if name in _MAY_BE_NONE:
                self.tracer.observer.offend(f"it asks for {name} of a value")
        return StandInAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HELD:
            self.tracer.observer.offend(f"its forward sets {name} of a value")
        super().__setattr__(name, value)

    def _refuse(self, reason: str) -> None:
        if not of_stand_ins(sys._getframe(2)):
            self.tracer.observer.offend(reason)


class StandInAttribute(StandIn, fx.proxy.Attribute):
    """The same of `x.data` and other attributes."""


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    setattr(StandIn, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))
