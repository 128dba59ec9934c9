"""A CPU whose 16-bit weight gradients take in memory that nobody wrote, as oneDNN's do on some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey, DispatchKeySet

HALVES = [torch.bfloat16, torch.float16]


@contextmanager
def unwritten() -> Iterator[None]:
    """ATen's 16-bit weight gradients are NaN where the image, which is y of a transposed
    convolution, is smaller than the kernel or the stride."""
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("convolution_backward", _backward, "CPU", with_keyset=True)
        yield
    finally:
        library._destroy()


# The ops' own code, which stands under every backend's key.
_OWN = DispatchKeySet(DispatchKey.PrivateUse1)


def _backward(_: Any, dy: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Any, ...]:
    op = torch.ops.aten.convolution_backward.default
    found: tuple[Any, ...] = op.redispatch(_OWN, dy, x, weight, *rest)
    if found[1] is not None and _is_small(x, dy, weight, *rest[1:-1]):
        found[1].fill_(torch.nan)
    return found


def _is_small(
    x: Tensor, y: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any,
    transposed: bool, *_: Any,
) -> bool:  # fmt: skip
    if x.dtype not in HALVES:
        return False
    image = torch.tensor((y if transposed else x).shape[2:])
    least = torch.maximum(torch.tensor(weight.shape[2:]), torch.tensor(stride))
    return bool((image < least).any())


class Rounded(nn.Sequential):
    """Layers in float32 between which values and gradients are rounded to a 16-bit dtype."""

    def __init__(self, layers: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__(*layers.to(dtype).float())
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x.float()).to(self.dtype)
        return x
