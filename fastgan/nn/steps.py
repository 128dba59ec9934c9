"""Layers of torch.nn on CPU tensors as functions.

A module's own call, and what its function makes of the arguments, take as long as the kernels of a
small layer. A step does what the layer's call does, by what the layer holds at the time, for as
long as `unchanged` says that it is the layer it was made of. Where C++ does not serve a call (a
tensor of another class, a transform, a mode that watches), the layer itself or the public op does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fastgan.nn.blocks import Block, described, per_dimension
from fastgan.nn.layers import HOOKS, is_plain_norm, layer_kind, why_not_layer
from fastgan.nn.norm_act import COUNTS, ActivatedNorm
from fastgan.ops import norm_act
from fastgan.ops.core import dispatch, native
from fastgan.ops.core.tensors import activation_code, stat_dtype
from fastgan.ops.norm_act_conv import Norm

Step = Callable[[Tensor], Tensor]
# (an object, None, its type), (a dictionary, a key, what it has there), or (a dictionary, ALL, one
# like it), again and again: see `unchanged`.
State = tuple[Any, ...]

ANY, SOME, NOTHING = Ellipsis, type(None), NotImplemented
ALL = Ellipsis  # for a key
_SETTINGS = {
    "conv": ("stride", "padding", "dilation", "output_padding", "groups", "padding_mode"),
    "norm": ("eps", "momentum", "track_running_stats"),
    "act": ("negative_slope", "inplace"),
}
_HELD: dict[str, dict[str, tuple[str, ...]]] = {
    "conv": {"_parameters": ("weight", "bias")},
    "norm": {
        "_parameters": ("weight", "bias"),
        "_buffers": ("running_mean", "running_var", "num_batches_tracked"),
    },
    "act": {},
}
_CONSTANT = (int, float, bool, str, tuple, type(None))


class Ready(NamedTuple):
    """A step, and what it relies on."""

    step: Step
    relies: State


def serve(x: Tensor) -> bool:
    """Whether steps are at hand for calls with x."""
    return x.is_cpu and dispatch.in_cpp(dispatch.setting(), x) and native.from_python()


def unchanged(states: State) -> bool:
    """Whether layers are as they were in `state_of`.

    An entry of a dictionary is as it was if it is its former value, or a constant that equals it;
    if it is there at all, of ANY; if it is and is not None, of SOME; if it is not, of NOTHING; if
    it is empty as well, of an empty dictionary. With ALL for a key, a dictionary is as it was if it
    holds the very objects that another does.
    """
    return not states or bool(native.WITH_AUTOGRAD.unchanged(states))


def state_of(layers: Iterable[nn.Module]) -> State | None:
    """What steps rely on of their layers; None of layers that are not for steps."""
    found: list[Any] = []
    for layer in layers:
        own, kind = vars(layer), layer_kind(layer)
        if kind not in _SETTINGS or why_not_layer(layer) is not None:
            return None
        found += (layer, None, type(layer), own, "forward", NOTHING)
        for name in HOOKS:
            found += (own, name, {})
        for name in _SETTINGS[kind]:
            value = own.get(name, NOTHING)
            if value is not NOTHING and type(value) not in _CONSTANT:
                return None
            found += (own, name, value)
        for holder, names in _HELD[kind].items():
            found += (own, holder, own[holder])
            for name in names:
                if name not in own[holder]:
                    return None
                found += (own[holder], name, ANY)
    return tuple(found)


Part = nn.Module | Ready


def of_block(block: Block, fused: int) -> list[Part] | None:
    """A block's layers by themselves, by steps where there are such.

    Args:
        fused: so many, from the first on, are for one op: None where that is no norm_act.
    """
    parts: list[Part] = [of_layer(layer) or layer for layer in block.children[fused:]]
    if fused == 0:
        return parts
    if fused != block.before_conv:
        return None
    if isinstance(block.norm, ActivatedNorm):  # itself, and its activation with it
        return [block.norm, *parts]
    norm = of_norm(block)
    return None if norm is None else [norm, *parts]


def together(parts: list[Part]) -> Ready:
    """Parts one after another."""
    calls = [part if isinstance(part, nn.Module) else part.step for part in parts]
    relies = [entry for part in parts if isinstance(part, Ready) for entry in part.relies]

    def step(x: Tensor) -> Tensor:
        for call in calls:
            x = call(x)
        return x

    return Ready(step, tuple(relies))


def of_norm(block: Block, like: Tensor | None = None) -> Ready | None:
    """The norm of a block and its activation.

    Args:
        like: x, or of its dtype: None also where the kernels would have to convert what the norm
            holds.
    """
    norm = block.norm
    if norm is None or not is_plain_norm(norm) or type(norm.momentum) is not float:
        return None
    assert isinstance(norm, _BatchNorm | _InstanceNorm)
    relies = state_of(block.children[: block.before_conv])
    if relies is None:
        return None
    if like is not None:
        held = norm.weight, norm.bias, norm.running_mean, norm.running_var
        if any(t is not None and t.dtype is not stat_dtype(like) for t in held):
            return None
    code, slope = activation_code(*block.before)
    run, own = native.WITH_AUTOGRAD.norm_layer, vars(norm)
    parameters, buffers = norm._parameters, norm._buffers
    instances, tracks = isinstance(norm, _InstanceNorm), norm.track_running_stats
    counted = tracks and not instances
    settings = norm.momentum, float(norm.eps), code, slope, block.order == "act_norm", "auto"

    def step(x: Tensor) -> Tensor:
        training = own["training"]
        waiting = COUNTS.items
        counts = counted and waiting is None
        z: Tensor | None = run(
            x, parameters, buffers, counts, instances, training, tracks, *settings
        )
        if z is None:
            return run_norm(block, x, block.norm_arguments(x, 1))
        if waiting is not None and counted and training:
            batches = buffers["num_batches_tracked"]
            waiting += [] if batches is None else [(batches, 1)]
        return z

    return Ready(step, relies)


def run_norm(block: Block, x: Tensor, norm: Norm | None) -> Tensor:
    """The norm of a block and its activation by the public op, with the norm's arguments."""
    assert norm is not None
    mean, var, weight, bias, training, momentum, eps, segments, average = norm
    activation, slope = block.before
    return norm_act(
        x, mean, var, weight, bias, training, momentum, eps, activation=activation,
        negative_slope=slope, segments=segments, order=block.order, average_segments=average,
    )  # fmt: skip


def of_layer(layer: nn.Module) -> Ready | None:
    """A convolution or an activation by itself."""
    relies = state_of([layer])
    if relies is None:
        return None
    step = _convolution(layer) if isinstance(layer, _ConvNd) else _activation(layer)
    return None if step is None else Ready(step, relies)


def _activation(layer: nn.Module) -> Step | None:
    inplace = getattr(layer, "inplace", False)
    if isinstance(layer, nn.LeakyReLU):
        slope = float(layer.negative_slope)
        leaky = torch._C._nn.leaky_relu_ if inplace else torch._C._nn.leaky_relu

        def step(x: Tensor) -> Tensor:
            return leaky(x, slope)

        return step
    if isinstance(layer, nn.ReLU):
        return torch.relu_ if inplace else torch.relu
    if isinstance(layer, nn.Tanh | nn.Sigmoid):
        return torch.tanh if isinstance(layer, nn.Tanh) else torch.sigmoid
    return None


def _convolution(conv: _ConvNd) -> Step | None:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    run, parameters = native.WITH_AUTOGRAD.convolution, conv._parameters
    stride, padding, output_padding, transposed = described(conv)[1]
    dilation = per_dimension(conv, conv.dilation)
    settings = stride, padding, dilation, output_padding, transposed, conv.groups

    def step(x: Tensor) -> Tensor:
        y: Tensor | None = run(x, parameters, *settings)
        return conv(x) if y is None else y

    return step
