"""Launches of a kernel that differ in their tensors alone.

At each launch Triton binds all arguments, works out what of them the compiled code depends on and
looks that code up: with some 30 arguments several times as long as the launch itself. Here it does
so once for each kind of the tensors that may come in several; after that the compiled kernel is
launched as it is. What else the code depends on stays as it is: the values by name, of which none
is specialised on, and the tensors that a launcher allocates, which are aligned as all of torch's.
"""

from typing import Any

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

    Attributes:
        compiled: by the kind of those, what launches the kernel.
    """

    def __init__(
        self, kernel: Any, grid: tuple[int], named: dict[str, Any], varying: tuple[int, ...]
    ) -> None:
        self._kernel, self._grid, self._named, self._varying = kernel, grid, named, varying
        self.compiled: dict[tuple[object, ...], Any] = {}
        self._last: tuple[object, ...] = ()  # arguments by name, in the kernel's order

    def __call__(self, *args: Any) -> None:
        """args: the kernel's first arguments, by place."""
        # Of each varying tensor its dtype, and whether it begins at whole 16 bytes.
        kind = tuple([
            None if (t := args[i]) is None else (t.dtype,) if t.data_ptr() & 15 else t.dtype
            for i in self._varying
        ])  # fmt: skip
        launch = self.compiled.get(kind)
        # Whoever replaced Triton's door wants to see the launch.
        if launch is not None and JITFunction.run is _RUN:
            launch(*args, *self._last)
        else:
            self.by_triton(kind, args)

    def by_triton(self, kind: tuple[object, ...], args: tuple[Any, ...]) -> None:
        """Launches by Triton's door, and keeps for tensors of a kind what it compiled."""
        compiled = self._kernel[self._grid](*args, **self._named)
        if isinstance(compiled, CompiledKernel) and triton.__version__.startswith(KNOWN):
            self._last = tuple(self._named[name] for name in self._kernel.arg_names[len(args) :])
            self.compiled[kind] = compiled[(*self._grid, 1, 1)]
