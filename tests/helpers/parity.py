"""norm_act held to PyTorch's own layers: output, gradients and running statistics at once."""

from __future__ import annotations

from typing import Any

import eager
import torch
from cases import channels_last
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.ops import norm_act

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# For a GPU: DCGAN-64 at batch 64; past what one pass holds; an image; sizes that divide nothing; no
# spatial extent.
LAYERS = [
    (64, 512, 4, 4),
    (64, 128, 16, 16),
    (64, 64, 32, 32),
    (256, 64, 32, 32),
    (16, 3, 64, 64),
    (7, 37, 19, 23),
    (6, 24, 5, 9, 11),
    (128, 1000),
]


LAYOUTS = {"contiguous": Tensor.contiguous, "channels_last": channels_last}


def check_parity(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dz: Tensor, training: bool, **spec: Any
) -> None:
    """Output, gradients and running statistics, by the tolerance rule."""
    channels, dz = x.shape[1], dz.to(x.dtype)
    statistics = (
        torch.randn(channels, device=x.device),
        torch.rand(channels, device=x.device) + 0.5,
    )

    def results(function: Any, dtype: torch.dtype, stat_dtype: torch.dtype) -> list[Tensor]:
        running = [s.to(stat_dtype) for s in statistics]

        def call(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return function(x, *running, weight, bias, training, **spec)

        affine = [None if p is None else p.to(stat_dtype) for p in (weight, bias)]
        return [*eager.gradients(call, [x.to(dtype), *affine], dz.to(dtype)), *running]

    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    own = results(norm_act, x.dtype, wide)
    theirs = results(eager.norm_act, x.dtype, wide)
    exact = results(eager.norm_act, torch.float64, torch.float64)
    assert own[0].dtype is x.dtype
    assert own[0].stride() == x.stride()
    names = ["z", "dx"] + ["dweight"] * (weight is not None) + ["dbias"] * (bias is not None)
    names += ["running_mean", "running_var"]
    of_sums = float(dz.double().square().movedim(1, 0).flatten(1).sum(1).sqrt().max())
    sizes = {"dweight": of_sums, "dbias": of_sums}
    slack = 0.0
    if training:
        sizes["dx"] = _size_of_dx(x, weight, dz, **spec)
        # What is exact in float64 is PyTorch's, whose mean is rounded, too.
        slack = rounding_of_mean(x, wide, **spec) * (2 if wide is torch.float64 else 1)
        # Of gamma x^, x^ of order 1, which the bias and a kink may cut to nothing.
        sizes["z"] = 0.0 if weight is None else float(weight.abs().max())
    else:
        normalised = _normalised_by(x, statistics, **spec)
        sizes["dweight"] = _size_of_dweight(normalised, dz)
        gamma = 1.0 if weight is None else weight.double().abs()[:, None]
        scaled = float((normalised.abs() * gamma).max())
        if spec.get("activation") in ("tanh", "sigmoid"):
            sizes["dx"] = _size_of_slopes(statistics[1], weight, dz)
            # Far out a rounding of gamma x^ is one of z, and of its slope, relative to themselves.
            slack = scaled * torch.finfo(wide).eps
        else:
            # Of gamma x^, which the bias and a kink may cut to nothing.
            sizes["z"] = scaled
    for name, *values in zip(names, own, theirs, exact, strict=True):
        assert_as_exact(name, *values, size=sizes.get(name, 0.0), slack=slack)


def rounding_of_mean(x: Tensor, dtype: torch.dtype = torch.float32, **spec: Any) -> float:
    """What a mean's last bit in a dtype moves, in standard deviations: PyTorch may be lucky."""
    values = _normalised_values(x, **spec)
    std = values.std(2, unbiased=False)
    spread = (values.mean(2).abs() / std).nan_to_num(0.0, 0.0, 0.0).max()
    return float(spread) * torch.finfo(dtype).eps / 2


def _normalised_values(
    x: Tensor,
    *,
    segments: int = 1,
    order: str = "norm_act",
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    **_: Any,
) -> Tensor:
    """What is normalised, in float64: (segments, channels, values)."""
    u = x.double() if order == "norm_act" else eager.act(x.double(), activation, negative_slope)
    return u.reshape(segments, -1, *u.shape[1:]).transpose(1, 2).flatten(2)


def _size_of_dx(
    x: Tensor, weight: Tensor | None, dz: Tensor, *, eps: float = 1e-5, **spec: Any
) -> float:
    """Of the terms of dx = gamma r (a - mean(a) - x^ mean(a x^)), which may cancel to nothing."""
    var = _normalised_values(x, **spec).var(2, unbiased=False)
    scale = (var + eps).rsqrt() * (1.0 if weight is None else weight.double().abs())
    return float(dz.double().abs().max() * scale.nan_to_num(0.0).min())


def _normalised_by(
    x: Tensor, statistics: tuple[Tensor, Tensor], *, eps: float = 1e-5, **spec: Any
) -> Tensor:
    """x^ in evaluation, where it may be far from 1, in float64: (channels, values)."""
    mean, var = (s.double().unsqueeze(1) for s in statistics)
    return (_normalised_values(x, **spec)[0] - mean) * (var + eps).rsqrt()


def _size_of_dweight(normalised: Tensor, dz: Tensor) -> float:
    """The root of the summed squared terms of dgamma = sum(a x^)."""
    terms = dz.double().transpose(0, 1).flatten(1) * normalised
    return float(terms.square().sum(1).sqrt().max())


def _size_of_slopes(var: Tensor, weight: Tensor | None, dz: Tensor, eps: float = 1e-5) -> float:
    """Of the terms of dx = gamma r (1 - z^2) dz, which cancel to nothing where z is saturated."""
    scale = (var.double() + eps).rsqrt() * (1.0 if weight is None else weight.double().abs())
    return float(dz.double().abs().max() * scale.max())
