"""What a convolution is said to run by is what runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from convolutions import channels_last
from torch import Tensor

from fastgan.ops import _convolution, _processor, _thin
from fastgan.ops._convolution import Geometry, Kernels, kernels_of, library
from fastgan.ops.reference.activation import IDENTITY, TANH

HALVED = Geometry((2, 2), (1, 1), (0, 0), False)
DOUBLED = HALVED._replace(transposed=True)
WHOLE = Geometry((1, 1), (0, 0), (0, 0), False)
SEVEN = Geometry((1, 1), (3, 3), (0, 0), False)

# x, weight and geometry: DCGAN's layers and what else has a kernel of its own.
LAYERS = {
    "from an image": ((4, 3, 32, 32), (64, 3, 4, 4), HALVED),
    "from one channel": ((4, 1, 32, 32), (64, 1, 4, 4), HALVED),
    "to an image": ((4, 64, 16, 16), (64, 3, 4, 4), DOUBLED),
    "to an image, turned": ((4, 64, 16, 16), (3, 64, 7, 7), SEVEN),
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
def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[str]]:
    """Which of fastgan's kernels ran a pass; none: the library's."""
    ran: list[str] = []
    with monkeypatch.context() as patch:
        for kernel, module in {"direct": _thin, **_convolution._OWN}.items():
            original = getattr(module, name)

            def call(*args, kernel=kernel, original=original):
                found = original(*args)
                ran.extend([kernel] * (found is not None))
                return found

            patch.setattr(module, name, call)
        yield ran


@pytest.mark.parametrize("activated", [False, True], ids=["", "activated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_kernels_named_are_those_that_run(
    native: None,
    layer: str,
    processor: str,
    dtype: torch.dtype,
    activated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in PROCESSORS[processor].items():
        monkeypatch.setattr(_processor, name, lambda *_, value=value: value)
    shape, weight_shape, geometry = LAYERS[layer]
    activation, slope = (TANH, 0.0) if activated else IDENTITY
    for layout in (channels_last, Tensor.contiguous):
        x, weight = (
            layout(torch.randn(shape).to(dtype)),
            layout(torch.randn(weight_shape).to(dtype)),
        )
        named = kernels_of(x, weight, geometry, activated)
        y = _convolution.forward(x, weight, None, geometry, activation, slope)
        passes = {
            "forward": lambda x=x, w=weight: _convolution.forward(
                x, w, None, geometry, activation, slope
            ),
            "backward_input": lambda x=x, w=weight, y=y: _convolution.backward_input(
                y, x, w, geometry
            ),
            "backward_weight": lambda x=x, w=weight, y=y: _convolution.backward_weight(
                y, x, w, geometry
            ),
        }
        for said, (name, run) in zip(named, passes.items(), strict=True):
            with counted(monkeypatch, name) as ran:
                run()
            assert [said] == (ran or [library(x, weight, geometry)]), f"{name} of {layer}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_library_named_is_the_one_that_runs(layer: str, dtype: torch.dtype) -> None:
    shape, weight_shape, geometry = LAYERS[layer]
    x, weight = torch.randn(shape).to(dtype), torch.randn(weight_shape).to(dtype)
    with torch.profiler.profile() as profiler:
        _convolution._aten_forward(x, weight, None, geometry)
    slow = any("slow_conv" in event.key for event in profiler.key_averages())
    assert library(x, weight, geometry) == ("ATen" if slow else "oneDNN")


def test_every_kernel_is_named_somewhere(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers above leave none out."""
    named = set()
    for processor in PROCESSORS.values():
        with monkeypatch.context() as patch:
            for name, value in processor.items():
                patch.setattr(_processor, name, lambda *_, value=value: value)
            for shape, weight_shape, geometry in LAYERS.values():
                for dtype in (torch.float32, torch.float64):
                    x = channels_last(torch.randn(shape).to(dtype))
                    named |= set(kernels_of(x, torch.randn(weight_shape).to(x), geometry, False))
    with monkeypatch.context() as patch:
        patch.setattr(_processor, "dot_products", lambda: True)
        shape, weight_shape, geometry = LAYERS["short rows"]
        x = channels_last(torch.randn(shape).bfloat16())
        named |= set(kernels_of(x, torch.randn(weight_shape).to(x), geometry, False))
    assert named == {"direct", *_convolution._OWN, "oneDNN", "ATen"}


def test_kernels_in_words() -> None:
    assert str(Kernels("oneDNN", "oneDNN", "oneDNN")) == "oneDNN"
    assert str(Kernels("a", "b", "a")) == "a; data gradient: b; weight gradient: a"
