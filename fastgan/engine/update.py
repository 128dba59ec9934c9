"""From a network's losses to its new weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.ema import Ema
from fastgan.engine.optimizers import named_optimizer, not_capturable, prepare, skips_non_finite
from fastgan.engine.precision import LossScale, WrittenCopies
from fastgan.engine.reduction import Reduction
from fastgan.ops import adam
from fastgan.optim import Adam
from fastgan.regularizers import clip_weights_


class Update:
    """The gradients of one network and the optimizer that applies them, all on the device.

    ``start``, any number of ``backward``, ``finish``: the mean of the gradients over the processes
    is taken, then they are checked, clipped and applied. An update with a gradient that is not
    finite changes neither weights nor moments, and is counted.

    Args:
        module: its parameters are updated; a network that is not there has none.
        lr, betas: Adam's, where no optimizer is given.
        optimizer: any of torch.optim, of the parameters of ``module``.
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
        optimizer: Optimizer | None = None,
        loss_scale: LossScale | None = None,
        clip: float = 0.0,
        bound: float = 0.0,
        group: DistributedGroup | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.device = device or next(module.parameters()).device
        if optimizer is None:
            optimizer = named_optimizer("adam", module.parameters(), lr, betas)
        prepare(optimizer, self.device)
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self.clip = clip
        self.bound = bound
        self._module = module
        self.group = group or DistributedGroup()
        self._reduction = Reduction(self.parameters, self.group)
        self.skipped = torch.zeros((), device=self.device)
        """Updates that were skipped for a gradient that was not finite."""
        self.overflows = torch.zeros((), device=self.device)
        """Of them those that a smaller loss scale may mend: the ordinary life of float16."""
        self.ema: Ema | None = None
        """The average that an update is to move in its own pass, where it can: for steps that make
        one update and then `Ema.update`."""
        self.copies: WrittenCopies | None = None
        """Copies of parameters that an update is to write in its own pass, where it can."""
        self._found_inf = torch.zeros((), device=self.device)
        self._found: Tensor | None = None  # the same, where it is known before the step
        self._all_finite = False  # where the host knows it, which spares the optimizer a look
        self._counted = False
        if isinstance(optimizer, Adam):
            optimizer.instead = self._in_one_pass
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

    def start(self, passes: int = 0) -> None:
        """Begin an update of so many backward passes: in the last, gradients travel to the other
        processes as they come. Where the number is not said, all travel in ``finish``."""
        if isinstance(self.optimizer, Adam):  # past what zero_grad tells a profiler
            for parameter in self.parameters:
                parameter.grad = None
        else:
            self.optimizer.zero_grad(set_to_none=True)
        self._reduction.start(passes)

    def begin_pass(self) -> None:
        """Begin a backward pass of the update that is not made by ``backward``."""
        self._reduction.begin_pass()

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
        self.begin_pass()
        loss.backward(self._one if fits else None, inputs=inputs, retain_graph=retain_graph)

    def finish(self) -> None:
        """Apply the gradients."""
        self._reduction.finish()
        alone = len(self.optimizer.param_groups) == 1
        self._found, self._all_finite, self._counted = None, False, False
        if self.copies:
            self.copies.current = {}
        heeds = skips_non_finite(self.optimizer)
        checks = heeds and alone and isinstance(self.optimizer, Adam)  # in its one pass
        if not checks or self.clip or self.loss_scale is not None:
            self._unscale_and_check()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if heeds:
            self._tell_optimizer()
            self.optimizer.step()
        else:
            self._step_unless_found()
        if self.bound:
            clip_weights_(self._module, self.bound)
        if not (self._counted or self._all_finite):
            self.skipped += self._found_inf
        if self.loss_scale is not None:
            self.overflows += self._found_inf * (self.loss_scale.value > 1)
            self.loss_scale.update(self._found_inf)

    def state_dict(self) -> dict[str, Tensor]:
        """What is not in the optimizer, by name: counts, and the loss scale. To be written into."""
        counts = {"skipped": self.skipped, "overflows": self.overflows}
        return counts | (self.loss_scale.state_dict() if self.loss_scale else {})

    @torch.no_grad()
    def _step_unless_found(self) -> None:
        """The step of an optimizer that does not itself skip gradients that are not finite."""
        on_gpu = self.device.type == "cuda"
        # The first step of a run is never captured, and makes the state.
        if not on_gpu or not self.optimizer.state or not_capturable(self.optimizer):
            if not bool(self._found_inf):
                self.optimizer.step()
            return
        states = self.optimizer.state.values()
        tensors = [v for entries in states for v in entries.values() if isinstance(v, Tensor)]
        tensors += self.parameters
        before = [tensor.clone() for tensor in tensors]
        self.optimizer.step()
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(self._found_inf > 0, old, tensor))

    def _in_one_pass(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        largest: list[Tensor],
        steps: list[Tensor],
    ) -> bool:
        """Makes the optimizer's step where `ops.adam` can, else checks the gradients for it."""
        lr, other = group["lr"], group["maximize"] or group.get("decoupled_weight_decay")
        plain = group["fused"] and not (largest or other)
        if not (plain and isinstance(lr, Tensor) and lr.device == self.device):
            return self._left_to_torch()
        alone = len(self.optimizer.param_groups) == 1
        ema = self.ema if alone and self.ema and self.ema.moves(parameters) else None
        averages = [ema.of[p] if ema else None for p in parameters]
        of = self.copies.of if self.copies and not self.bound else {}
        copies = [of.get(p) for p in parameters]
        tensors = parameters, gradients, exp_avgs, exp_avg_sqs, steps, averages
        if not adam.serves(parameters, copies, *tensors[1:]):
            return self._left_to_torch()
        rule = *group["betas"], group["eps"], group["weight_decay"]
        skipped = self.skipped if alone else None
        rate = ema.rate if ema else None
        adam.adam_(*tensors, copies, lr, rate, self._found, skipped, rule)
        self._counted = alone
        if ema:
            ema.moved = True
        if self.copies and of:
            self.copies.current |= {p: of[p] for p in parameters if p in of}
            # What was computed by the copies before can no longer go backward.
            torch.autograd.graph.increment_version(self.copies.current.values())
        return True

    def _left_to_torch(self) -> bool:
        """Has the gradients checked for the optimizer's own step."""
        if self._found is None:
            self._unscale_and_check()
            self._tell_optimizer()
        return False

    def _tell_optimizer(self) -> None:
        found = None if self._all_finite else self._found_inf
        self.optimizer.found_inf = found  # type: ignore[attr-defined]

    def _unscale_and_check(self) -> None:
        found = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self._found = self._found_inf
        if self.device.type == "cpu" and self.loss_scale is None and _have_finite_sums(found):
            self._found_inf.zero_()
            self._all_finite = True
            return
        by_type: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for gradient in found:
            by_type[gradient.dtype].append(gradient)
        inverse = self._one if self.loss_scale is None else self.scale.double().reciprocal().float()
        self._found_inf.zero_()
        for gradients in by_type.values():
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found_inf, inverse)


def _have_finite_sums(gradients: Sequence[Tensor]) -> bool:
    """Whether all values are certainly finite. On a CPU this reads gradients once, where the check
    that is made where it is not so writes them, too, and takes twice as long."""
    return math.isfinite(sum([gradient.sum().item() for gradient in gradients]))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, ``module``'s parameters get no gradient; gradients still flow through it."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
