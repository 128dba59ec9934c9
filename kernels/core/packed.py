"""Packed copies of convolution weights, kept while a scope is open: `packed_weights`.

A copy is made of a weight, so it may be used for as long as the weight is what it was. That is seen
by the tensor (a view counts as what it is a view of), its version, which in-place operations raise,
and where and how its memory lies, which `weight.data = ...` changes. Fused optimizers raise no
version (`torch.optim.Adam(fused=True)`): copies of an optimizer's parameters go with its step, and
all copies with that of an optimizer that has none of them.

A copy is also bound to the stream that made it, and to the CUDA graph: a graph that used a copy
from outside would replay with the weights of its capture, so a scope keeps copies only for launches
that are captured, or not, as its own beginning was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary


class _Copies(NamedTuple):
    """Of one version of a weight. With each copy the memory it was made of: while that is held, no
    other weight can come to lie at its address.
    """

    version: int
    made: dict[Hashable, tuple[torch.UntypedStorage, Tensor]]


class PackedWeights:
    """The copies of one scope; see `packed_weights`."""

    def __init__(self, check: bool) -> None:
        self._check = check
        self._captured = _is_captured()
        # By identity and weakly: a weight that is made anew for each use takes its copies along.
        self._of: Any = WeakIdKeyDictionary()

    def forget(self, weight: Tensor | None = None) -> None:
        """Drops the copies of a weight, or all: after a write that leaves no trace in it."""
        if weight is None:
            self._of.clear()
        else:
            self._of.pop(_owner(weight), None)

    def _forget_parameters(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not len(self._of):  # as on a CPU, where this is what it costs
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        known = [p for p in parameters if _owner(p) in self._of]
        for parameter in known:
            self.forget(parameter)
        if not known:  # its parameters may be masters or shards of the weights here
            self.forget()

    def get(self, weight: Tensor, kind: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, a copy of the ``kind``, or gave before."""
        # Inference tensors count no versions.
        if weight.is_inference() or self._captured != _is_captured():
            return make()
        owner = _owner(weight)
        copies = self._of.get(owner)
        if copies is None or copies.version != owner._version:
            copies = self._of[owner] = _Copies(owner._version, {})
        stream = torch.cuda.current_stream(weight.device).cuda_stream if weight.is_cuda else 0
        lies = weight.data_ptr(), weight.shape, weight.stride(), weight.dtype
        key = (lies, stream, kind)
        if key not in copies.made:
            copies.made[key] = weight.untyped_storage(), make()
        elif self._check and not _same_bits(copies.made[key][1], make()):
            raise RuntimeError(
                f"packed_weights: a weight of shape {tuple(weight.shape)} was written without a "
                "trace (by .data, NumPy, another library's kernel?): call forget() after the write"
            )
        return copies.made[key][1]


_open: list[PackedWeights] = []
_call = threading.local()


@contextmanager
def packed_weights(*, check: bool = False) -> Iterator[PackedWeights]:
    """Inside, a convolution weight is packed once, and again only after it has changed.

    >>> with fastgan.ops.packed_weights():      # or @packed_weights() on a step
    ...     loss(model(x)).backward()
    ...     optimizer.step()

    Triton's `conv_block` reads weights packed in an order of its own. Outside, every call packs for
    itself; inside, calls share copies until the scope ends, when all are dropped. Results are the
    same bits. The scope belongs to the process, since backward runs in threads of its own; of
    nested scopes the innermost counts, and scopes may end in any order. A scope that opens while a
    CUDA graph is captured has to close before the capture ends; one that was open before is not
    used in the capture. Calls that were compiled, exported or transformed pack for themselves.

    A change is noticed where it is an in-place operation, a step of a `torch.optim` optimizer, a
    `load_state_dict` or another tensor, `weight.data = ...` among them. A write that PyTorch does
    not count is not: into `weight.data`, by `torch.distributed`, NumPy or DLPack, by another
    library's kernel, by the replay of a CUDA graph. After one call `forget()` of what the scope
    gives. check: every use of a copy is compared with a new one, and differing raises RuntimeError;
    the host waits for it, so not for captures.
    """
    scope = PackedWeights(check)
    hook = register_optimizer_step_post_hook(scope._forget_parameters)
    _open.append(scope)
    try:
        yield scope
    finally:
        _open.remove(scope)
        hook.remove()
        scope.forget()


class _EagerCall:
    def __enter__(self) -> None:
        _call.depth = getattr(_call, "depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        _call.depth -= 1


_EAGER = _EagerCall()


def eager_call() -> AbstractContextManager[None]:
    """Inside, launches of this thread are those of a plain eager call: `kept` may keep for them.

    In a compiled graph a weight may change between two calls with neither trace nor hook.
    """
    return _EAGER


def is_keeping() -> bool:
    """Whether a scope is open, so that it matters whether a call is an eager one."""
    return bool(_open)


def kept(weight: Tensor, kind: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """`make()`, a copy of ``weight`` of some ``kind``, or the one that the open scope has kept."""
    scope = next(reversed(_open), None) if getattr(_call, "depth", 0) else None
    return make() if scope is None else scope.get(weight, kind, make)


def _owner(weight: Tensor) -> Tensor:
    return weight if weight._base is None else weight._base


def _is_captured() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
