"""From a network's losses to its new weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.precision import LossScale
from fastgan.optim import Adam
from fastgan.regularizers import clip_weights_


class Update:
    """The gradients of one network and the optimizer that applies them, all on the device.

    ``start``, any number of ``backward``, ``finish``: the mean of the gradients over the processes
    is taken, then they are checked, clipped and applied. An update with a gradient that is not
    finite changes neither weights nor moments, and is counted.

    Args:
        module: its parameters are updated; a network that is not there has none.
        lr, betas: Adam's.
        loss_scale: for float16.
        clip: the gradient is scaled down to this norm; 0 leaves it.
        bound: the parameters are clipped to [-bound, bound] after each update; 0 leaves them.
        group: the processes that train together.
        device: of the parameters; by default that of the first.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        betas: tuple[float, float],
        *,
        loss_scale: LossScale | None = None,
        clip: float = 0.0,
        bound: float = 0.0,
        group: DistributedGroup | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.device = device or next(module.parameters()).device
        on_gpu = self.device.type == "cuda"
        parameters = {"params": list(module.parameters())}
        self.optimizer = Adam([parameters], lr, betas, fused=True, capturable=on_gpu)
        if on_gpu:
            # In a captured step a number would stay what it was when the step was captured.
            self.optimizer.param_groups[0]["lr"] = torch.tensor(lr, device=self.device)
        self.loss_scale = loss_scale
        self.clip = clip
        self.bound = bound
        self._module = module
        self.group = group or DistributedGroup()
        self.skipped = torch.zeros((), device=self.device)
        """Updates that were skipped for a gradient that was not finite."""
        self.overflows = torch.zeros((), device=self.device)
        """Of them those that a smaller loss scale may mend: the ordinary life of float16."""
        self._found_inf = torch.zeros((), device=self.device)
        self._one = torch.ones((), device=self.device)

    @property
    def scale(self) -> Tensor:
        """What losses are multiplied by before their backward pass."""
        return self._one if self.loss_scale is None else self.loss_scale.value

    def scaled(self, loss: Tensor) -> Tensor:
        return loss if self.loss_scale is None else loss * self.loss_scale.value

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next update; on a GPU it is written without waiting."""
        group = self.optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr

    def start(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(
        self,
        loss: Tensor,
        *,
        own_only: bool = False,
        of: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Add the gradients of ``loss``; ``own_only`` leaves other leaves of its graph alone, and
        ``of`` names the parameters whose gradients are wanted."""
        inputs, loss = self.parameters if own_only else of, self.scaled(loss)
        # Else autograd fills a new one.
        fits = loss.shape == self._one.shape and loss.dtype is self._one.dtype
        loss.backward(self._one if fits else None, inputs=inputs, retain_graph=retain_graph)

    def finish(self) -> None:
        """Apply the gradients."""
        self.group.average_gradients(self.parameters)
        self._unscale_and_check()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.found_inf = self._found_inf  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.bound:
            clip_weights_(self._module, self.bound)
        self.skipped += self._found_inf
        if self.loss_scale is not None:
            self.overflows += self._found_inf * (self.loss_scale.value > 1)
            self.loss_scale.update(self._found_inf)

    def state_dict(self) -> dict[str, Tensor]:
        """What is not in the optimizer, by name: counts, and the loss scale. To be written into."""
        counts = {"skipped": self.skipped, "overflows": self.overflows}
        return counts | (self.loss_scale.state_dict() if self.loss_scale else {})

    def _unscale_and_check(self) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for parameter in self.parameters:
            if parameter.grad is not None:
                by_type[parameter.grad.dtype].append(parameter.grad)
        inverse = self._one if self.loss_scale is None else self.scale.double().reciprocal().float()
        self._found_inf.zero_()
        for gradients in by_type.values():
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found_inf, inverse)
