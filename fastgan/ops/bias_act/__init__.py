"""bias_act: a bias per channel and an activation as one op."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops.bias_act import aten
from fastgan.ops.bias_act.arguments import Forward
from fastgan.ops.bias_act.autograd import FORWARD
from fastgan.ops.core import dispatch, native
from fastgan.ops.core.memory_format import dense
from fastgan.ops.core.tensors import activation_code, check_input, parameter


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """`act(x + bias)` in one op, with the bias of each channel.

    Shapes: x (N, C, *spatial) with 0 to 3 spatial dimensions, bias (C,) or None. Returns z of x's
    shape, dtype and memory layout (contiguous or channels-last; any other is copied to one).
    dtypes: x float32, bfloat16, float16 or float64; bias float32 (float64 for float64 x; that of a
    half-precision x may have its dtype and is converted). Arithmetic in float32.

    Args:
        activation, negative_slope: as norm_act's.

    Differentiable to any order in x and bias; saves its output alone, as `leaky_relu(inplace=True)`
    does: changed in place before backward it raises there, and changed through `data` it gives
    wrong gradients. The second order runs the same fused kernel as the first.

    Errors: TypeError, ValueError for a wrong dtype, shape, device, activation or slope;
    RuntimeError if the backend asked for cannot run.
    """
    code, slope = activation_code(activation, negative_slope)
    backend = dispatch.setting()
    z = _in_cpp(x, bias, code, slope, backend)
    if z is not None:
        return z
    check_input(x)
    x, bias = dense(x), parameter("bias", bias, x)
    z = _in_cpp(x, bias, code, slope, backend)
    if z is not None:
        return z
    is_eager = dispatch.is_eager(x, bias)
    if is_eager and dispatch.in_torch(backend, x.device.type):
        return aten.bias_act(x, bias, code, slope)
    return FORWARD(Forward(x, bias, code, slope), backend, is_eager)


def _in_cpp(x: Tensor, bias: Tensor | None, code: int, slope: float, backend: str) -> Tensor | None:
    """The op with its derivative in C++, or None where that does not serve these arguments."""
    if not dispatch.in_cpp(backend, x):
        return None
    z: Tensor | None = native.WITH_AUTOGRAD.bias_act(x, bias, code, slope, backend)
    return z
