"""The kernels of a GAN's training step, block by block: how often each runs, and what it costs at
least on a GPU that need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bench.harness.cost import Cost, of_passes
from fastgan.fusion.explaining import traced
from fastgan.kernels.conv_block.geometry import Target, conv_geometry
from fastgan.kernels.conv_block.tma.plan import (
    ProductPlan,
    WeightPlan,
    product_plan,
    supports,
    weight_plan,
)
from fastgan.nn.blocks import Block, described
from fastgan.nn.layers import Activation
from fastgan.nn.recording import Run
from fastgan.ops.core.tensors import autocast_dtype

Plan = ProductPlan | WeightPlan | None


class Passes(NamedTuple):
    """How often a step runs a network: forward, for the gradients of its weights, of its layers'
    inputs, and of its own input."""

    forward: int
    weights: int
    inputs: int
    own_input: int


# One update of each, the same generated images in both, the discriminator's weights left alone in
# the generator's.
GENERATOR = Passes(1, 1, 1, 0)
DISCRIMINATOR = Passes(3, 2, 3, 1)


class Kernel(NamedTuple):
    """layer: the name of the block's convolution, or else its norm's. times: a step.

    Attributes:
        plan: of a product by TMA, where the GPU has it.
        launches: of one run.
    """

    layer: str
    name: str
    times: int
    cost: Cost
    plan: Plan = None
    launches: int = 1


def step_kernels(
    module: nn.Module, inputs: tuple[Tensor, ...], passes: Passes, batch: int, tma: bool = False
) -> list[Kernel]:
    """Those of every block of convolution and norm that `module` runs on `inputs`, in the forms in
    which it does, and the update by Adam. Other layers are left out.

    Args:
        batch: count for such a batch in the place of that of `inputs`.
        tma: count for a GPU with TMA, where z and dy are written once, and activations kept or not
            as in `module`.

    Raises:
        ValueError: there is no block.
    """
    runs, scale = traced(module, *inputs)[0], batch / len(inputs[0])
    found: list[Kernel] = []
    for i, run in enumerate(runs):
        neighbours = (runs[i - 1] if i else None), (runs[i + 1] if i + 1 < len(runs) else None)
        block = _Traced(run, *neighbours, scale, tma)
        found += block.kernels(passes if i else passes._replace(inputs=passes.own_input))
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    # Adam reads a parameter, its gradient and two moments, and writes all but the gradient.
    found.append(Kernel("all", "Adam", 1, Cost(0, 4 * size, 3 * size)))
    return [kernel for kernel in found if kernel.times]


class _Traced:
    """A block as it ran; scale: how many times as many images are counted."""

    def __init__(
        self, run: Run, before: Run | None, after: Run | None, scale: float, tma: bool
    ) -> None:
        self.run, self.block, self.tma = run, run.block, tma
        self.conv = _convolution_of(run.block)
        at = run.block.children.index(self.conv) if self.conv is not None else 0
        self.name = run.block.names[at]
        self.dtype = autocast_dtype(run.input) if self.conv is not None else run.input.dtype
        self.of_x, self.of_y = (
            int(t.numel() * self.dtype.itemsize * scale) for t in (run.input, run.output)
        )
        self.images = int(len(run.input) * scale)
        self.rows = self.block.rows(len(run.input), 1) if self.block.trains() else 0
        self.fused = run.form == "fused"
        # Statistics that came with x, and those of y that it hands to the next block.
        self.given = tma and before is not None and before.form == "fused"
        self.handed = 0
        if after is not None and after.form == "fused" and after.block.trains():
            self.handed = after.block.rows(len(run.output), 1)

    def kernels(self, passes: Passes) -> Iterator[Kernel]:
        """What is not fused into the convolution stands by itself: norm and activation before it,
        and the activation behind it. TMA's products are told statistics, and read z."""
        norm, before = self.block.norm is not None, self.block.before
        if self.conv is None:
            if norm:
                yield from self._norm(passes, 2, 0)
            return
        alone = self.fused and self.run.keeps_normalised and not self.given
        by_tma = self.fused and self.tma and not alone
        forms = norm or before != Activation()
        if forms and (alone or by_tma or not self.fused):
            recomputes = by_tma or (self.run.form == "recompute" and not self.run.keeps_normalised)
            again = passes.weights if recomputes else 0
            if norm:
                yield from self._norm(passes, 1 if by_tma and self.rows else 2, again)
            else:
                yield from self._activation(self.of_x, passes, again)
        yield from self._convolution(passes, forms and not alone)

    def _norm(self, passes: Passes, reads: int, again: int) -> Iterator[Kernel]:
        """reads: of x, once more where its statistics have to be taken first."""
        size = self.of_x
        read = reads * size if self.rows else size
        yield Kernel(self.name, "norm", passes.forward, Cost(0, read, size))
        yield Kernel(self.name, "norm again", again, Cost(0, size, size))
        yield Kernel(self.name, "norm gradient", passes.inputs, Cost(0, 2 * read, size))

    def _activation(self, size: int, passes: Passes, again: int = 0) -> Iterator[Kernel]:
        forward, backward = passes.forward + again, max(passes.weights, passes.inputs)
        yield Kernel(self.name, "activation", forward, Cost(0, size, size))
        yield Kernel(self.name, "activation gradient", backward, Cost(0, 2 * size, size))

    def _convolution(self, passes: Passes, forms: bool) -> Iterator[Kernel]:
        """forms: it applies a norm and activation to x, and its data gradient undoes them."""
        assert self.conv is not None
        weight, after = self.conv.weight, self.block.after
        # A fused output activation, and statistics, have their gradient as dy is loaded: y is read.
        inside = self.fused and not self.tma
        reads_y = self.of_y * (inside and (self.handed > 0 or after != Activation()))
        packed = weight.numel() * self.dtype.itemsize
        forward, of_x, of_weight = of_passes(self._operations(), self.of_x, self.of_y, packed)
        of_x = of_x._replace(read=of_x.read + reads_y + self.of_x * (self.fused and forms))
        of_weight = of_weight._replace(
            read=of_weight.read + reads_y, written=weight.nbytes if inside else packed
        )
        for name, times, cost, plan in zip(
            ("forward", "data gradient", "weight gradient"),
            (passes.forward, passes.inputs, passes.weights),
            (forward, of_x, of_weight),
            self._plans(),
            strict=True,
        ):
            launches = 2 if plan is not None and plan.slices > 1 else 1
            yield Kernel(self.name, name, times, cost, plan, launches)
        if after != Activation() and not inside:
            behind = self._activation(self.of_y, passes)
            yield from (k for k in behind if "gradient" in k.name or not self.fused)

    def _operations(self) -> int:
        """Two a multiply-add: each value of the smaller side meets the weights of a channel."""
        assert self.conv is not None
        values = self.run.input if described(self.conv)[1].transposed else self.run.output
        return 2 * self.images * prod(values.shape[2:]) * self.conv.weight.numel()

    def _plans(self) -> tuple[Plan, Plan, Plan]:
        """Of its products by TMA, which thin layers are not."""
        assert self.conv is not None
        stride, padding, extra, transposed = described(self.conv)[1]
        sizes, weight = self.run.input.shape[1:], self.conv.weight
        missing = weight.dim() - 1 - len(sizes)  # the input of one position may come without
        x = torch.empty((self.images, *sizes, *(1,) * missing), device="meta")
        geo = conv_geometry(
            x, weight.to("meta"), list(stride), list(padding), list(extra), transposed
        )
        if not (self.fused and self.tma and supports(geo, self.dtype, "ieee")):
            return None, None, None
        forward = product_plan(geo, max(1, self.handed), Target())
        back = product_plan(geo.reversed(), max(1, self.rows), Target())
        return forward, back, weight_plan(geo, Target())


def _convolution_of(block: Block) -> _ConvNd | None:
    """The convolution of a block, also of one that runs as it is."""
    if block.conv is not None:
        return block.conv
    alone = block.children[0]
    if len(block.children) > 1 or not isinstance(alone, _ConvNd):
        return None
    plain = alone.groups == 1 and not isinstance(alone.padding, str) and set(alone.dilation) == {1}
    return alone if plain else None
