"""Triton's norm_act and bias_act on a GPU: every configuration, real sizes, extremes, graphs."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from devices import COMPILED, part_of, sweep
from kernel_case import Case, check_bias_act

pytestmark = COMPILED

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "contig"])
# DCGAN-64 at batch 64, its RGB end, and sizes that divide nothing.
SHAPES = [
    (64, 512, 4, 4),
    (64, 256, 8, 8),
    (64, 128, 16, 16),
    (64, 64, 32, 32),
    (64, 3, 64, 64),
    (7, 37, 19, 23),
    (6, 24, 5, 9, 11),
    (128, 1000),
]


@sweep
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("activation", [0, 1, 2], ids=["leaky_relu", "tanh", "sigmoid"])
def test_every_configuration(
    dtype: torch.dtype, channels_last: bool, activation: int, part: int
) -> None:
    from fastgan.kernels import norm_act

    for config in part_of({*norm_act.configs(dtype), *norm_act.shipped_configs(dtype)}, part):
        for shape, segments in (((16, 96, 33, 31), 2), ((32, 64, 8, 8), 1)):
            c = Case(
                shape,
                dtype,
                channels_last,
                activation=activation,
                segments=segments,
                act_first=segments == 1,
                device="cuda",
            )
            try:
                c.check(norm_act, config)
            except AssertionError as error:
                raise AssertionError(f"{config} on {shape}: {error}") from error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shipped_choice(dtype: torch.dtype, channels_last: bool, shape: tuple[int, ...]) -> None:
    from fastgan.kernels import norm_act

    for training, act_first in product((True, False), (True, False)):
        Case(
            shape, dtype, channels_last, training=training, act_first=act_first, device="cuda"
        ).check(norm_act)
    if len(shape) > 2:
        Case(shape, dtype, channels_last, segments=shape[0], device="cuda").check(norm_act)


@LAYOUTS
@pytest.mark.parametrize("shape", [(64, 64, 32, 32), (64, 512, 4, 4), (64, 3, 64, 64)], ids=str)
def test_runs_repeat_bit_for_bit(channels_last: bool, shape: tuple[int, ...]) -> None:
    from fastgan.kernels import norm_act

    c = Case(shape, torch.bfloat16, channels_last, segments=2, device="cuda")
    first = c.launch(norm_act)
    for _ in range(5):
        again = c.launch(norm_act)
        assert all(torch.equal(first[name], again[name]) for name in first)


@LAYOUTS
@pytest.mark.parametrize("shape", [(64, 64, 32, 32), (16, 512, 4, 4)], ids=str)
def test_large_mean_small_spread(channels_last: bool, shape: tuple[int, ...]) -> None:
    from fastgan.kernels import norm_act

    c = Case(shape, channels_last=channels_last, scale=1e-2, shift=100.0, device="cuda")
    c.check(norm_act)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@LAYOUTS
def test_one_bad_value_spoils_its_channel_only(bad: float, channels_last: bool) -> None:
    from fastgan.kernels import norm_act

    for shape in ((64, 64, 32, 32), (4, 512, 4, 4)):
        Case(shape, channels_last=channels_last, segments=2, device="cuda").check_spoiled(
            norm_act, bad
        )


BIASED = [(16, 96, 33, 31), (64, 3, 64, 64), (7, 40, 5)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("activation", [0, 1, 2], ids=["leaky_relu", "tanh", "sigmoid"])
def test_bias_act(dtype: torch.dtype, channels_last: bool, activation: int) -> None:
    for shape in BIASED:
        c = Case(shape, dtype, channels_last, activation=activation, device="cuda")
        check_bias_act(c, None)


@sweep
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("activation", [0, 1, 2], ids=["leaky_relu", "tanh", "sigmoid"])
def test_bias_act_every_configuration(
    dtype: torch.dtype, channels_last: bool, activation: int, part: int
) -> None:
    from fastgan.kernels import bias_act

    configurations = {*bias_act.configs(dtype), *bias_act.shipped_configs(dtype)}
    for config in part_of(configurations, part):
        for shape in BIASED:
            c = Case(shape, dtype, channels_last, activation=activation, device="cuda")
            check_bias_act(c, config)


def test_a_side_stream_and_another_device() -> None:
    from fastgan.kernels import norm_act

    x = torch.randn(8, 16, 8, 8, device="cuda")
    want = norm_act.norm_act_train(x, None, None, 1e-5, 0, 0.2, 1, False)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        got = norm_act.norm_act_train(x, None, None, 1e-5, 0, 0.2, 1, False)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    if torch.cuda.device_count() > 1:
        other = norm_act.norm_act_train(x.to("cuda:1"), None, None, 1e-5, 0, 0.2, 1, False)
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(other, want, strict=True))


def test_a_cuda_graph_captures_every_launch() -> None:
    """Nothing synchronises with the host, in any path."""
    from fastgan.kernels import norm_act

    for shape in ((64, 64, 32, 32), (16, 64, 4, 4)):
        x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last)
        code = (1e-5, 0, 0.2, 2, False)

        def step(x: torch.Tensor = x, code: Any = code) -> tuple[torch.Tensor, ...]:
            z, mean, var = norm_act.norm_act_train(x, None, None, *code)
            backward = norm_act.norm_act_backward(
                x, x, mean, var, None, None, *code, True, True, True
            )
            return (z, *backward)

        want = step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = step()
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
