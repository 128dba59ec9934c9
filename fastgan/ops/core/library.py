"""The `fastgan` operator namespace: how an operator is defined, differentiated and called.

A derivative that is registered as a backward alone says nothing to forward-mode differentiation,
which drops tangents without a word, and to torch.func. Under those an operator is its composition:
the same in PyTorch's own operators, differentiable in any mode and batched by vmap.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from operator import attrgetter
from typing import Any, Generic

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from fastgan.ops.core import dispatch
from fastgan.ops.core.arguments import A, build, flat, names, schema, schema_types
from fastgan.ops.core.tensors import own_output

Needs = AbstractSet[str]  # the arguments whose gradients are asked for
Gradients = dict[str, Tensor | None]  # by argument; what is not asked for may be there, too


class _Library(torch.library.Library):
    """Has the composition run where an operator's kernel for autograd would lose a tangent."""

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        if dispatch_key == "Autograd":
            fn = _OPERATORS[op_name].transformable(fn)
        super().impl(op_name, fn, dispatch_key, **options)


# It must live as long as its operators.
LIBRARY = _Library("fastgan", "FRAGMENT")
_OPERATORS: dict[str, Operator[Any]] = {}


class Operator(Generic[A]):
    """An operator, called with its arguments and a backend.

    A plain eager call goes straight to the kernels, with the derivative as an `autograd.Function`:
    the dispatcher's takes several times as long.
    """

    def __init__(
        self,
        name: str,
        kind: type[A],
        returns: str,
        *,
        check: Callable[[A], None],
        run: Callable[[A, str], Any],
        fake: Callable[[A], Any],
        composition: Callable[[A], Any] | None = None,
        eager: Callable[[A, str], Any] | None = None,
    ) -> None:
        """check refuses arguments by which a kernel would read beyond its memory; public functions
        check theirs themselves. fake makes outputs without values. eager: `run` of plain calls,
        if another; it may give None for outputs that the caller does not read.
        """
        self.name, self.kind, self.run = name, kind, eager or run
        self.composition = composition
        self.names = names(kind)
        tensors = {path: of.startswith("Tensor") for path, of in schema_types(kind).items()}
        self.tensors = attrgetter(*(path for path, is_tensor in tensors.items() if is_tensor))
        self.tensor_names = [
            n for n, is_tensor in zip(self.names, tensors.values(), strict=True) if is_tensor
        ]

        def call(*given: Any) -> Any:
            *values, backend = given
            arguments = build(kind, values)
            check(arguments)
            return run(arguments, backend)

        def call_fake(*given: Any) -> Any:
            *values, _ = given
            return fake(build(kind, values))

        LIBRARY.define(
            f"{name}({schema(kind)}, str backend) -> {returns}",
            tags=(torch.Tag.pt2_compliant_tag,),
        )
        LIBRARY.impl(name, call, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastgan::{name}", call_fake, lib=LIBRARY)
        self.overload = getattr(torch.ops.fastgan, name).default
        _OPERATORS[name] = self

    def __call__(
        self,
        arguments: A,
        backend: str,
        is_eager: bool | None = None,
    ) -> Any:
        """A backend asked for by name is given to the operator, which vmap then calls for each
        sample, and which refuses to be differentiated by a transform.

        Args:
            is_eager: `dispatch.is_eager` of the tensors, where the caller knows it.
        """
        if is_eager is None:  # the compiler cannot trace `tensors`
            compiling = torch.compiler.is_compiling()
            is_eager = not compiling and dispatch.is_eager(*self.tensors(arguments))
        if is_eager:
            if torch.is_grad_enabled():
                tensors = self.tensors(arguments)
                for t in tensors:
                    if t is not None and t.requires_grad:
                        beside: list[Any] = []
                        first = _apply(*tensors, self, arguments, backend, beside)
                        return (first, *beside) if beside else first
            return self.run(arguments, backend)
        if self.composition is not None and dispatch.is_composite(backend):
            return self.composition(arguments)
        return self.overload(*flat(arguments), backend)

    def differentiate(
        self,
        save: Callable[[Any, A, str, Any], None],
        backward: Callable[..., Gradients],
        asks_engine: bool = False,
        first_alone: bool = False,
    ) -> None:
        """Derivatives by a formula: save(ctx, arguments, backend, outputs) keeps what
        backward(ctx, needs, *gradients) reads; a gradient of zeros may be None. asks_engine: leave
        out what a backward does not go on to, which takes longer to find out than a norm's sums.
        first_alone: of several outputs the first alone has a gradient.
        """
        self.save, self.backward, self.asks_engine = save, backward, asks_engine
        self.first_alone = first_alone

        def save_flat(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *values, backend = inputs
            ctx.set_materialize_grads(False)
            save(ctx, build(self.kind, values), backend, output)

        def backward_flat(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            needed = zip(self.names, ctx.needs_input_grad, strict=False)
            needs = {name for name, need in needed if need}
            found = self.backward(ctx, needs, *gradients)
            return (*[found.get(name) if name in needs else None for name in self.names], None)

        torch.library.register_autograd(
            f"fastgan::{self.name}", backward_flat, setup_context=save_flat, lib=LIBRARY
        )

    def transformable(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """A kernel for autograd, but under a transform the composition."""

        def call(keyset: Any, *args: Any) -> Any:
            if not (dispatch.is_transformed() and _is_differentiated(args)):
                return kernel(keyset, *args)
            *values, backend = args
            if not dispatch.is_composite(backend):
                raise RuntimeError(
                    f"backend {backend!r} cannot run: forward-mode differentiation and the "
                    "transforms of torch.func run on reference"
                )
            assert self.composition is not None
            return self.composition(build(self.kind, values))

        return call


def _is_differentiated(args: tuple[Any, ...]) -> bool:
    """Whether a transform differentiates a call, or a tangent comes with it."""
    return torch._C._are_functorch_transforms_active() or any(
        isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args
    )


class _Eager(Function):
    """A plain eager call, of the operator's tensors, the operator, its arguments, a backend, and a
    list for the outputs that have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        *tensors, operator, arguments, backend, beside = args
        ctx.operator = operator
        ctx.given = [i for i, t in enumerate(tensors) if t is not None]
        ctx.set_materialize_grads(False)
        output = operator.run(arguments, backend)
        if isinstance(output, tuple):
            output = tuple([t if t is None else own_output(t) for t in output])
        else:
            output = own_output(output)
        operator.save(ctx, arguments, backend, output)
        if not operator.first_alone:
            return output
        first, *rest = output
        beside += rest
        return first

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        operator, needed, needs = ctx.operator, ctx.needs_input_grad, set()
        for i, (node, _) in zip(ctx.given, ctx.next_functions, strict=True):
            if needed[i] and not (operator.asks_engine and not will_run(node)):
                needs.add(operator.tensor_names[i])
        found = operator.backward(ctx, needs, *gradients)
        return (
            *[found.get(n) if n in needs else None for n in operator.tensor_names],
            *_NO_TENSORS,
        )


_NO_TENSORS = None, None, None, None  # the operator, its arguments, the backend, the list


def plain_apply(function: type[Function]) -> Callable[..., Any]:
    """`apply` of a function for plain eager calls alone, in two thirds of its time: without asking
    for transforms, of which there are none.
    """
    applied: Callable[..., Any] = super(Function, function).apply  # type: ignore[misc]
    return applied


_apply = plain_apply(_Eager)


def will_run(node: Any) -> bool:
    """Whether this backward goes on to `node`: `torch.autograd.grad` of other inputs does not."""
    try:
        found: bool = torch._C._will_engine_execute_node(node)
        return found
    except RuntimeError:  # a leaf that the gradient is asked of
        return True


def keep(ctx: Any, arguments: tuple[Any, ...]) -> None:
    """Saves all of an operator's arguments for `kept`."""
    values = flat(arguments)
    ctx.save_for_backward(*(v if isinstance(v, Tensor) else None for v in values))
    ctx.kept = type(arguments), [None if isinstance(v, Tensor) else v for v in values]


def kept(ctx: Any) -> Any:
    kind, rest = ctx.kept
    pairs = zip(ctx.saved_tensors, rest, strict=True)
    return build(kind, [v if t is None else t for t, v in pairs])
