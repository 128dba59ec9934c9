"""Number formats: what convolutions and matrix products compute in, and the scale of losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgan.nn.layers import is_compiled, is_product

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
PrecisionSetting = Literal["auto", "float32", "tf32", "bfloat16", "float16"]

_FIRST_WITH_TF32 = 8  # Ampere: the major number of its compute capability

LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_precision(setting: PrecisionSetting, device: torch.device) -> Precision:
    """``auto`` is tf32 on a GPU that has it, as in PyTorch's own convolutions, else float32."""
    if setting != "auto":
        return setting
    on_gpu = device.type == "cuda"
    fast = on_gpu and torch.cuda.get_device_capability(device)[0] >= _FIRST_WITH_TF32
    return "tf32" if fast else "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context of a forward pass: it must end before the weights that it casts are updated.

    Autocast keeps the casts of weights until it ends, so one that spanned an update would go on
    with the weights from before.
    """
    lower = LOWER.get(precision)
    return nullcontext() if lower is None else torch.autocast(device.type, lower)


class RoundedWeights:
    """The weights of networks' convolutions and products as autocast would round them, by one
    launch for all and one for all their gradients, where autocast takes one for each.

    To be made anew for each region of autocast, whose copies it keeps as autocast does. The bits
    are autocast's, but that a kernel that would read the float32 weight itself gets a rounded one.
    A weight that is not a float32 parameter of its layer (weight norm's, say; of spectral norm see
    `fastgan.nn.spectral`) and a network that was compiled are left to autocast.

    Args:
        current: copies of weights that are there already, as `WrittenCopies` has them.
        together: networks that all run in the region: the first rounds the weights of each.
        at_once: bytes of weights whose gradients are rounded by one launch, and so wait for one
            another.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        current: Mapping[Tensor, Tensor] = MappingProxyType({}),
        together: Sequence[nn.Module] = (),
        at_once: float = inf,
    ) -> None:
        self._dtype = dtype
        self._current = current
        self._together = together
        self._at_once = at_once
        self._of: dict[nn.Module, list[tuple[nn.Module, Tensor, Tensor]]] = {}

    @contextmanager
    def within(self, network: nn.Module) -> Iterator[None]:
        """Inside, the layers of `network` hold the rounded weights; gradients flow to their own."""
        if network not in self._of:
            self._round(self._together if network in self._together else (network,))
        try:
            for layer, _, rounded in self._of[network]:
                layer._parameters["weight"] = rounded  # type: ignore[assignment]
            yield
        finally:
            for layer, weight, _ in self._of[network]:
                layer._parameters["weight"] = weight  # type: ignore[assignment]

    @torch.enable_grad()
    def _round(self, networks: Sequence[nn.Module]) -> None:
        found = {network: _rounded_by_autocast(network) for network in networks}
        weights = list(dict.fromkeys(weight for layers in found.values() for _, weight in layers))
        made = {weight: self._current[weight] for weight in weights if weight in self._current}
        rest = [weight for weight in weights if weight not in made]
        made |= zip(rest, _rounded(rest, self._dtype), strict=True)
        copies: dict[Tensor, Tensor] = {}
        for some in _in_parts(weights, self._at_once):
            rounded = _Rounded.apply(self._dtype, [made[weight] for weight in some], *some)
            copies |= zip(some, rounded, strict=True)
            node = rounded[0].grad_fn
            if self._at_once < inf and node is not None:
                # Autograd takes nodes that are ready from the newest to the oldest, so this one
                # would wait for the whole network.
                node._set_sequence_nr(_NEWEST)
        for network, layers in found.items():
            self._of[network] = [(layer, weight, copies[weight]) for layer, weight in layers]


_NEWEST = 2**62


def _in_parts(weights: Sequence[Tensor], size: float) -> list[list[Tensor]]:
    """Of at most so many bytes each, or of one; from the last on, whose gradients are the first."""
    found: list[list[Tensor]] = []
    left = 0.0
    for weight in reversed(weights):
        if not found or weight.nbytes > left:
            found.append([])
            left = size
        found[-1].append(weight)
        left -= weight.nbytes
    return found


class WrittenCopies:
    """Copies of a network's weights, as `RoundedWeights` has them, that its updates write.

    Attributes:
        of: by weight.
        current: those that the last update wrote. Whoever writes weights otherwise empties it.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        weights = {weight for _, weight in _rounded_by_autocast(network)}
        self.of = {weight: torch.empty_like(weight, dtype=dtype) for weight in weights}
        self.current: dict[Tensor, Tensor] = {}

    def fits(self, network: nn.Module) -> bool:
        """Whether the network has the weights that it had."""
        return self.of.keys() == {weight for _, weight in _rounded_by_autocast(network)}


class Rounding:
    """When weights are rounded: in each region of autocast, and by one network's updates.

    at_once: as of `RoundedWeights`.
    """

    def __init__(self, at_once: float = inf) -> None:
        self._at_once = at_once
        self._region: RoundedWeights | None = None
        self._written: WrittenCopies | None = None

    @contextmanager
    def region(self, dtype: torch.dtype | None, together: Sequence[nn.Module]) -> Iterator[None]:
        """Of autocast to ``dtype``; None: weights are left to it."""
        before = self._region
        current = self._written.current if self._written else {}
        if dtype is None:
            self._region = None
        else:
            self._region = RoundedWeights(dtype, current, together, self._at_once)
        try:
            yield
        finally:
            self._region = before

    @contextmanager
    def step(self, update: Any, network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
        """Within, updates alone write the weights of a network, and are to write the copies."""
        if self._written is None or not self._written.fits(network):
            self._written = WrittenCopies(network, dtype)
        update.copies = self._written
        try:
            yield
        finally:
            update.copies, self._written.current = None, {}

    def within(self, network: nn.Module) -> AbstractContextManager[None]:
        """Inside, a network runs with weights that are rounded, where it is in such a region."""
        return nullcontext() if self._region is None else self._region.within(network)


def _rounded_by_autocast(network: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """The layers whose weight may be rounded for them, and that."""
    if is_compiled(network):
        return []
    layers = [m for m in network.modules() if is_product(m) and "weight" in m._parameters]
    found = [(m, m._parameters["weight"]) for m in layers]
    return [(m, w) for m, w in found if w is not None and w.dtype is torch.float32]


@torch.no_grad()
def _rounded(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies in a dtype, those of one memory layout by one launch."""
    made = [torch.empty_like(t, dtype=dtype) for t in tensors]
    pairs = list(zip(made, tensors, strict=True))
    # Of a tensor that is not dense empty_like changes the strides.
    alike = [pair for pair in pairs if pair[0].stride() == pair[1].stride()]
    if alike:
        copies, sources = (list(side) for side in zip(*alike, strict=True))
        torch._foreach_copy_(copies, sources)
    for copy, t in pairs:
        if copy.stride() != t.stride():
            copy.copy_(t)
    return made


class _Rounded(torch.autograd.Function):
    """Tensors of one dtype in another. made: copies that are there already."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, made: Sequence[Tensor] | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        if made is None:
            return tuple(_rounded(tensors, dtype))
        return tuple(copy.detach() for copy in made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [g for g in gradients if g is not None]
        made = iter(_Rounded.apply(ctx.dtype, None, *given) if given else ())
        return None, None, *(None if g is None else next(made) for g in gradients)


class LossScale:
    """Dynamic loss scaling on the device, by the rule of ``torch.amp.GradScaler``.

    The loss is multiplied by ``value`` so that small gradients survive float16. A gradient that is
    not finite halves it; ``INTERVAL`` updates without one double it. It does not fall below 1: from
    there on what is not finite is no matter of the scale. Nothing here waits for the device.
    """

    INITIAL, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(self.INITIAL, device=device)
        self._growth = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, found_inf: Tensor) -> None:
        """After an update: ``found_inf`` is 1.0 where a gradient was not finite, else 0.0."""
        torch._amp_update_scale_(
            self.value, self._growth, found_inf, self.GROWTH, self.BACKOFF, self.INTERVAL
        )
        self.value.clamp_(min=1.0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"scale": self.value, "scale_growth": self._growth}
