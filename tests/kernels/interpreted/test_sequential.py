"""FusedSequential on the fused kernels: values, gradients, and one activation a block."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from tolerance import within
from torch import Tensor, nn

from fastgan.nn import FusedSequential
from fastgan.ops import backend, convolution_form


def test_a_chain_of_fused_blocks() -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(2, 3, 4, 2, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
        nn.Conv2d(4, 1, 2), nn.Tanh(),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    fused = FusedSequential(OrderedDict(copy.deepcopy(model).named_children()))
    x = torch.randn(4, 2, 2, 2).to(memory_format=torch.channels_last)
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // 4
        return t

    with convolution_form("fused"), backend("triton"):
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            y = fused(x)
        y.square().sum().backward()
    expected = model(x)
    expected.square().sum().backward()
    torch.testing.assert_close(y, expected, **within(torch.float32, 100, 10))
    torch.testing.assert_close(dict(fused.named_buffers()), dict(model.named_buffers()))
    for own, theirs in zip(fused.parameters(), model.parameters(), strict=True):
        kept.pop(own.untyped_storage().data_ptr(), None)
        torch.testing.assert_close(own.grad, theirs.grad, **within(torch.float32, 1000, 10))
    # The first two raw outputs; tanh's output and the input x are smaller than 2 x 16 values.
    assert sorted(n for n in kept.values() if n > 32) == [4 * 4 * 2 * 2, 4 * 3 * 4 * 4]
