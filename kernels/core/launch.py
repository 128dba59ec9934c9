"""Launches of a kernel that differ in their tensors alone.

At each launch Triton binds all arguments, works out what of them the compiled code depends on and
looks that code up: with some 30 arguments several times as long as the launch itself. Here it does
so once for each kind of the tensors that may come in several; after that the compiled kernel is
launched as it is. What else the code depends on stays as it is: the values by name, of which none
is specialised on, and the tensors that a launcher allocates, which are aligned as all of torch's.
"""

from typing import Any

import torch
import triton
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

# Of these versions it is known that a compiled kernel takes all of the kernel's arguments in order.
KNOWN = ("3.6", "3.7")
_RUN = JITFunction.run


class Launch:
    """A kernel on a grid, of one device.

    Args:
        named: what every launch takes by name, launch options among them.
        varying: places of the tensors that may be None, of several dtypes, or begin anywhere.
    """

    def __init__(
        self, kernel: Any, grid: tuple[int], named: dict[str, Any], varying: tuple[int, ...]
    ) -> None:
        self._kernel, self._grid, self._named, self._varying = kernel, grid, named, varying
        self._compiled: dict[tuple[object, ...], Any] = {}
        self._last: tuple[object, ...] = ()  # arguments by name, in the kernel's order

    def __call__(self, *args: Any) -> None:
        """args: the kernel's first arguments, by place."""
        # Whoever replaced Triton's door wants to see the launch.
        if self._compiled and JITFunction.run is _RUN:
            launch = self._compiled.get(self._kind(args))
            if launch is not None:
                launch(*args, *self._last)
                return
        compiled = self._kernel[self._grid](*args, **self._named)
        if isinstance(compiled, CompiledKernel) and triton.__version__.startswith(KNOWN):
            self._last = tuple(self._named[name] for name in self._kernel.arg_names[len(args) :])
            self._compiled[self._kind(args)] = compiled[(*self._grid, 1, 1)]

    def _kind(self, args: tuple[Any, ...]) -> tuple[object, ...]:
        return tuple([_kind(args[place]) for place in self._varying])


def _kind(t: torch.Tensor | None) -> object:
    return None if t is None else (t.dtype, t.data_ptr() & 15 == 0)
