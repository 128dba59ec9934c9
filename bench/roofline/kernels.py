"""The kernels of a GAN's training step, block by block: how often each runs, what it costs at
least, and a call that runs it by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bench.harness.cost import Cost
from bench.roofline import cost as costs
from fastgan.fusion.explaining import convolution_kernels, traced
from fastgan.kernels.conv_block.geometry import ConvGeometry, Target, conv_geometry
from fastgan.kernels.conv_block.tma.plan import (
    ProductPlan,
    WeightPlan,
    product_plan,
    supports,
    weight_plan,
)
from fastgan.nn.blocks import Block, described
from fastgan.nn.layers import Activation
from fastgan.nn.sequential import Run, laid_out
from fastgan.ops import conv, conv_block
from fastgan.ops.conv.algorithms import Kernels
from fastgan.ops.conv_block import Deferred
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import is_identity
from fastgan.ops.core.tensors import activation_code, autocast_dtype
from fastgan.optim import Adam

Call = Callable[[], object]


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
        of_block = passes if i else passes._replace(inputs=passes.own_input)
        following = runs[i + 1] if i + 1 < len(runs) else None
        traced_block = _Traced(run, following, batch, tma)
        traced_block.given = tma and i > 0 and runs[i - 1].form == "fused"
        found += [k for k in traced_block.kernels(of_block) if k.times]
    if batch is not None:
        return [kernel._replace(call=None, by="") for kernel in (*found, _update(module))]
    return [*found, _update(module)]


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
        self, run: Run, following: Run | None, batch: int | None, tma: bool = False
    ) -> None:
        self.tma = tma and batch is not None
        self.given = False  # statistics come with x, which TMA's kernels made
        self.run, self.block = run, run.block
        self.conv = _convolution_of(run.block)
        at = run.block.children.index(self.conv) if self.conv is not None else 0
        self.name = run.block.names[at]
        dtype = autocast_dtype(run.input) if self.conv is not None else run.input.dtype
        self.x = torch.randn_like(run.input, dtype=dtype)
        self.y = torch.randn_like(run.output, dtype=dtype)
        self.images, self.winograd = batch or self.x.shape[0], batch is None
        scale = self.images / self.x.shape[0]
        self.of_x, self.of_y = (int(t.numel() * t.element_size() * scale) for t in (self.x, self.y))
        self.rows = self.block.rows(self.x.shape[0], 1) if self.block.trains() else 0
        # Statistics of y that it hands to the next block.
        self.handed = 0
        if following is not None and following.form == "fused" and following.block.trains():
            self.handed = following.block.rows(self.y.shape[0], 1)

    def kernels(self, passes: Passes) -> Iterator[Kernel]:
        if self.conv is None:
            if self.block.norm is not None:
                yield from self._norm(passes)
            return
        self.x = laid_out(self.x, self.conv.weight)
        self.weight = self.conv.weight.detach()
        whole = self.block.conv is not None and self.run.form == "recompute"
        whole = whole and conv.reads_float32(self.x, self.weight, self.block.geometry)
        if not (whole or self.run.form == "fused"):  # those round it as they read it
            self.weight = self.weight.to(self.x.dtype)
        if self.run.form == "fused":
            if self.run.keeps_normalised and not self.given:  # no statistics came with the input
                yield from self._norm(passes)
                self.block = self.block.without_norm()
            yield from self._by_tma(passes) if self.tma else self._fused(passes)
            return
        if self.block.norm is not None:
            yield from self._norm(passes)
        elif self.block.before != Activation():
            again = passes.weights if self._recomputes else 0
            yield from self._activation(self.x, self.of_x, self.block.before, passes, again)
        yield from self._convolution(passes)

    def _norm(self, passes: Passes) -> Iterator[Kernel]:
        block, x, size = self.block, self.x, self.of_x
        channels, trained = x.shape[1], self.rows > 0
        raw, by = _raw("norm_act", x), dispatch.resolve(dispatch.setting(), x)
        shape = max(1, self.rows), channels
        mean, var = torch.zeros(shape, device=x.device), torch.ones(shape, device=x.device)
        affine = torch.ones(channels, device=x.device), torch.zeros(channels, device=x.device)
        eps = float(getattr(block.norm, "eps", 1e-5))
        spec = (eps, *_code(block.before), max(1, self.rows), block.order == "act_norm")
        known = partial(raw.norm_act_eval, x, mean, var, *affine, *spec)
        forward, read = known, size
        if trained:
            forward, read = partial(raw.norm_act_train, x, *affine, *spec), 2 * size
        backward = partial(
            raw.norm_act_backward, torch.randn_like(x), x, mean, var, *affine, *spec, trained,
            True, True,
        )  # fmt: skip
        again = passes.weights if self._recomputes else 0
        for name, times, cost, call in (
            ("norm", passes.forward, Cost(0, read, size), forward),
            ("norm again", again, Cost(0, size, size), known),
            ("norm gradient", passes.inputs, Cost(0, 2 * read, size), backward),
        ):
            yield self._kernel(name, times, cost, call, by)

    def _activation(
        self, t: Tensor, size: int, activation: Activation, passes: Passes, again: int = 0
    ) -> Iterator[Kernel]:
        forward = partial(_raw("bias_act", t).bias_act, t, None, *_code(activation))
        by = dispatch.resolve(dispatch.setting(), t)
        yield self._kernel("activation", passes.forward + again, Cost(0, size, size), forward, by)
        yield self._activation_gradient(t, size, activation, max(passes.weights, passes.inputs))

    def _activation_gradient(
        self, t: Tensor, size: int, activation: Activation, times: int
    ) -> Kernel:
        call = partial(
            _raw("bias_act", t).bias_act_backward, torch.randn_like(t), t, *_code(activation), False
        )
        by = dispatch.resolve(dispatch.setting(), t)
        cost = Cost(0, 2 * size, size)
        return self._kernel("activation gradient", times, cost, call, by)

    def _convolution(self, passes: Passes) -> Iterator[Kernel]:
        assert self.conv is not None
        geo, sizes = self._geometry, (self.x.element_size(), self.weight.element_size())
        by = convolution_kernels(self.run) or Kernels(*["as it is"] * 3)
        direct = by.forward.startswith("small-channel")
        forward, of_input, of_weight = self._convolution_calls(direct)
        passed = {
            "forward": (passes.forward, costs.forward_cost(geo, *sizes), forward),
            "data gradient": (
                passes.inputs,
                costs.data_gradient_cost(geo, *sizes, False, False),
                of_input,
            ),
            "weight gradient": (
                passes.weights,
                costs.weight_gradient_cost(geo, *sizes, False),
                of_weight,
            ),
        }
        for kernel, (name, (times, cost, call)) in zip(by, passed.items(), strict=True):
            if kernel.startswith("Winograd") and self.winograd:
                cost = cost._replace(operations=costs.winograd_operations(geo))
            yield self._kernel(name, times, cost, call, kernel)
        after = self.block.after
        if is_identity(*_code(after)):
            return
        if direct:  # the activation rides along
            times = max(passes.weights, passes.inputs)
            yield self._activation_gradient(self.y, self.of_y, after, times)
        else:
            yield from self._activation(self.y, self.of_y, after, passes)

    def _convolution_calls(self, direct: bool) -> tuple[Call, Call, Call]:
        x, dy, weight = self.x, self.y, self.weight
        if self.run.form != "recompute":
            assert self.conv is not None
            layer = copy.deepcopy(self.conv).to(x.dtype)
            x = x.requires_grad_()
            y = layer(x)
            grad = partial(torch.autograd.grad, y, grad_outputs=dy, retain_graph=True)
            return partial(layer, x), partial(grad, x), partial(grad, layer.weight)
        geometry = self.block.geometry
        after = _code(self.block.after if direct else Activation())
        return (
            partial(conv.forward, x, weight, None, geometry, *after),
            partial(conv.backward_input, dy, x, weight, geometry),
            partial(conv.backward_weight, dy, x, weight, geometry),
        )

    def _fused(self, passes: Passes) -> Iterator[Kernel]:
        geo, size = self._geometry, self.x.element_size()
        by = str(convolution_kernels(self.run))
        reads_x = self.block.norm is not None or self.block.before != Activation()
        reads_y = self.handed > 0 or self.block.after != Activation()
        forward, of_input, of_weight = self._fused_calls()
        cost = costs.forward_cost(geo, size, size)
        yield self._kernel("forward", passes.forward, cost, forward, by)
        cost = costs.data_gradient_cost(geo, size, size, reads_y, reads_x)
        yield self._kernel("data gradient", passes.inputs, cost, of_input, by)
        cost = costs.weight_gradient_cost(geo, size, self.weight.element_size(), reads_y)
        yield self._kernel("weight gradient", passes.weights, cost, of_weight, by)

    def _by_tma(self, passes: Passes) -> Iterator[Kernel]:
        """Passes over memory beside the products; thin layers are not products of TMA's."""
        geo, size, block = self._geometry, self.x.element_size(), self.block
        forms = block.norm is not None or block.before != Activation()
        trains = self.rows > 0 and block.norm is not None
        sizes = geo, size, size
        products = {
            "forward": (passes.forward, costs.forward_cost(*sizes)),
            "data gradient": (passes.inputs, costs.data_gradient_cost(*sizes, False, forms)),
            "weight gradient": (passes.weights, costs.weight_gradient_cost(*sizes, False)),
        }
        plans: tuple[ProductPlan | WeightPlan | None, ...] = (None, None, None)
        if supports(geo, self.x.dtype):
            back, segments = geo.reversed(), max(1, self.rows)
            plans = (
                product_plan(geo, max(1, self.handed), Target()),
                product_plan(back, segments, Target()), weight_plan(geo, Target()),
            )  # fmt: skip
        x, y = self.of_x, self.of_y
        around = {
            "norm" if trains else "activation": (forms * passes.forward, Cost(0, x, x)),
            "norm again": (forms * passes.weights, Cost(0, x, x)),
            "norm gradient": (trains * passes.inputs, Cost(0, 2 * x, x)),
            "activation gradient": (
                (block.after != Activation()) * max(passes.weights, passes.inputs),
                Cost(0, 2 * y, y),
            ),
        }
        for name, (times, cost) in around.items():
            yield self._kernel(name, times, cost, _not_here, "")
        for (name, (times, cost)), plan in zip(products.items(), plans, strict=True):
            kernel = self._kernel(name, times, cost, _not_here, "")
            sliced = plan is not None and plan.slices > 1
            yield kernel._replace(plan=plan, launches=1 + sliced)

    def _fused_calls(self) -> tuple[Call, Call, Call]:
        block, x = self.block, self.x
        mean = var = None
        if block.norm is not None:
            shape = (max(1, self.rows), x.shape[1])
            mean, var = torch.zeros(shape, device=x.device), torch.ones(shape, device=x.device)
        before, after = block.before, block.after
        run: Callable[..., Any] = partial(
            conv_block, deferred=Deferred(mean, var, None, None, 1e-5, before.name, before.slope),
            **block.geometry._asdict(), activation=after.name, negative_slope=after.slope,
            segments=self.handed,
        )  # fmt: skip

        def gradient(of: str) -> Call:
            given = {"x": x.detach(), "weight": self.weight.detach()}
            given[of].requires_grad_()
            outputs = [out for out in run(**given) if out.numel()]
            ones = [torch.ones_like(out) for out in outputs]
            return partial(torch.autograd.grad, outputs, given[of], ones, retain_graph=True)

        return partial(run, x, self.weight), gradient("x"), gradient("weight")

    @property
    def _recomputes(self) -> bool:
        """Whether backward makes the input of the convolution again."""
        return self.run.form == "recompute" and not self.run.keeps_normalised

    @property
    def _geometry(self) -> ConvGeometry:
        assert self.conv is not None
        stride, padding, extra, transposed = described(self.conv)[1]
        sizes = self.x.shape[1:]
        missing = self.weight.dim() - 1 - len(sizes)  # the input of one position may come without
        x = torch.empty((self.images, *sizes, *(1,) * missing), device="meta")
        weight = torch.empty(self.weight.shape, device="meta")
        return conv_geometry(x, weight, list(stride), list(padding), list(extra), transposed)

    def _kernel(self, name: str, times: int, cost: Cost, call: Call, by: str) -> Kernel:
        if cost.operations:
            # Of the two ways to sum, from the input or from the output, the one that meets less
            # padding: no kernel does less but by another algorithm.
            plain = costs.weight_gradient_cost(self._geometry, 1, 1, False).operations
            cost = cost._replace(operations=min(cost.operations, plain))
        return Kernel(self.name, name, by, times, cost, call)


def _not_here() -> None:
    """Of kernels that are counted for another device."""


def _convolution_of(block: Block) -> _ConvNd | None:
    """The convolution of a block, also of one that runs as it is."""
    if block.conv is not None:
        return block.conv
    alone = block.children[0]
    if len(block.children) > 1 or not isinstance(alone, _ConvNd):
        return None
    plain = alone.groups == 1 and not isinstance(alone.padding, str) and set(alone.dilation) == {1}
    return alone if plain else None


def _raw(op: str, x: Tensor) -> Any:
    return dispatch.kernels(dispatch.setting(), op, x)


def _code(activation: Activation) -> tuple[int, float]:
    return activation_code(activation.name, activation.slope)
