"""Second derivatives of ATen's convolutions by one call each, of any number of groups.

PyTorch's `_convolution_double_backward` makes a call for each group, and turns and copies operands
on its way. A convolution y = C(x, W) and its gradients are three forms of one trilinear product:
with v and w cotangents of the gradients X(dy, W) of x and V(dy, x) of W,

    <dy, C(v, W) + C(x, w)> = <v, X(dy, W)> + <w, V(dy, x)>

so that the gradient of dy is C(v, W) + C(x, w), that of x is X(dy, w) and that of W is V(dy, v):
calls of the same library again, which these Functions differentiate to any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from fastgan.ops.core import dispatch
from fastgan.ops.core.library import will_run
from fastgan.ops.core.tensors import autocast_to

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
Needs = tuple[bool, bool, bool]


class Arguments(NamedTuple):
    """What `aten::convolution` takes beside tensors: numbers for each spatial dimension."""

    stride: Any
    padding: Any
    dilation: Any
    transposed: bool
    output_padding: Any
    groups: int


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, arguments: Arguments) -> Tensor:
    """`torch.convolution`, x (N, C_in, *), of one dtype."""
    y: Tensor
    if dispatch.is_eager(x, weight, bias):
        y = _Convolution.apply(x, weight, bias, arguments)
    else:  # something is to see PyTorch's own operator: a transform, forward mode, a compiler
        y = torch.ops.aten.convolution(x, weight, bias, *arguments)
    return y


def gradients(
    dy: Tensor, x: Tensor, weight: Tensor, arguments: Arguments, needs: Needs
) -> Gradients:
    """`aten::convolution_backward`: of x, weight and bias, None where it is not needed."""
    if dispatch.is_eager(dy, x, weight):
        found: Gradients = _Gradients.apply(dy, x, weight, arguments, needs)
        return found
    return _gradients(dy, x, weight, arguments, needs)


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, arguments: Arguments, needs: Needs
) -> Gradients:
    sizes = [dy.shape[1]] if needs[2] else None
    found: Gradients = torch.ops.aten.convolution_backward(dy, x, weight, sizes, *arguments, needs)
    return found


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, arguments: Arguments
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.arguments = arguments
        y: Tensor = torch.ops.aten.convolution(x, weight, bias, *arguments)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *gradients(dy, x, weight, ctx.arguments, _needs(ctx)), None


class _Gradients(Function):
    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, weight: Tensor, arguments: Arguments, needs: Needs
    ) -> Gradients:
        ctx.save_for_backward(dy, x, weight)
        ctx.arguments = arguments
        ctx.set_materialize_grads(False)
        return _gradients(dy, x, weight, arguments, needs)

    @staticmethod
    def backward(
        ctx: Any, v: Tensor | None, w: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (dy, x, weight), arguments = ctx.saved_tensors, ctx.arguments
        of_dy, of_x, of_weight = _needs(ctx)
        terms, g_x, g_weight = [], None, None
        if of_dy and v is not None:
            terms.append(convolution(v, weight, None, arguments))
        if of_dy and w is not None:
            terms.append(convolution(x, w, None, arguments))
        if of_dy and b is not None:
            terms.append(b.reshape(-1, *(1,) * (dy.dim() - 2)).expand_as(dy))
        if of_x and w is not None:
            g_x = gradients(dy, x, w, arguments, (True, False, False))[0]
        if of_weight and v is not None:
            g_weight = gradients(dy, v, weight, arguments, (False, True, False))[1]
        g_dy = sum(terms[1:], terms[0]) if terms else None
        return g_dy, g_x, g_weight, None, None


def _needs(ctx: Any) -> Needs:
    """Which of the first three arguments this backward is to give gradients of."""
    # Only tensors have a node here; a bias may be None, which is the third.
    asked = zip(ctx.needs_input_grad, ctx.next_functions, strict=False)
    first, second, *third = (needed and will_run(node) for needed, (node, _) in asked)
    return first, second, any(third)


class differentiated_twice(TorchFunctionMode):
    """Within, the convolutions of `torch.nn` are those of this file.

    For a forward pass whose gradient is itself differentiated. Convolutions that something else is
    to see (a compiler, a transform, a class of tensors) are left as they are.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _BOUND:
            call = _BOUND[func](*args, **kwargs)
            if _serves(*call):
                return _run(*call)
        return func(*args, **kwargs)


Call = tuple[Tensor, Tensor, Tensor | None, Arguments]


def _conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Call:
    return input, weight, bias, Arguments(stride, padding, dilation, False, 0, groups)


def _conv_transpose(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Call:
    return input, weight, bias, Arguments(stride, padding, dilation, True, output_padding, groups)


_BOUND: dict[Any, Callable[..., Call]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _conv),
    **dict.fromkeys(
        (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _conv_transpose
    ),
}


def _serves(x: Tensor, weight: Tensor, bias: Tensor | None, given: Arguments) -> bool:
    """Whether a convolution is not to stay PyTorch's; one without a batch is, and one padded by
    a name."""
    plain = dispatch.is_eager(x, weight, bias) and torch.is_grad_enabled()
    return plain and x.dim() == weight.dim() and not isinstance(given.padding, str)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, given: Arguments) -> Tensor:
    kind, dims = x.device.type, weight.dim() - 2
    lower = autocast_to(kind)
    if lower is not None and x.dtype is not torch.float64:
        x, weight = x.to(lower), weight.to(lower)
        bias = None if bias is None else bias.to(lower)
    stride, padding, dilation, output_padding = (
        (n,) * dims if isinstance(n, int) else n
        for n in (given.stride, given.padding, given.dilation, given.output_padding)
    )
    arguments = Arguments(stride, padding, dilation, given.transposed, output_padding, given.groups)
    with torch.autocast(kind, enabled=False):
        return convolution(x, weight, bias, arguments)
