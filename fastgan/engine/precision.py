"""Number formats: what convolutions and matrix products compute in, and the scale of losses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
PrecisionSetting = Literal["auto", "float32", "tf32", "bfloat16", "float16"]

_FIRST_WITH_TF32 = 8  # Ampere: the major number of its compute capability

_LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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
    lower = _LOWER.get(precision)
    return nullcontext() if lower is None else torch.autocast(device.type, lower)


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
