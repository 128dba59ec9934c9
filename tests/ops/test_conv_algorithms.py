"""What a convolution is said to run by is what runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from convolutions import channels_last
from torch import Tensor

from fastgan.ops import conv
from fastgan.ops.conv import aten
from fastgan.ops.conv.algorithms import ALGORITHMS, Kernels, force, kernels_of
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import FORWARD, Problem, describe
from fastgan.ops.core import processor
from fastgan.ops.core.activation import IDENTITY, TANH

HALVED = Geometry((2, 2), (1, 1), (0, 0), False)
DOUBLED = HALVED._replace(transposed=True)
WHOLE = Geometry((1, 1), (0, 0), (0, 0), False)
SEVEN = Geometry((1, 1), (3, 3), (0, 0), False)

# x, weight and geometry: DCGAN's layers and what else has a kernel of its own.
LAYERS = {
    "from an image": ((4, 3, 32, 32), (64, 3, 4, 4), HALVED),
    "from one channel": ((4, 1, 32, 32), (64, 1, 4, 4), HALVED),
    "to an image": ((4, 64, 16, 16), (64, 3, 4, 4), DOUBLED),
    "to an image, flipped": ((4, 64, 16, 16), (3, 64, 7, 7), SEVEN),
    "halved": ((4, 64, 16, 16), (128, 64, 4, 4), HALVED),
    "doubled": ((4, 128, 8, 8), (128, 64, 4, 4), DOUBLED),
    "few tiles": ((2, 64, 8, 8), (128, 64, 4, 4), HALVED),
    "short rows": ((4, 128, 8, 8), (256, 128, 4, 4), HALVED),
    "to one position": ((4, 64, 4, 4), (1, 64, 4, 4), WHOLE),
    "narrow": ((4, 24, 16, 16), (32, 24, 4, 4), HALVED),
    "one dimension": ((4, 24, 64), (32, 24, 4), Geometry((2,), (1,), (0,), False)),
    "volume": ((2, 8, 8, 8, 8), (8, 8, 3, 3, 3), Geometry((1,) * 3, (1,) * 3, (0,) * 3, False)),
}
# The processor as it is, and such as run half precision, or matrix products, some other way.
PROCESSORS = {
    "as it is": {},
    "no fast halves": {"fast_in": False, "dot_products": False, "fast_products": False},
    "matrix unit": {"fast_in": True, "dot_products": False, "fast_products": True},
}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, p: Problem) -> Iterator[list[str]]:
    """What ran passes, by its name for p."""
    ran: list[str] = []
    with monkeypatch.context() as patch:
        for algorithm in ALGORITHMS.values():

            def run(q: Problem, *given: Any, algorithm=algorithm, original=algorithm.run) -> Tensor:
                ran.append(algorithm.name(p))
                return original(q, *given)

            patch.setattr(algorithm, "run", run)
        yield ran


@pytest.mark.parametrize("activated", [False, True], ids=["", "activated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("machine", PROCESSORS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_kernels_named_are_those_that_run(
    native: None,
    layer: str,
    machine: str,
    dtype: torch.dtype,
    activated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in PROCESSORS[machine].items():
        monkeypatch.setattr(processor, name, lambda *_, value=value: value)
    shape, weight_shape, geometry = LAYERS[layer]
    activation, slope = (TANH, 0.0) if activated else IDENTITY
    for layout in (channels_last, Tensor.contiguous):
        x, weight = (
            layout(torch.randn(shape).to(dtype)),
            layout(torch.randn(weight_shape).to(dtype)),
        )
        p = describe(FORWARD, x, weight, geometry, activated)
        named = kernels_of(p)
        y = conv.forward(x, weight, None, geometry, activation, slope)
        with counted(monkeypatch, p) as ran:
            conv.forward(x, weight, None, geometry, activation, slope)
            conv.backward_input(y, x, weight, geometry)
            conv.backward_weight(y, x, weight, geometry)
        assert list(named) == ran, layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_library_named_is_the_one_that_runs(layer: str, dtype: torch.dtype) -> None:
    shape, weight_shape, geometry = LAYERS[layer]
    x, weight = torch.randn(shape).to(dtype), torch.randn(weight_shape).to(dtype)
    none = dict.fromkeys(ALGORITHMS.keys() - {"aten"}, False)
    with force(**none), torch.profiler.profile() as profiler:
        conv.forward(x, weight, None, geometry, *IDENTITY)
    slow = any("slow_conv" in event.key for event in profiler.key_averages())
    said = aten.name(describe(FORWARD, x, weight, geometry))
    assert said == ("ATen" if slow else "oneDNN")


def test_every_kernel_is_named_somewhere(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers above leave none out but what GPUs alone run."""
    named = set()
    for machine in PROCESSORS.values():
        with monkeypatch.context() as patch:
            for name, value in machine.items():
                patch.setattr(processor, name, lambda *_, value=value: value)
            for shape, weight_shape, geometry in LAYERS.values():
                for dtype in (torch.float32, torch.float64):
                    x = channels_last(torch.randn(shape).to(dtype))
                    p = describe(FORWARD, x, torch.randn(weight_shape).to(x), geometry)
                    named |= set(kernels_of(p))
    with monkeypatch.context() as patch:
        patch.setattr(processor, "dot_products", lambda: True)
        shape, weight_shape, geometry = LAYERS["short rows"]
        x = channels_last(torch.randn(shape).bfloat16())
        p = describe(FORWARD, x, torch.randn(weight_shape).to(x), geometry)
        named |= set(kernels_of(p))
    own = {
        a.name(p)
        for key, a in ALGORITHMS.items()
        if key not in ("aten", "product", "small_channels_triton", "tma")
    }
    assert named == {*own, "oneDNN", "ATen"}


def test_kernels_in_words() -> None:
    assert str(Kernels("oneDNN", "oneDNN", "oneDNN")) == "oneDNN"
    assert str(Kernels("a", "b", "a")) == "a; data gradient: b; weight gradient: a"


def test_force_refuses_what_is_not_there() -> None:
    with pytest.raises(
        ValueError, match="fft: expected one of small_channels_triton, product, tma, small_ch"
    ):
        force(fft=True).__enter__()
