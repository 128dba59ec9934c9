"""The layers of one chain, run as fused blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.nn.layers import is_plain_norm
from fastgan.nn.planner import NOT_SHARED, Planned, Shared
from fastgan.nn.runner import Runner
from fastgan.ops.core.tensors import DTYPES


class Chain(nn.Sequential):
    """A FusedSequential over layers that stand elsewhere, by their names there.

    Args:
        keep_activations: as FusedSequential's.
        shared: see `plan`.

    Tensors of a dtype that the fused ops do not take go through the layers as they are, as do those
    of a norm by itself that are on no CPU: there torch.nn's is as fast. The output lies in memory
    as the layers' would, which a `view` after it may rely on.
    """

    def __init__(
        self,
        layers: list[tuple[str, nn.Module]],
        keep_activations: bool,
        shared: Shared = NOT_SHARED,
    ) -> None:
        super().__init__(*(layer for _, layer in layers))
        self.leaves = layers
        self.keep_activations = keep_activations
        self.planned = Planned(shared)
        self.is_norm = len(layers) == 1 and is_plain_norm(layers[0][1])

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype not in DTYPES or (self.is_norm and _elsewhere(input)):
            return super().forward(input)
        runner = Runner(1, self.keep_activations, self.planned)
        output = runner.run(input, self.leaves)
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


def _elsewhere(x: Tensor) -> bool:
    return not x.is_cpu or torch.compiler.is_compiling()
