"""What FusedSequential makes of its children: blocks that each run as one op.

A block is a norm and activation, a convolution, and what follows the convolution without a norm:
`conv(act(norm(x)))`, `act(conv(x))` and all between. The norm is that of the convolution before, so
the tensor between two blocks is a raw convolution output. Any other child is a block by itself.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fastgan.nn.bias_act import BiasAct
from fastgan.nn.norm_act import BatchNormActBase, InstanceNormActBase, batch_norm
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core.tensors import is_slope, norm_scalars
from fastgan.ops.norm_act_conv import Norm

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (BatchNormActBase, InstanceNormActBase, _BatchNorm, _InstanceNorm)


class Activation(NamedTuple):
    name: str = "identity"
    slope: float = 0.01


class Block(NamedTuple):
    """Children that run together; `other` alone runs as it is."""

    names: tuple[str, ...]
    children: tuple[nn.Module, ...]
    norm: nn.Module | None = None
    before: Activation = Activation()
    conv: _ConvNd | None = None
    bias: BiasAct | None = None
    after: Activation = Activation()
    order: str = "norm_act"  # "act_norm": `before` comes before the norm, and no convolution after
    why_not: str = ""  # why the child runs as it is

    @property
    def conv_bias(self) -> Tensor | None:
        assert self.conv is not None
        return self.conv.bias if self.bias is None else self.bias.bias

    @property
    def before_conv(self) -> int:
        """How many of the children, the norm and its activation, come before a convolution."""
        return len(self.children) if self.conv is None else self.children.index(self.conv)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        conv = self.conv
        assert conv is not None
        channels = conv.out_channels, conv.in_channels
        transposed = isinstance(conv, _ConvTransposeNd)
        return (*(channels[::-1] if transposed else channels), *conv.kernel_size)

    @property
    def geometry(self) -> Geometry:
        conv = self.conv
        assert conv is not None
        assert not isinstance(conv.padding, str)
        transposed = isinstance(conv, _ConvTransposeNd)
        added = conv.output_padding if transposed else (0,)
        dims = len(conv.kernel_size)

        def each(value: tuple[int, ...]) -> tuple[int, ...]:  # torch.nn keeps one for all as it is
            return tuple(value) if len(value) == dims else tuple(value) * dims

        return Geometry(each(conv.stride), each(conv.padding), each(added), transposed)

    def fits(self, x: Tensor) -> bool:
        """Whether x is a batch, as the ops take it; torch.nn's modules take a single item, too."""
        if self.conv is not None:
            return x.dim() == len(self.conv.kernel_size) + 2
        return not (
            isinstance(self.norm, _InstanceNorm) and x.dim() == self.norm._get_no_batch_dim()
        )

    def trains(self) -> bool:
        """Whether the norm is by the statistics of its input."""
        norm = self.norm
        if isinstance(norm, _InstanceNorm):
            return norm.training or not norm.track_running_stats
        return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)

    def without_norm(self) -> Block:
        """What is left of the block when norm and activation have been applied to its input."""
        return self._replace(norm=None, before=Activation())

    def norm_arguments(self, x: Tensor, segments: int) -> Norm | None:
        """The norm as an argument of norm_act_conv; counts the batch, as the norm's forward does.

        segments: of a plain `nn.BatchNorm`, which has none of its own.
        """
        norm = self.norm
        if norm is None:
            return None
        assert isinstance(norm, _BatchNorm | _InstanceNorm)
        norm._check_input_dim(x)
        if isinstance(norm, _BatchNorm):
            return batch_norm(
                norm, norm.segments if isinstance(norm, BatchNormActBase) else segments
            )
        momentum = 0.0 if norm.momentum is None else norm.momentum
        return Norm(
            norm.running_mean, norm.running_var, norm.weight, norm.bias, self.trains(), momentum,
            norm.eps, max(1, x.shape[0]), True,
        )  # fmt: skip

    def rows(self, batch: int, segments: int) -> int:
        """Into how many slices the norm's training statistics divide a batch."""
        if isinstance(self.norm, _InstanceNorm):
            return batch
        return self.norm.segments if isinstance(self.norm, BatchNormActBase) else segments


class Form(NamedTuple):
    """How a block runs, and why.

    name: of `tuning.FORMS`; "norm_act" without a convolution; "layers" where it runs as the layers
    it is made of by choice, "" by need.
    """

    name: str
    why: str = ""

    @property
    def plain(self) -> bool:
        return self.name in ("", "layers")


Leaf = tuple[str, nn.Module]


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
    if shared.input and _keeps(leaves[0][1]) == "output" and _is_plain_norm(leaves[1][1]):
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
    if _activation(module) is None:
        return None
    leaky = isinstance(module, nn.LeakyReLU) and not module.inplace
    return "input" if leaky else "output"


class Planned:
    """The plan of leaves, kept from call to call for as long as they are as they were.

    forms: how each block runs, by the kind of call. plain: the kinds of which every block runs as
    the layers it is made of, so that nothing has to be known of those. last: the forms of the last
    call; None where it did not ask for any.
    """

    def __init__(self, shared: Shared = NOT_SHARED) -> None:
        self.shared = shared
        self.leaves: list[Leaf] = []
        self._states: list[tuple[Any, ...]] = []
        self._blocks: list[Block] = []
        self.forms: dict[Hashable, list[Form]] = {}
        self.plain: set[Hashable] = set()
        self.last: list[Form] | None = None

    def blocks(self, leaves: list[Leaf]) -> list[Block]:
        if torch.compiler.is_compiling():
            return plan(leaves, self.shared)
        states = [_state(module) for _, module in leaves]
        if states != self._states or leaves != self.leaves:
            self.leaves, self._states = leaves, states
            self._blocks = plan(leaves, self.shared)
            self.forms.clear()
            self.plain.clear()
        return self._blocks

    def parts(self) -> list[tuple[Block, Form]]:
        """The blocks of the last call, and how each ran."""
        return list(zip(self._blocks, self.last or (), strict=False))

    def keep(self, kind: Hashable, forms: list[Form]) -> None:
        if len(self.forms) >= MAX_KINDS:
            self.forms.clear()
            self.plain.clear()
        self.forms[kind] = self.last = forms
        if all(form.plain for form in forms):
            self.plain.add(kind)

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

    first = _activation(leaf())
    if first is not None and len(leaves) > start + 1 and _is_plain_norm(leaves[start + 1][1]):
        names, children = zip(*leaves[start : start + 2], strict=True)
        return Block(names, children, children[1], first, order="act_norm")
    if _is_norm(leaf()):
        norm = leaf()
        i += 1
        if isinstance(norm, BatchNormActBase | InstanceNormActBase):
            before = Activation(norm.activation, norm.negative_slope)
        elif (found := _activation(leaf())) is not None:
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
        elif (found := _activation(following)) is not None:
            after = found
            i += 1
    why_not = ""
    if i == start:
        module = leaves[start][1]
        why_not = why_no_convolution(module) or ""
        i += 1
    names, children = zip(*leaves[start:i], strict=True)
    return Block(names, children, norm, before, conv, bias, after, why_not=why_not)


def hooked(module: nn.Module) -> bool:
    """Whether something listens to the calls of a module, or changes them."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def altered(module: nn.Module) -> bool:
    """Whether a layer may do something else than its class says."""
    return hooked(module) or "forward" in vars(module)


def _forwards_as(module: nn.Module, *bases: type[nn.Module]) -> bool:
    """Whether the module runs the forward of one of the bases (or of a subclass that keeps it)."""
    return any(type(module).forward is base.forward for base in bases)


def why_no_convolution(module: nn.Module | None) -> str | None:
    """Why a module is not run as a fused convolution; None where it is."""
    if not isinstance(module, _ConvNd):
        return "not a convolution"
    kind = type(module)
    if not _forwards_as(module, *_CONVOLUTIONS, *_TRANSPOSED):
        return f"{kind.__name__} has a forward of its own"
    if isinstance(module, _CONVOLUTIONS) and not any(
        isinstance(module, base) and kind._conv_forward is base._conv_forward
        for base in _CONVOLUTIONS
    ):
        return f"{kind.__name__} has a convolution of its own"
    if hooked(module):
        return "it has hooks"
    if altered(module):
        return "it has a forward set on the instance"
    if module.groups != 1 or any(d != 1 for d in module.dilation):
        return "groups or dilation is not 1"
    if module.padding_mode != "zeros":
        return f"its padding is {module.padding_mode}"
    if isinstance(module.padding, str):
        return f"its padding is {module.padding!r}"
    return None


def _is_norm(module: nn.Module | None) -> bool:
    if not isinstance(module, _NORMS) or altered(module):
        return False
    if isinstance(module, BatchNormActBase | InstanceNormActBase):
        own = module.order == "norm_act" and not getattr(module, "sync", False)
        return own and _forwards_as(module, BatchNormActBase, InstanceNormActBase)
    return _forwards_as(module, _BatchNorm, _InstanceNorm) and _in_range(module)


def _in_range(norm: Any) -> bool:
    """Whether a norm of torch.nn has an eps and a momentum that the ops take."""
    eps, momentum = norm.eps, norm.momentum
    try:
        norm_scalars(True, 0.0 if momentum is None else momentum, eps, 1, False)
    except (TypeError, ValueError):
        return False
    return True


def _is_plain_norm(module: nn.Module | None) -> bool:
    return _is_norm(module) and not isinstance(module, BatchNormActBase | InstanceNormActBase)


def _activation(module: nn.Module | None) -> Activation | None:
    """The activation that a module is; None if it is something else."""
    if module is None or altered(module):
        return None
    if isinstance(module, nn.LeakyReLU) and type(module) is nn.LeakyReLU:
        slope = module.negative_slope
        return Activation("leaky_relu", float(slope)) if is_slope(slope) else None
    name = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}.get(type(module))
    return None if name is None else Activation(name)
