"""Number formats: what convolutions and matrix products compute in, and the scale of losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgan.nn.layers import layer_kind

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
    """The weights of a network's convolutions and products as autocast would round them, by one
    launch for all and one for all their gradients, where autocast takes one for each.

    To be made anew for each region of autocast, whose copies it keeps as autocast does. The bits
    are autocast's, but that a kernel that would read the float32 weight itself gets a rounded one.
    A weight that is not a float32 parameter of its layer (spectral norm's, say) and a network that
    was compiled are left to autocast.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._of: dict[tuple[nn.Module, bool], list[tuple[nn.Module, Tensor, Tensor]]] = {}

    @contextmanager
    def within(self, network: nn.Module) -> Iterator[None]:
        """Inside, the layers of `network` hold the rounded weights; gradients flow to their own."""
        key = network, torch.is_grad_enabled()
        if key not in self._of:
            self._of[key] = self._rounded(network)
        try:
            for layer, _, rounded in self._of[key]:
                layer._parameters["weight"] = rounded  # type: ignore[assignment]
            yield
        finally:
            for layer, weight, _ in self._of[key]:
                layer._parameters["weight"] = weight  # type: ignore[assignment]

    def _rounded(self, network: nn.Module) -> list[tuple[nn.Module, Tensor, Tensor]]:
        layers = list(network.modules())
        if any(m._compiled_call_impl or "_orig_mod" in m._modules for m in layers):
            return []
        found = [(m, m._parameters["weight"]) for m in layers if _is_product(m)]
        weights = {id(w): w for _, w in found if w is not None and w.dtype is torch.float32}
        if not weights:
            return []
        copies = dict(zip(weights, _Rounded.apply(self._dtype, *weights.values()), strict=True))
        return [(m, w, copies[id(w)]) for m, w in found if w is not None and id(w) in copies]


def _is_product(layer: nn.Module) -> bool:
    """Whether all that a layer does with its weight is a convolution or a product."""
    known = layer_kind(layer) in ("conv", "linear") or getattr(layer, "is_product", False)
    return known and "weight" in layer._parameters


class _Rounded(torch.autograd.Function):
    """Copies of tensors of one dtype in another, those of one memory layout by one launch."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
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
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [g for g in gradients if g is not None]
        made = iter(_Rounded.apply(ctx.dtype, *given) if given else ())
        return None, *(None if g is None else next(made) for g in gradients)


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
