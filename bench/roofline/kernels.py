"""The kernels of a GAN's training step, block by block: how often each runs, what it costs at
least, and a call that runs it by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from bench.harness.cost import Cost, of_passes
from fastgan.fusion.explaining import convolution_kernels, traced
from fastgan.kernels.conv_block.geometry import Target, conv_geometry
from fastgan.kernels.conv_block.tma.plan import (
    ProductPlan,
    WeightPlan,
    product_plan,
    supports,
    weight_plan,
)
from fastgan.kernels.core.geometry import cdiv
from fastgan.nn.blocks import Block, described
from fastgan.nn.layers import Activation
from fastgan.nn.recording import Run
from fastgan.nn.sequential import laid_out
from fastgan.ops import bias_act, conv, conv_block, norm_act
from fastgan.ops.conv.algorithms import Kernels
from fastgan.ops.conv_block import Deferred
from fastgan.ops.core import dispatch
from fastgan.ops.core.tensors import activation_code, autocast_dtype
from fastgan.optim import Adam

Call = Callable[[], object]
Plans = Sequence[ProductPlan | WeightPlan | None]


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
    """layer: the name of the block's convolution, or else its norm's. by: what runs it. times: a
    step. call: runs it once, on values of its own.

    by and call are "" and None where it was counted for another device.

    Attributes:
        plan: of a product by TMA, where it was counted for a GPU that has it.
        launches: of one run.
    """

    layer: str
    name: str
    by: str
    times: int
    cost: Cost
    call: Call | None
    plan: ProductPlan | WeightPlan | None = None
    launches: int = 1


def step_kernels(
    module: nn.Module,
    input: Tensor | tuple[Tensor, ...],
    passes: Passes,
    batch: int | None = None,
    tma: bool = False,
) -> list[Kernel]:
    """Those of every block of convolution and norm that `module` runs on `input`, in the forms in
    which it does, and the update by Adam. Other layers are left out.

    Args:
        input: what `module` is called with: a tensor, or several.
        batch: count for such a batch, on another device, where none runs by Winograd.
        tma: count for a GPU with TMA, where z and dy are written once, and activations kept or not
            as in `module`.

    Raises:
        ValueError: there is no block.
    """
    runs = traced(module, *((input,) if isinstance(input, Tensor) else input))[0]
    found: list[Kernel] = []
    for i, run in enumerate(runs):
        neighbours = (runs[i - 1] if i else None), (runs[i + 1] if i + 1 < len(runs) else None)
        block = _Traced(run, *neighbours, batch, tma)
        found += block.kernels(passes if i else passes._replace(inputs=passes.own_input))
    found = [kernel for kernel in (*found, _update(module)) if kernel.times]
    if batch is not None:
        return [kernel._replace(call=None, by="") for kernel in found]
    return found


def _update(module: nn.Module) -> Kernel:
    """Adam reads a parameter, its gradient and two moments, and writes all but the gradient."""
    parameters = [torch.zeros_like(p).requires_grad_() for p in module.parameters()]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    size = sum(p.numel() * p.element_size() for p in parameters)
    update = Adam(parameters, fused=True)
    return Kernel("all", "Adam", "PyTorch", 1, Cost(0, 4 * size, 3 * size), update.step)


class _Traced:
    """A block as it ran, with values of its own."""

    def __init__(
        self, run: Run, before: Run | None, after: Run | None, batch: int | None, tma: bool
    ) -> None:
        self.run, self.block, self.counted, self.tma = run, run.block, batch is not None, tma
        self.conv = _convolution_of(run.block)
        at = run.block.children.index(self.conv) if self.conv is not None else 0
        self.name = run.block.names[at]
        dtype = autocast_dtype(run.input) if self.conv is not None else run.input.dtype
        self.x = torch.randn_like(run.input, dtype=dtype)
        self.y = torch.randn_like(run.output, dtype=dtype)
        self.images = batch or self.x.shape[0]
        scale = self.images / self.x.shape[0]
        self.of_x, self.of_y = (int(t.nbytes * scale) for t in (self.x, self.y))
        self.rows = self.block.rows(self.x.shape[0], 1) if self.block.trains() else 0
        self.fused, self.by = run.form == "fused", dispatch.resolve(dispatch.setting(), self.x)
        # Statistics that came with x, and those of y that it hands to the next block.
        self.given = tma and before is not None and before.form == "fused"
        self.handed = 0
        if after is not None and after.form == "fused" and after.block.trains():
            self.handed = after.block.rows(self.y.shape[0], 1)

    def kernels(self, passes: Passes) -> Iterator[Kernel]:
        """What is not fused into the convolution stands by itself: norm and activation before it,
        and the activation behind it. TMA's products are told statistics, and read z."""
        block, forms = self.block, self.block.norm is not None or self.block.before != Activation()
        if self.conv is None:
            if block.norm is not None:
                yield from self._norm(passes, 2, 0)
            return
        alone = self.fused and self.run.keeps_normalised and not self.given
        by_tma = self.fused and self.tma and not alone
        if forms and (alone or by_tma or not self.fused):
            recomputes = by_tma or (self.run.form == "recompute" and not self.run.keeps_normalised)
            again = passes.weights if recomputes else 0
            if block.norm is not None:
                yield from self._norm(passes, 1 if by_tma and self.rows else 2, again)
            else:
                yield from self._activation(self.x, self.of_x, block.before, passes, again)
            if alone:
                self.block, forms = block.without_norm(), False
        yield from self._convolution(passes, forms)

    def _norm(self, passes: Passes, reads: int, again: int) -> Iterator[Kernel]:
        """reads: of x, once more where its statistics have to be taken first."""
        block, x, size = self.block, self.x, self.of_x
        channels, trained = x.shape[1], self.rows > 0
        zeros, ones = (make(channels, device=x.device) for make in (torch.zeros, torch.ones))
        eps = float(getattr(block.norm, "eps", 1e-5))
        run = partial(
            norm_act, eps=eps, activation=block.before.name, negative_slope=block.before.slope,
            order=block.order,
        )  # fmt: skip

        def own(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            if not trained:
                return run(x, zeros, ones, weight, bias)
            return run(x, None, None, weight, bias, training=True, segments=self.rows)

        given, read = (x, ones, zeros), reads * size if trained else size
        backward = _gradient(own, given, (0, 1, 2))
        for name, times, cost, call in (
            ("norm", passes.forward, Cost(0, read, size), partial(own, *given)),
            ("norm again", again, Cost(0, size, size), partial(run, x, zeros, ones, ones, zeros)),
            ("norm gradient", passes.inputs, Cost(0, 2 * read, size), backward),
        ):
            yield Kernel(self.name, name, self.by, times, cost, call)

    def _activation(
        self, t: Tensor, size: int, which: Activation, passes: Passes, again: int = 0
    ) -> Iterator[Kernel]:
        run = partial(bias_act, activation=which.name, negative_slope=which.slope)
        times, back = passes.forward + again, max(passes.weights, passes.inputs)
        forward, backward = Cost(0, size, size), Cost(0, 2 * size, size)
        yield Kernel(self.name, "activation", self.by, times, forward, partial(run, t))
        call = _gradient(run, (t,), (0,))
        yield Kernel(self.name, "activation gradient", self.by, back, backward, call)

    def _convolution(self, passes: Passes, forms: bool) -> Iterator[Kernel]:
        """forms: it applies a norm and activation to x, and its data gradient undoes them."""
        assert self.conv is not None
        self.x = x = laid_out(self.x, self.conv.weight)
        weight = self.conv.weight.detach()
        by = convolution_kernels(self.run) or Kernels(*["as it is"] * 3)
        direct, after = by.forward.startswith("small-channel"), self.block.after
        whole = self.block.conv is not None and self.run.form == "recompute"
        rounds = whole and conv.reads_float32(x, weight, self.block.geometry)
        if not (rounds or self.fused):  # those round it as they read it
            weight = weight.to(x.dtype)
        # A fused output activation, and statistics, have their gradient as dy is loaded: y is read.
        inside = self.fused and not self.tma
        reads_y = self.of_y * (inside and (self.handed > 0 or after != Activation()))
        of_weight = weight.nbytes
        packed = weight.numel() * x.element_size() if self.fused else of_weight
        costs = of_passes(self._operations(by.forward), self.of_x, self.of_y, packed)
        costs[1] = costs[1]._replace(
            read=costs[1].read + reads_y + self.of_x * (self.fused and forms)
        )
        costs[2] = costs[2]._replace(
            read=costs[2].read + reads_y, written=packed if self.tma else of_weight
        )
        times = passes.forward, passes.inputs, passes.weights
        calls = [None] * 3 if self.counted else self._calls(weight, direct)
        plans: Plans = self._plans(weight) if self.fused and self.tma else [None] * 3
        names = "forward", "data gradient", "weight gradient"
        for name, n, cost, call, kernel, plan in zip(
            names, times, costs, calls, by, plans, strict=True
        ):
            launches = 2 if plan is not None and plan.slices > 1 else 1
            yield Kernel(self.name, name, kernel, n, cost, call, plan, launches)
        if after != Activation() and not inside:
            behind = self._activation(self.y, self.of_y, after, passes)
            yield from (k for k in behind if "gradient" in k.name or not (direct or self.fused))

    def _operations(self, by: str) -> int:
        """Two a multiply-add: each value of the smaller side meets the weights of a channel."""
        assert self.conv is not None
        values = self.x if described(self.conv)[1].transposed else self.y
        weight = self.conv.weight
        if by.startswith("Winograd") and not self.counted:
            # F(2x2, 2x2) makes 36 products of a tile of 2x2 values, where the plain sum has 64.
            tiles = prod(cdiv(size, 2) for size in values.shape[2:])
            return 2 * self.images * tiles * 36 * weight.shape[0] * weight.shape[1]
        return 2 * self.images * prod(values.shape[2:]) * weight.numel()

    def _calls(self, weight: Tensor, direct: bool) -> Sequence[Call]:
        x, dy, block = self.x, self.y, self.block
        if self.run.form == "recompute":
            after = block.after if direct else Activation()
            code = activation_code(after.name, after.slope)
            return (
                partial(conv.forward, x, weight, None, block.geometry, *code),
                partial(conv.backward_input, dy, x, weight, block.geometry),
                partial(conv.backward_weight, dy, x, weight, block.geometry),
            )
        run: Callable[..., Any]
        if self.fused:
            mean = var = None
            if block.norm is not None:
                shape = max(1, self.rows), x.shape[1]
                mean, var = (make(shape, device=x.device) for make in (torch.zeros, torch.ones))
            before, after = block.before, block.after
            run = partial(
                conv_block, deferred=Deferred(mean, var, None, None, 1e-5, *before),
                **block.geometry._asdict(), activation=after.name, negative_slope=after.slope,
                segments=self.handed,
            )  # fmt: skip
        else:
            assert self.conv is not None
            layer = copy.deepcopy(self.conv).to(x.dtype)

            def run(x: Tensor, weight: Tensor) -> Any:
                return functional_call(layer, {"weight": weight}, (x,))

        given = x, weight
        return partial(run, *given), _gradient(run, given, (0,)), _gradient(run, given, (1,))

    def _plans(self, weight: Tensor) -> Plans:
        """Of its products by TMA, which thin layers are not."""
        assert self.conv is not None
        stride, padding, extra, transposed = described(self.conv)[1]
        sizes = self.x.shape[1:]
        missing = weight.dim() - 1 - len(sizes)  # the input of one position may come without
        x = torch.empty((self.images, *sizes, *(1,) * missing), device="meta")
        like = torch.empty(weight.shape, device="meta")
        geo = conv_geometry(x, like, list(stride), list(padding), list(extra), transposed)
        if not supports(geo, self.x.dtype):
            return [None] * 3
        segments = max(1, self.handed), max(1, self.rows)
        back = product_plan(geo.reversed(), segments[1], Target())
        return product_plan(geo, segments[0], Target()), back, weight_plan(geo, Target())


def _gradient(run: Callable[..., Any], given: Sequence[Tensor], of: Sequence[int]) -> Call:
    """The backward of a function for some of its arguments alone."""
    given = [t.detach().requires_grad_(i in of) for i, t in enumerate(given)]
    outputs = [t for t in tree_leaves(run(*given)) if t.numel()]
    dy = [torch.randn_like(t) for t in outputs]
    return partial(torch.autograd.grad, outputs, [given[i] for i in of], dy, retain_graph=True)


def _convolution_of(block: Block) -> _ConvNd | None:
    """The convolution of a block, also of one that runs as it is."""
    if block.conv is not None:
        return block.conv
    alone = block.children[0]
    if len(block.children) > 1 or not isinstance(alone, _ConvNd):
        return None
    plain = alone.groups == 1 and not isinstance(alone.padding, str) and set(alone.dilation) == {1}
    return alone if plain else None
