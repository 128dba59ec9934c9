"""What the host does for a fused call, with the launch taken out: calls of functions, Python's and
C's, which a plan kept by geometry saves. No time is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

import fastgan.kernels.norm_act
from fastgan.kernels.conv_block import tma
from fastgan.nn import BatchNormAct2d, FusedSequential
from fastgan.ops import backend, convolution_form
from fastgan.ops.core import dispatch

assert tma is not None
assert fastgan.kernels.norm_act is not None


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that would have been launched, as on a GPU with TMA."""
    found: list[str] = []

    def run(kernel: JITFunction[Any], *_: Any, **__: Any) -> None:
        found.append(kernel.__name__)

    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(dispatch, "_interpreting", lambda: True)
    monkeypatch.setattr("fastgan.kernels.conv_block.tma.plan.has_tma", lambda device: True)
    return found


def calls(run: Callable[[], object]) -> int:
    """How many functions are called, once everything has been planned."""
    for _ in range(2):
        run()
    found = 0

    def count(_: FrameType, event: str, __: Any) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


def images() -> torch.Tensor:
    x = torch.zeros(2, 16, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    return x.requires_grad_()


def chain(blocks: int) -> nn.Sequential:
    """A convolution, and blocks of norm, activation and convolution."""
    layers: list[nn.Module] = [nn.Conv2d(16, 16, 3, 1, 1, bias=False)]
    for _ in range(blocks):
        layers += [
            nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.Conv2d(16, 16, 3, 1, 1, bias=False),
        ]  # fmt: skip
    fused = FusedSequential(*layers).to(memory_format=torch.channels_last)
    for module in fused:
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)
    return fused


def test_a_block_between_blocks(launches: list[str]) -> None:
    x, found = images(), {}
    with convolution_form("fused"), backend("triton"):
        for blocks in (1, 2):
            model = chain(blocks)
            forward = calls(lambda model=model: model(x))
            both = calls(lambda model=model: model(x).backward(torch.zeros_like(x)))
            del launches[:]
            model(x).backward(torch.zeros_like(x))
            found[blocks] = forward, both - forward, len(launches)
    forward, backward, launched = (b - a for a, b in zip(found[1], found[2], strict=True))
    assert launched == 6, "the block ran in another form"
    assert forward <= 390, "644 before plans were kept, 349 since"
    assert backward <= 215, "358 before, 189 since"


def test_norm_and_activation(launches: list[str]) -> None:
    x, norm = images(), BatchNormAct2d(16)
    with backend("triton"):
        forward = calls(lambda: norm(x))
        both = calls(lambda: norm(x).backward(torch.zeros_like(x)))
    assert "train_kernel" in launches
    assert forward <= 235, "270 before, 211 since"
    assert both - forward <= 140, "173 before, 125 since"
