"""Convolution + norm + activation modules: blocks that a FusedSequential chains."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from fastgan.nn import norm_act
from fastgan.nn.norm_act import check_norm
from fastgan.nn.sequential import FusedSequential
from fastgan.ops.core.tensors import activation_code, check_factory, kind, whole

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class _ConvNormAct(FusedSequential):
    """The children `conv`, then `norm` (with its activation) or, without a norm, `act`."""

    _CONV: ClassVar[type[nn.Module]]
    _DIMS: ClassVar[int]

    def __init__(
        self,
        *conv_args: Any,
        norm: str | None = "batch",
        activation: str = "leaky_relu",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        segments: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **conv_options: Any,
    ) -> None:
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        check_factory(device, dtype)
        _check_convolution(self._CONV, self._DIMS, *conv_args, **conv_options)
        conv = self._CONV(*conv_args, **conv_options, **placed)
        _check_plain(conv)
        channels: int = conv.out_channels  # type: ignore[assignment]
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        options: dict[str, Any] = {"activation": activation, "negative_slope": negative_slope}
        if norm is not None and not isinstance(norm, str):
            raise TypeError(f"norm: expected 'batch', 'instance' or None, got {kind(norm)}")
        # Of a norm that has no use for them too.
        check_norm(channels, eps, momentum, device, dtype)
        whole("segments", segments, 1)
        if norm is None:
            layers["act"] = activation_module(activation, negative_slope)
        elif norm == "batch":
            options |= {"eps": eps, "momentum": momentum, "affine": affine, "segments": segments}
            layers["norm"] = _of("BatchNormAct", self._DIMS)(channels, **options, **placed)
        elif norm == "instance":
            options |= {"eps": eps, "affine": affine}
            layers["norm"] = _of("InstanceNormAct", self._DIMS)(channels, **options, **placed)
        else:
            raise ValueError(f"norm: {norm!r} is not one of 'batch', 'instance' and None")
        super().__init__(layers)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Takes the weights of `nn.Sequential(conv, norm, act)`, named by position, as well."""
        for position, name in enumerate(self._modules):
            old = f"{prefix}{position}."
            for key in [key for key in state_dict if key.startswith(old)]:
                state_dict[f"{prefix}{name}.{key.removeprefix(old)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def activation_module(activation: str, negative_slope: float) -> nn.Module:
    """torch.nn's module of an activation, by the name that fastgan's ops have for it."""
    activation_code(activation, negative_slope)
    kind = _ACTIVATIONS.get(activation)
    return nn.LeakyReLU(negative_slope) if kind is None else kind()


def _of(name: str, dims: int) -> type[nn.Module]:
    kind: type[nn.Module] = getattr(norm_act, f"{name}{dims}d")
    return kind


def _check_convolution(conv: type[nn.Module], dims: int, *args: Any, **options: Any) -> None:
    """The arguments of torch.nn's constructor, which takes many as they come."""
    given = inspect.signature(conv).bind(*args, **options).arguments
    for name, least in _WHOLE.items():
        if name not in given:
            continue
        value = given[name]
        if name == "padding" and isinstance(value, str):
            if value not in ("same", "valid") or issubclass(conv, _ConvTransposeNd):
                raise ValueError(f"padding: {value!r} is not one of numbers, 'same' and 'valid'")
            continue
        values = (value,)
        if isinstance(value, (tuple, list)) and not name.endswith(("channels", "groups")):
            values = tuple(value)
            if len(values) not in (1, dims):
                raise ValueError(f"{name}: expected {dims} numbers or one, got {value}")
        for each in values:
            whole(name, each, least)
    mode = given.get("padding_mode", "zeros")
    if not isinstance(mode, str):
        raise TypeError(f"padding_mode: expected a str, got {kind(mode)}")
    if mode != "zeros" and issubclass(conv, _ConvTransposeNd):
        raise ValueError(f"padding_mode: expected 'zeros' of a transposed one, got {mode!r}")


_WHOLE = {
    "in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 1, "padding": 0,
    "output_padding": 0, "dilation": 1, "groups": 1,
}  # fmt: skip


def _check_plain(conv: nn.Module) -> None:
    for name in ("dilation", "groups"):
        value = getattr(conv, name)
        if any(v != 1 for v in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name}: expected 1, got {value}")


class ConvNormAct1d(_ConvNormAct):
    """`ConvNormAct2d` in one dimension."""

    _CONV, _DIMS = nn.Conv1d, 1


class ConvNormAct2d(_ConvNormAct):
    """A convolution, a norm and an activation, for (N, C, H, W).

    The arguments are those of `nn.Conv2d` (dilation and groups have to be 1), then by keyword:
    norm: "batch", "instance" or None; eps, momentum, affine: of the norm; activation: "leaky_relu"
    with `negative_slope`, "relu", "identity", "tanh" or "sigmoid"; segments: as BatchNormAct2d's.
    ValueError for others. As in torch.nn the convolution has a bias unless `bias=False`; a norm
    makes it idle.

    Its state_dict has the keys `conv.*` and `norm.*`; it also loads that of
    `nn.Sequential(conv, norm, act)`, whose keys are `0.*` and `1.*`. Several in a row, in a
    FusedSequential, run as one chain of blocks.

    >>> block = ConvNormAct2d(64, 128, 4, 2, 1, bias=False, negative_slope=0.2)
    """

    _CONV, _DIMS = nn.Conv2d, 2


class ConvNormAct3d(_ConvNormAct):
    """`ConvNormAct2d` in three dimensions."""

    _CONV, _DIMS = nn.Conv3d, 3


class ConvTransposeNormAct1d(_ConvNormAct):
    """`ConvTransposeNormAct2d` in one dimension."""

    _CONV, _DIMS = nn.ConvTranspose1d, 1


class ConvTransposeNormAct2d(_ConvNormAct):
    """A transposed convolution, a norm and an activation: `ConvNormAct2d` with the arguments of
    `nn.ConvTranspose2d`.

    >>> block = ConvTransposeNormAct2d(128, 64, 4, 2, 1, bias=False, activation="relu")
    """

    _CONV, _DIMS = nn.ConvTranspose2d, 2


class ConvTransposeNormAct3d(_ConvNormAct):
    """`ConvTransposeNormAct2d` in three dimensions."""

    _CONV, _DIMS = nn.ConvTranspose3d, 3
