"""What a layer is to a fused block: a convolution, a norm, an activation, or neither."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fastgan.nn.norm_act import BatchNormActBase, InstanceNormActBase
from fastgan.ops.core.tensors import is_slope, norm_scalars

# A subclass that brings its own forward is another layer; one that does not is the same.
_KINDS: dict[Any, str] = {
    nn.Conv1d.forward: "conv",
    nn.Conv2d.forward: "conv",
    nn.Conv3d.forward: "conv",
    nn.ConvTranspose1d.forward: "conv",
    nn.ConvTranspose2d.forward: "conv",
    nn.ConvTranspose3d.forward: "conv",
    nn.Linear.forward: "linear",
    _BatchNorm.forward: "norm",
    _InstanceNorm.forward: "norm",
    BatchNormActBase.forward: "norm",
    InstanceNormActBase.forward: "norm",
    nn.ReLU.forward: "act",
    nn.LeakyReLU.forward: "act",
    nn.Tanh.forward: "act",
    nn.Sigmoid.forward: "act",
    nn.Identity.forward: "identity",
}
_CONV_FORWARD = {
    kind.forward: kind._conv_forward
    for kind in (
        nn.Conv1d, nn.Conv2d, nn.Conv3d,
        nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )
}  # fmt: skip
HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
_ACTIVATIONS = {nn.ReLU.forward: "relu", nn.Tanh.forward: "tanh", nn.Sigmoid.forward: "sigmoid"}


class Activation(NamedTuple):
    name: str = "identity"
    slope: float = 0.01


def layer_kind(module: nn.Module | None) -> str | None:
    """'conv', 'linear', 'norm', 'act' or 'identity'; None for any other module."""
    # A torch.jit.script module has no forward on its class.
    return _KINDS.get(getattr(type(module), "forward", None))


def is_product(module: nn.Module) -> bool:
    """Whether all that a layer does with its weight is a convolution or a product."""
    return layer_kind(module) in ("conv", "linear") or getattr(module, "is_product", False)


def is_compiled(network: nn.Module) -> bool:
    """Whether a network or a part of it was compiled."""
    parts = network.modules()
    return any(part._compiled_call_impl or "_orig_mod" in part._modules for part in parts)


def why_not_layer(module: nn.Module) -> str | None:
    """Why a layer of a known kind cannot be part of a block; None where it can."""
    name = type(module).__name__
    if hooked(module):
        return f"{name} has hooks"
    if "forward" in vars(module):
        return f"{name} has a forward set on the instance"
    own = getattr(type(module), "_conv_forward", None)
    if own is not _CONV_FORWARD.get(type(module).forward):
        return f"{name} has a convolution of its own"
    if isinstance(module, nn.LeakyReLU) and not is_slope(module.negative_slope):
        return "its slope is no finite number of at least 0"
    return None


def why_no_convolution(module: nn.Module | None) -> str | None:
    """Why a module is not run as a fused convolution; None where it is."""
    if not isinstance(module, _ConvNd):
        return "not a convolution"
    if layer_kind(module) != "conv":
        return f"{type(module).__name__} has a forward of its own"
    if (why_not := why_not_layer(module)) is not None:
        return why_not
    if module.groups != 1 or any(d != 1 for d in module.dilation):
        return "groups or dilation is not 1"
    if module.padding_mode != "zeros":
        return f"its padding is {module.padding_mode}"
    if isinstance(module.padding, str):
        return f"its padding is {module.padding!r}"
    return None


def hooked(module: nn.Module) -> bool:
    """Whether something listens to the calls of a module, or changes them."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def altered(module: nn.Module) -> bool:
    """Whether a layer may do something else than its class says."""
    return hooked(module) or "forward" in vars(module)


def is_norm(module: nn.Module | None) -> bool:
    """Whether a module is a norm that a block can defer."""
    if layer_kind(module) != "norm" or module is None or altered(module):
        return False
    if isinstance(module, BatchNormActBase | InstanceNormActBase):
        return module.order == "norm_act" and not getattr(module, "sync", False)
    return _in_range(module)


def _in_range(norm: Any) -> bool:
    """Whether a norm of torch.nn has an eps and a momentum that the ops take."""
    eps, momentum = norm.eps, norm.momentum
    try:
        norm_scalars(True, 0.0 if momentum is None else momentum, eps, 1, False)
    except (TypeError, ValueError):
        return False
    return True


def is_plain_norm(module: nn.Module | None) -> bool:
    return is_norm(module) and not isinstance(module, BatchNormActBase | InstanceNormActBase)


def activation(module: nn.Module | None) -> Activation | None:
    """The activation that a module is; None if it is something else."""
    if layer_kind(module) != "act" or module is None or why_not_layer(module):
        return None
    if isinstance(module, nn.LeakyReLU):
        return Activation("leaky_relu", float(module.negative_slope))
    return Activation(_ACTIVATIONS[type(module).forward])
