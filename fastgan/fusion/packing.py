"""A convolution of a folded model, whose weight is packed once."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastgan.fusion.chain import Chain
from fastgan.nn import layout, steps
from fastgan.nn.blocks import described, per_dimension
from fastgan.nn.layers import activation, altered, layer_kind, why_not_layer
from fastgan.nn.planner import Form, Leaf
from fastgan.nn.recording import Run, is_recording, record
from fastgan.ops.conv import packed
from fastgan.ops.core import dispatch, native
from fastgan.ops.core.activation import IDENTITY
from fastgan.ops.core.memory_format import channels_last_strides
from fastgan.ops.core.setting import Setting
from fastgan.ops.core.tensors import activation_code

MAX_SHAPES = 4  # of inputs, for each of which the packed weight may be another
_SETTINGS = ("stride", "padding", "output_padding", "dilation", "groups", "negative_slope")
_CHOSEN = "calls", "packed", "settings", "known"
FORM = Form("packed", "its weight is packed once, its bias and activation come with it")


def packable(module: nn.Module) -> bool:
    """Whether a layer is a convolution that may run with packed weights."""
    if not isinstance(module, _ConvNd) or layer_kind(module) != "conv" or why_not_layer(module):
        return False
    depthwise = module.groups == module.in_channels == module.out_channels
    # In a few groups oneDNN takes up to twice as long channels-last.
    few_groups = module.groups > 1 and not depthwise
    return module.padding_mode == "zeros" and not isinstance(module.padding, str) and not few_groups


class _Call(NamedTuple):
    """What runs inputs of a shape: the strides they have to have, and those of the result."""

    strides: tuple[int, ...]
    run: packed.Call | None  # None: torch.nn's layers are faster


class _Known(NamedTuple):
    """What answers a call that is like an earlier one, as long as `relies` is as it was."""

    relies: steps.State
    run: packed.Call
    is_marked: bool  # whether the strides of the result say that it is channels-last


class PackedChain(Chain):
    """A convolution and, it may be, the activation after it, for inference.

    Channels-last float32 inputs that ask for no gradient run with a weight that is packed at the
    first of them; all others as a `Chain` does. The weight is packed again when it is another, or
    has changed by its version counter: a change through `.data` is not seen.
    """

    def __init__(self, layers: list[Leaf], keep_activations: bool) -> None:
        super().__init__(layers, keep_activations)
        self._forget()

    def _forget(self) -> None:
        self.calls: dict[tuple[int, ...], _Call] = {}
        self.packed: tuple[Tensor, Tensor, int] | None = None  # the weight, its memory, its version
        self.settings: list[object] = []
        self.known: dict[Hashable, _Known] = {}  # by kind of call

    def __getstate__(self) -> dict[str, object]:  # a copy packs for itself
        return {k: v for k, v in vars(self).items() if k not in _CHOSEN}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._forget()

    @property
    def conv(self) -> _ConvNd:
        conv = self.leaves[0][1]
        assert isinstance(conv, _ConvNd)
        return conv

    def forward(self, input: Tensor) -> Tensor:
        if known := self._like_earlier(input):
            self.planned.last = [FORM]
            output = known.run(input, self.conv._parameters["bias"])
            return output if known.is_marked else layout.marked(output)
        run = self._packed(input) if self._serves(input) else None
        if run is None:
            return super().forward(input)
        result = run(input, self.conv.bias)
        output = layout.marked(result)
        self.planned.last = [FORM]
        if is_recording():
            block = self.planned.blocks(self.leaves)[0]
            record(Run(block, input, output, *FORM, False))
        else:
            self._know(input, run, output is result)
        return output

    def _like_earlier(self, x: Tensor) -> _Known | None:
        """What answered a call of this kind: for few steps where images are few."""
        if not self.known or not dispatch.is_eager(x) or is_recording():
            return None
        known: _Known | None
        known = native.WITH_AUTOGRAD.known(self.known, False, Setting.state, (x,))
        if not known or not steps.unchanged(known.relies) or not torch._C._get_mkldnn_enabled():
            return None
        weight = self.conv._parameters["weight"]
        return known if weight is not None and self._is_current(weight) else None

    def _know(self, x: Tensor, run: packed.Call, is_marked: bool) -> None:
        """Remembers a call without gradients: whether layers ask for one may change."""
        if torch.is_grad_enabled():
            return
        relies = steps.state_of(layer for _, layer in self.leaves)
        kind = native.WITH_AUTOGRAD.call_kind(False, Setting.state, (x,))
        if relies is None or kind is None:
            return
        if len(self.known) >= MAX_SHAPES:
            self.known.clear()
        self.known[kind] = _Known(relies, run, is_marked)

    def _serves(self, x: Tensor) -> bool:
        """Whether a call may run with a packed weight, for all that differs from call to call."""
        if not dispatch.is_eager(x) or x.dtype is not torch.float32 or not x.is_cpu:
            return False
        if torch.is_autocast_enabled("cpu") or dispatch.setting() != "auto":
            return False
        asks = torch.is_grad_enabled()
        if asks and x.requires_grad:
            return False
        for _, layer in self.leaves:
            if altered(layer) or (asks and any(p.requires_grad for p in layer.parameters())):
                return False
        return torch._C._get_mkldnn_enabled()

    def _packed(self, x: Tensor) -> packed.Call | None:
        """What runs the layers with the weight packed; None where they run as they are."""
        weight = self.conv._parameters["weight"]
        if weight is None:
            return None
        settings = [vars(layer).get(name) for _, layer in self.leaves for name in _SETTINGS]
        if settings != self.settings or not self._is_current(weight):
            self.calls.clear()
            self.known.clear()
            self.settings = settings
            # A view keeps the memory, so that no other weight can come to lie there.
            version = -1 if weight.is_inference() else weight._version
            self.packed = weight, weight.detach(), version
        call = self.calls.get(x.shape)
        if call is None:
            call = self._call(tuple(x.shape), weight)
        return call.run if x.stride() == call.strides else None

    def _is_current(self, weight: Tensor) -> bool:
        if self.packed is None:
            return False
        known, memory, version = self.packed
        if known is not weight or memory.data_ptr() != weight.data_ptr():
            return False
        return version == -1 or version == weight._version

    def _call(self, shape: tuple[int, ...], weight: Tensor) -> _Call:
        if len(self.calls) >= MAX_SHAPES:
            self.calls.clear()
        run = None
        if self._fits(shape, weight):
            made = self.convolution(shape)
            run = made.call() if made.pays else None
        self.calls[shape] = _Call(channels_last_strides(shape), run)
        return self.calls[shape]

    def _fits(self, shape: tuple[int, ...], weight: Tensor) -> bool:
        """Whether inputs of a shape may run so: one position of one channel lies either way."""
        conv = self.conv
        return (
            packed.why_not("cpu", weight.dtype) is None
            and (conv.bias is None or conv.bias.dtype is weight.dtype)
            and not weight.is_inference()  # its changes are not counted
            and len(shape) == weight.dim() > 3  # torch.nn knows no channels-last rows
            and shape[1] == conv.in_channels
            and shape[0] > 0
            and math.prod(shape[1:]) > 1
        )

    def convolution(self, shape: tuple[int, ...]) -> packed.Convolution:
        """The layers, for an input of a shape."""
        conv = self.conv
        geometry = described(conv)[1]
        dilation = per_dimension(conv, conv.dilation)
        after = activation(self.leaves[1][1]) if len(self.leaves) > 1 else None
        code = IDENTITY if after is None else activation_code(*after)
        weight = conv.weight.detach()
        return packed.Convolution(shape, weight, geometry, dilation, conv.groups, code)

    def costs(self, x: Tensor) -> tuple[float, float] | None:
        """As of `packed.Convolution`; x: like an input on a CPU."""
        if packed.why_not("cpu", x.dtype) is not None or self.conv.weight.dtype is not x.dtype:
            return None
        return self.convolution(tuple(x.shape)).costs
