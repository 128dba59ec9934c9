"""What layers that run one after another become: which blocks, and which form each runs in.

`FusedSequential` and `fuse` ask here, and keep the answer for each kind of call.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fastgan.kernels.core.precision import precision
from fastgan.nn import steps
from fastgan.nn.bias_act import BiasAct
from fastgan.nn.blocks import Block, described
from fastgan.nn.layers import (
    Activation,
    activation,
    altered,
    is_norm,
    is_plain_norm,
    why_no_convolution,
)
from fastgan.nn.norm_act import BatchNormActBase, InstanceNormActBase
from fastgan.ops.conv import algorithms, aten, tuning
from fastgan.ops.conv.problem import FORWARD, Problem, describe
from fastgan.ops.core import dispatch
from fastgan.ops.core.setting import Setting
from fastgan.ops.core.tensors import autocast_dtype
from fastgan.ops.norm_act_conv.repeated import Repeated

_LOG = logging.getLogger(__name__)


class Form(NamedTuple):
    """How a block runs, and why.

    Attributes:
        name: of `tuning.FORMS`; "norm_act" without a convolution; "unfused" where it runs as the
            layers it is made of by choice, "" by need.
    """

    name: str
    why: str = ""

    @property
    def plain(self) -> bool:
        return self.name in ("", "unfused")

    def count(self, block: Block) -> int:
        """How many of a block's layers, from the first on, a fused op runs."""
        if self.plain:
            return 0
        return block.before_conv if self.name == "norm_fused" else len(block.children)


Leaf = tuple[str, nn.Module]
Again = list[Repeated | None]  # of each block what makes its call again, where something does


class Shared(NamedTuple):
    """Whether others hold the input, the output of layers: they may change it in place."""

    input: bool = False
    output: bool = False


NOT_SHARED = Shared()


def plan(leaves: list[Leaf], shared: Shared = NOT_SHARED) -> list[Block]:
    """The blocks of children that run one after another.

    No block keeps for backward what others hold and the layers themselves do not keep.
    """
    starts, ends = 0, len(leaves)
    if shared.input and _keeps(leaves[0][1]) == "output" and is_plain_norm(leaves[1][1]):
        starts += 1  # as one with the norm it would keep its input
    if shared.output and _keeps(leaves[-1][1]) == "input" and isinstance(leaves[-2][1], _ConvNd):
        ends -= 1  # as one with the convolution it would keep its output
    blocks: list[Block] = []
    for part in (leaves[:starts], leaves[starts:ends], leaves[ends:]):
        i = 0
        while i < len(part):
            blocks.append(_block(part, i))
            i += len(blocks[-1].children)
    return blocks


def _keeps(module: nn.Module) -> str | None:
    """Which of its two tensors torch.nn's activation keeps for backward; None if it is none."""
    if activation(module) is None:
        return None
    leaky = isinstance(module, nn.LeakyReLU) and not module.inplace
    return "input" if leaky else "output"


class Planned:
    """The plan of leaves, kept from call to call for as long as they are as they were.

    Attributes:
        forms: how each block runs, by the kind of call.
        plain: the kinds of which every block runs as the layers it is made of, so that nothing has
            to be known of those.
        again: by the kind of call, what makes those of each block again.
        ready: by the kind of call, all of it as a step, where every layer is called by itself.
        converted: the kinds that run on a channels-last copy of their input (see `layout`).
        last: the forms of the last call; None where it did not ask for any.
        converts: whether the last call did.
    """

    def __init__(self, shared: Shared = NOT_SHARED) -> None:
        self.shared = shared
        self.leaves: list[Leaf] = []
        self._states: list[tuple[Any, ...]] = []
        self._blocks: list[Block] = []
        self.forms: dict[Hashable, list[Form]] = {}
        self.again: dict[Hashable, Again] = {}
        self.ready: dict[Hashable, steps.Ready] = {}
        self.plain: set[Hashable] = set()
        self.converted: set[Hashable] = set()
        self.last: list[Form] | None = None
        self.converts = False

    def blocks(self, leaves: list[Leaf]) -> list[Block]:
        if torch.compiler.is_compiling():
            return plan(leaves, self.shared)
        states = [_state(module) for _, module in leaves]
        blocks = self._blocks  # read once: replicas of a module share a plan, in threads
        if states != self._states or leaves != self.leaves:
            blocks = plan(leaves, self.shared)
            self.leaves, self._states, self._blocks = leaves, states, blocks
            self._forget()
        return blocks

    def _forget(self) -> None:
        self.forms.clear()
        self.again.clear()
        self.ready.clear()
        self.plain.clear()
        self.converted.clear()

    def parts(self) -> list[tuple[Block, Form]]:
        """The blocks of the last call, and how each ran."""
        return list(zip(self._blocks, self.last or (), strict=False))

    def keep(self, kind: Hashable, forms: list[Form], converted: bool) -> None:
        if len(self.forms) >= MAX_KINDS:
            self._forget()
        if _LOG.isEnabledFor(logging.DEBUG):
            for block, form in zip(self._blocks, forms, strict=False):
                _LOG.debug("%s: %s (%s)", ", ".join(block.names), form.name or "as it is", form.why)
        self.forms[kind] = self.last = forms
        self.converts = converted
        if converted:
            self.converted.add(kind)
        if all(form.plain for form in forms):
            self.plain.add(kind)

    def make_ready(self, kind: Hashable) -> None:
        """Has later calls of a kind, of which the blocks ran last, run by steps, if that can be."""
        parts = [steps.of_block(block, form.count(block)) for block, form in self.parts()]
        calls = [part for of_each in parts for part in of_each or ()]
        if all(part is not None for part in parts):
            self.ready[kind] = steps.together(calls)

    def choose_again(self, kind: Hashable) -> None:
        """For a kind of call whose layers changed in what their steps rely on."""
        self.forms.pop(kind)
        self.ready.pop(kind)
        self.plain.discard(kind)

    def __reduce__(self) -> tuple[type[Planned], tuple[Shared]]:  # a copy plans for itself
        return Planned, (self.shared,)


MAX_KINDS = 64  # of calls that are remembered

# What a plan reads of its leaves.
_READ = (
    "kernel_size", "stride", "padding", "dilation", "output_padding", "groups", "padding_mode",
    "in_channels", "out_channels", "negative_slope", "inplace", "activation", "order", "sync",
)  # fmt: skip


def _state(module: nn.Module) -> tuple[Any, ...]:
    biased = module._parameters.get("bias") is not None
    return (type(module), altered(module), biased, *map(vars(module).get, _READ))


def _block(leaves: list[Leaf], start: int) -> Block:
    """The block that starts at a leaf."""
    i, norm, before = start, None, Activation()
    conv: _ConvNd | None = None
    bias, after = None, Activation()

    def leaf() -> nn.Module | None:
        return leaves[i][1] if i < len(leaves) else None

    first = activation(leaf())
    if first is not None and len(leaves) > start + 1 and is_plain_norm(leaves[start + 1][1]):
        names, children = zip(*leaves[start : start + 2], strict=True)
        return Block(names, children, children[1], first, order="act_norm")
    if is_norm(leaf()):
        norm = leaf()
        i += 1
        if isinstance(norm, BatchNormActBase | InstanceNormActBase):
            before = Activation(norm.activation, norm.negative_slope)
        elif (found := activation(leaf())) is not None:
            before = found
            i += 1
    module = leaf()
    if isinstance(module, _ConvNd) and why_no_convolution(module) is None:
        conv = module
        i += 1
        following = leaf()
        if isinstance(following, BiasAct) and conv.bias is None and not altered(following):
            bias, after = following, Activation(following.activation, following.negative_slope)
            i += 1
        elif (found := activation(following)) is not None:
            after = found
            i += 1
    why_not = ""
    if i == start:
        module = leaves[start][1]
        why_not = why_no_convolution(module) or ""
        i += 1
    names, children = zip(*leaves[start:i], strict=True)
    block = Block(names, children, norm, before, conv, bias, after, why_not=why_not)
    return block if conv is None else block._replace(of_conv=described(conv))


def form_of(block: Block, x: Tensor, keep_activations: bool) -> Form:
    """How a block is to run on x."""
    if not block.fits(x) or (block.norm is None and block.conv is None):
        return Form("", block.why_not or "a single item, not a batch")
    compiling = torch.compiler.is_compiling()
    asked = tuning.convolution_form.value != "auto"
    if not (compiling or asked) and _in_torch(block, x):
        return Form("unfused", "the C++ extension is not there; fastgan doctor says why")
    norm_pays = not keep_activations or compiling or asked or _norm_pays(block, x)
    if block.conv is None:
        if norm_pays:
            return Form("norm_act", "no convolution follows")
        why = "no convolution follows; a tensor of this size is as fast layer by layer"
        return Form("unfused", why)
    form, why = choose(block, x, x.shape, keep_activations)
    if form == "norm_fused" and not (block.norm and norm_pays):
        form = "unfused"
    return Form(form, why)


def choose(block: Block, x: Tensor, shape: tuple[int, ...], for_speed: bool) -> tuple[str, str]:
    """(form, why) of a convolution block whose input has a shape, and x's device, dtype, layout."""
    dtype, weight_shape, geometry = autocast_dtype(x), block.weight_shape, block.geometry
    own = None
    if for_speed and torch.compiler.is_compiling():
        own = False  # a choice by size would hold the graph to its sizes
    elif for_speed:
        own = algorithms.beats_eager(problem_of(block, x, shape), asks_gradient(x))
    form, why = tuning.explained(x.device, dtype, tuple(shape), weight_shape, geometry, own)
    of_conv = weight_shape, geometry, dtype, x.device.type
    if form == "norm_fused" and torch.is_grad_enabled() and aten.reads_beyond(shape, *of_conv):
        return (
            "recompute",
            "in 16 bits the library's weight gradient reads beyond so small an image",
        )
    return form, why


def problem_of(block: Block, x: Tensor, shape: tuple[int, ...]) -> Problem:
    """The forward pass of a block's convolution on an input as of `choose`."""
    dtype = autocast_dtype(x)
    like = x if tuple(shape) == tuple(x.shape) else torch.empty(shape, device="meta")
    weight = torch.empty(block.weight_shape, dtype=dtype, device="meta")
    problem = describe(FORWARD, like, weight, block.geometry, block.after != Activation())
    return problem._replace(dtype=dtype, device=x.device.type)


def asks_gradient(x: Tensor) -> bool:
    """Whether a training pass would form the gradient of x."""
    return x.requires_grad and torch.is_grad_enabled()


def _norm_pays(block: Block, x: Tensor) -> bool:
    if block.norm is None:
        return False
    if steps.serve(x) and steps.of_norm(block, x) is not None:
        return True
    instances = isinstance(block.norm, _InstanceNorm)
    return tuning.norm_pays(x, instances, block.before != Activation())


def _in_torch(block: Block, x: Tensor) -> bool:
    """Whether PyTorch's own layers are what there is, and are right."""
    if not dispatch.in_torch(dispatch.setting(), x.device.type):
        return False
    of_conv = block.weight_shape, block.geometry, autocast_dtype(x), x.device.type
    right = block.conv is None or not torch.is_grad_enabled()
    return right or not aten.reads_beyond(tuple(x.shape), *of_conv)


def kind_of(x: Tensor) -> tuple[Hashable, ...]:
    """What of a tensor the choice of a form may depend on, the precision of its products too."""
    of_float32 = x.is_cuda and precision(x)
    return x.shape, x.stride(), x.dtype, x.device, x.requires_grad, of_float32


def kind_of_call() -> tuple[Hashable, ...]:
    """What else it may depend on."""
    autocast = [
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        for device in ("cpu", "cuda")
    ]
    return *autocast, torch.is_grad_enabled(), Setting.state
