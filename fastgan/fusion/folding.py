"""fold: a model for inference, its batch norms folded into the convolutions before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fastgan.fusion.copying import copied
from fastgan.fusion.fuse import exchange_forwards, unfuse
from fastgan.fusion.lowering import lower
from fastgan.fusion.matching import Choice, find_links
from fastgan.fusion.tracing import Untraceable, trace
from fastgan.nn.layers import layer_kind


def fold(model: nn.Module) -> nn.Module:
    """A copy of a model for inference: in evaluation mode, without gradients, and faster.

    A BatchNorm that takes the output of a convolution (or Linear), and nothing else does, becomes
    part of its weight and bias (computed in float64) and an `nn.Identity` in its own place; an
    activation after it runs in the convolution's epilogue. Weight norm and its like are resolved.
    On a CPU each weight is packed once, for calls in float32 that ask for no gradient: a change of
    a weight through `.data` after the first call is not seen.
    What cannot be folded (instance norm, a batch norm without running statistics, one before its
    convolution) stays. The outputs are those of `model.eval()`, to rounding; the state_dict is
    another.

    TypeError for a model that is no `nn.Module`.
    """
    folded = fold_norms(model)
    for module in folded.modules():
        # The matrix of a transposed convolution of single positions is its weight as it then lies.
        if isinstance(module, nn.ConvTranspose2d) and getattr(module, "is_product", False):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
    exchange_forwards(folded, Choice(keep_activations=True, packs=True))
    return folded


def fold_norms(model: nn.Module) -> nn.Module:
    """`fold`, of layers of torch.nn alone: for export to where fastgan is not."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    folded = lower(unfuse(copied(model)))
    folded.requires_grad_(False).eval()
    for module in list(folded.modules()):
        _resolve_hooks(module)
        _resolve_parametrizations(module)
    _fold_below(folded, folded, set())
    return folded


def _resolve_hooks(module: nn.Module) -> None:
    """The weights that old-style weight_norm, spectral_norm and pruning compute in every call."""
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
    module.requires_grad_(False)


def _resolve_parametrizations(module: nn.Module) -> None:
    """`remove_parametrizations`, which would take them from the class that copies share."""
    if not parametrize.is_parametrized(module):
        return
    names = list(module.parametrizations)  # type: ignore[arg-type]
    values = {name: getattr(module, name).detach() for name in names}
    del module.parametrizations
    module.__class__ = parametrize.type_before_parametrizations(module)
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _fold_below(module: nn.Module, model: nn.Module, seen: set[nn.Module]) -> None:
    """Folds what a trace of `module` shows, and of what it did not go through."""
    if module in seen or layer_kind(module):
        return
    seen.add(module)
    try:
        traced = trace(module)
    except Untraceable:
        pass
    else:
        seen.update(traced.containers)
        found = find_links(traced.graphs[False], module)
        for node, follower in found.links.items():
            _fold_pair(found.layers[node].module, follower.module, model)
    for child in module.children():
        _fold_below(child, model, seen)


def _fold_pair(conv: nn.Module, norm: nn.Module, model: nn.Module) -> None:
    """Folds the norm into the layer before it, where that is possible."""
    if layer_kind(conv) not in ("conv", "linear") or not isinstance(norm, _BatchNorm):
        return
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or len(_places(model, conv)) != 1:
        return
    places = _places(model, norm)
    if len(places) != 1:
        return
    axis = 1 if isinstance(conv, _ConvTransposeNd) else 0
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    scale = _wide(norm.weight, var, 1.0) / torch.sqrt(var.double() + norm.eps)
    shift = _wide(norm.bias, var, 0.0) + (_wide(bias, var, 0.0) - mean.double()) * scale
    folded = _scaled(weight.double(), scale, axis, getattr(conv, "groups", 1))
    conv.weight = nn.Parameter(folded.to(weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
    parent, name = places[0]
    setattr(parent, name, nn.Identity())


def _wide(p: Tensor | None, like: Tensor, otherwise: float) -> Tensor:
    return torch.full_like(like, otherwise, dtype=torch.float64) if p is None else p.double()


def _scaled(weight: Tensor, scale: Tensor, axis: int, groups: int) -> Tensor:
    """The weight with each output channel scaled.

    A transposed convolution's, (C_in, C_out / groups, *k), holds in row i the channels of the group
    that input i belongs to.
    """
    if axis == 0:
        return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1))
    rows = scale.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return weight * rows.reshape(*weight.shape[:2], *(1,) * (weight.dim() - 2))


def _places(model: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Everywhere that a module stands in a model."""
    return [
        (parent, name)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child is module
    ]
