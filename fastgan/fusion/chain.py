"""The layers of one chain, run as fused blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.nn import FusedSequential

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Chain(FusedSequential):
    """A FusedSequential over layers that stand elsewhere: their `training` counts, not its own.

    Tensors of a dtype that the fused ops do not take go through the layers as they are. The output
    lies in memory as the layers' would, which a `view` after it may rely on.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype not in _DTYPES:
            for layer in self:
                input = layer(input)
            return input
        output = super().forward(input)
        if not output.is_contiguous() and self._keeps_contiguous(input):
            output = output.contiguous()
        return output

    def _keeps_contiguous(self, x: Tensor) -> bool:
        """Whether torch.nn's layers would answer x in contiguous memory.

        With one channel, or one position, memory is contiguous and channels-last at once: the ops
        take it for the latter, torch.nn goes by the strides.
        """
        if not x.is_contiguous() or (x.stride(1) == 1 and x.stride(-1) == x.shape[1] > 1):
            return False
        return all(p.is_contiguous() for p in self.parameters())
