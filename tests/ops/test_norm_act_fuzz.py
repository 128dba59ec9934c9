"""norm_act held to PyTorch's own layers on drawn shapes, layouts, dtypes and options."""

from __future__ import annotations

from typing import Any

import eager
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from parity import DTYPES, channels_last, check_parity, rounding_of_mean
from torch import Tensor

from fastgan.ops import backend, norm_act


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    segments = draw(st.integers(1, 4))
    batch = segments * draw(st.integers(1, 3))
    spatial = draw(st.lists(st.integers(1, 9), max_size=3))
    channels = draw(st.sampled_from([1, 2, 3, 5, 16, 17, 32, 48, 64, 100]))
    values = batch // segments
    for extent in spatial:
        values *= extent
    if values < 4:  # with two or three values a channel rstd may amplify any rounding
        batch *= 4
    return {
        "shape": (batch, channels, *spatial),
        "segments": segments,
        "seed": draw(st.integers(0, 2**31)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "layout": draw(st.sampled_from(["contiguous", "channels_last", "strided", "expanded"])),
        "gradient": draw(st.sampled_from(["contiguous", "channels_last", "strided", "expanded"])),
        "activation": draw(st.sampled_from(eager.ACTIVATIONS)),
        "negative_slope": draw(st.sampled_from([0.0, 0.01, 0.2, 1.0, 1.7])),
        "order": draw(st.sampled_from(["norm_act", "act_norm"])),
        "shift": draw(st.sampled_from([0.0, 1.0, 100.0, 1e4])),
        "gamma": draw(st.sampled_from(["none", "normal", "zero", "negative"])),
        "training": draw(st.booleans()),
    }


def arrange(x: Tensor, layout: str) -> Tensor:
    """The values of x (of the first image, if expanded) in a memory layout."""
    if layout == "channels_last":
        return channels_last(x)
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 1]
    return x[:1].expand(x.shape) if layout == "expanded" else x.contiguous()


def at_a_kink(x: Tensor, gamma: Tensor | None, bias: Tensor, **spec: Any) -> bool:
    """Whether the last bit of a mean decides which side of the kink a value is on."""
    if spec["order"] == "act_norm" or spec["activation"] not in ("relu", "leaky_relu"):
        return False
    wide = [None if t is None else t.double() for t in (gamma, bias)]
    straight = {**spec, "activation": "identity"}
    y = eager.norm_act(x.double(), None, None, *wide, True, **straight)
    moved = rounding_of_mean(x, **spec) * (1.0 if gamma is None else gamma.abs().max())
    return bool((y.abs() <= 4 * moved).any()) if x.dtype is torch.float32 else False


# In evaluation far from the running mean: every z is saturated, every slope a difference.
FAR_OUT = {
    "seed": 2, "dtype": torch.float64, "shape": (4, 3), "layout": "contiguous",
    "gradient": "contiguous", "activation": "tanh", "negative_slope": 0.2, "order": "norm_act",
    "shift": 100.0, "gamma": "normal", "training": False, "segments": 1,
}  # fmt: skip
# In evaluation: the bias and the kink leave but small values.
CUT = {
    "seed": 7, "dtype": torch.float32, "shape": (8, 1, 3), "layout": "expanded",
    "gradient": "contiguous", "activation": "leaky_relu", "negative_slope": 0.0,
    "order": "norm_act", "shift": 0.0, "gamma": "none", "training": False, "segments": 2,
}  # fmt: skip


@pytest.mark.usefixtures("native")
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems())
@example(problem=FAR_OUT)
@example(problem=CUT)
def test_any_problem_equals_pytorch(problem: dict[str, Any]) -> None:
    torch.manual_seed(problem["seed"])
    shape, dtype = problem["shape"], problem["dtype"]
    # At 16 bits a shift of 1e4 leaves nothing of the values.
    shift = problem["shift"] if dtype in (torch.float32, torch.float64) else 0.0
    x = torch.randn(shape) + shift
    if problem["layout"] == "expanded":  # one image repeated: keep it apart from a constant
        x = x * torch.linspace(0.5, 2, x[0].numel()).reshape(x[0].shape)
    x = arrange(x.to(dtype), problem["layout"])
    channels = shape[1]
    gamma = {
        "none": None,
        "normal": torch.randn(channels),
        "zero": torch.zeros(channels),
        "negative": -torch.rand(channels),
    }[problem["gamma"]]
    dz = torch.randn(shape)
    spec = {k: problem[k] for k in ("activation", "negative_slope", "order")}
    segments = problem["segments"] if problem["training"] else 1
    bias = torch.randn(channels)
    dz = arrange(dz, problem["gradient"])
    x_dense = x.contiguous() if problem["layout"] in ("strided", "expanded") else x
    values = x[: shape[0] // segments, 0]
    if values.numel() < 2 or values.double().std() < 1e-3 * max(1.0, shift / 10):
        return
    if problem["training"] and at_a_kink(x_dense, gamma, bias, segments=segments, **spec):
        return
    for name in ("cpu", "reference"):
        with backend(name):
            check_parity(x_dense, gamma, bias, dz, problem["training"], segments=segments, **spec)
            own = norm_act(x, None, None, training=True, segments=segments, **spec)
            dense = norm_act(x_dense, None, None, training=True, segments=segments, **spec)
            torch.testing.assert_close(own, dense)
