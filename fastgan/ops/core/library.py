"""The `fastgan` operator namespace, and what function transforms see of it.

A derivative that is registered as a backward alone says nothing to forward-mode differentiation,
which drops tangents without a word, and to torch.func. Under those an operator is its composition:
the same in PyTorch's own operators, differentiable in any mode and batched by vmap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastgan.ops.core import dispatch

Composition = Callable[..., Any]  # takes an operator's arguments but the last one, the backend

_compositions: dict[str, Composition] = {}


class _Library(torch.library.Library):
    """Has the composition run where an operator's kernel for autograd would lose a tangent."""

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        if dispatch_key == "Autograd":
            fn = _transformable(fn, _compositions[op_name])
        super().impl(op_name, fn, dispatch_key, **options)


# It must live as long as its operators.
LIBRARY = _Library("fastgan", "FRAGMENT")


def define(schema: str) -> None:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def register_autograd(
    name: str, backward: Callable[..., Any], save: Callable[..., None], composition: Composition
) -> None:
    """Derivatives of an operator: backward by its formula, everything else by its composition."""
    _compositions[name] = composition
    torch.library.register_autograd(f"fastgan::{name}", backward, setup_context=save, lib=LIBRARY)


def operator(name: str, composition: Composition) -> Callable[..., Any]:
    """What calls an operator, or under a transform its composition.

    A backend asked for by name is given to the operator, which vmap then calls for each sample, and
    which refuses to be differentiated by a transform.
    """
    op = getattr(torch.ops.fastgan, name).default

    def call(*args: Any) -> Any:
        return composition(*args[:-1]) if dispatch.is_composed(args[-1]) else op(*args)

    return call


def _transformable(kernel: Callable[..., Any], composition: Composition) -> Callable[..., Any]:
    def call(keyset: Any, *args: Any) -> Any:
        if not (dispatch.is_transformed() and _is_differentiated(args)):
            return kernel(keyset, *args)
        if not dispatch.is_composed(args[-1]):
            raise RuntimeError(
                f"backend {args[-1]!r} cannot run: forward-mode differentiation and the transforms "
                "of torch.func run on reference"
            )
        return composition(*args[:-1])

    return call


def _is_differentiated(args: tuple[Any, ...]) -> bool:
    """Whether a transform differentiates a call, or a tangent comes with it."""
    return torch._C._are_functorch_transforms_active() or any(
        isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args
    )
