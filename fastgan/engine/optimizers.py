"""Optimizers by name or of one's own, their schedules, and what a captured step asks of them."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastgan.optim import Adam, AdamW

OptimizerName = Literal[
    "adam", "adamw", "sgd", "rmsprop", "nadam", "radam", "adamax", "adagrad", "adadelta",
    "adafactor", "asgd", "rprop", "lion",
]  # fmt: skip
_KINDS: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in (
        Adam, AdamW, torch.optim.SGD, torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam,
        torch.optim.Adamax, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Adafactor,
        torch.optim.ASGD, torch.optim.Rprop,
    )
}  # fmt: skip
_FUSED = ("adam", "adamw", "sgd")
_NOT_SETTINGS = {"params", "param_names", "lr", "initial_lr"}


def named_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> Optimizer:
    """One of torch.optim by its name in lower case, or lion of lion-pytorch; Adam and AdamW are
    ``fastgan.optim``'s.

    Args:
        betas: the first is the momentum of sgd and rmsprop, the second rmsprop's alpha; an
            optimizer without momentum has no use for them.

    Raises:
        ValueError: a weight decay for an optimizer that has none.
        ModuleNotFoundError: lion, without the package of fastgan[lion].
    """
    kind = _lion() if name == "lion" else _KINDS[name]
    takes = inspect.signature(kind).parameters
    options: dict[str, Any] = {"lr": lr}
    if "betas" in takes:
        options["betas"] = betas
    elif "momentum" in takes:
        options["momentum"] = betas[0]
    if name == "rmsprop":
        options["alpha"] = betas[1]
    if weight_decay and "weight_decay" not in takes:
        raise ValueError(f"weight_decay must be 0 with optimizer {name}, got {weight_decay}")
    if weight_decay or name in ("adamw", "adafactor"):
        options["weight_decay"] = weight_decay
    if name in _FUSED:
        options["fused"] = True
    return kind([{"params": list(parameters)}], **options)


def _lion() -> type[Optimizer]:
    try:
        from lion_pytorch import Lion
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "optimizer lion needs lion-pytorch: pip install 'fastgan[lion]'"
        ) from error
    kind: type[Optimizer] = Lion
    return kind


def check_optimizer(optimizer: Optimizer, module: nn.Module, what: str) -> None:
    """An optimizer of a person's own must hold what is trained of ``module``, and nothing else.

    Raises:
        TypeError: it is none, or needs a closure.
        ValueError: it has parameters of another network, or lacks some of this one.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{what} must be a torch.optim.Optimizer or None, got {optimizer!r:.80}")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(f"{what}: {type(optimizer).__name__} needs a closure, which no step gives")
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if foreign := held - names.keys():
        raise ValueError(
            f"{what} must hold parameters of its network, {type(module).__name__}, alone: "
            f"{len(foreign)} of its {len(held)} are of another"
        )
    lacking = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in held]
    if lacking:
        raise ValueError(
            f"{what} lacks {len(lacking)} parameters of {type(module).__name__}, such as "
            f"{lacking[0]}: give it all, or set requires_grad to False of what is not trained"
        )


def prepare(optimizer: Optimizer, device: torch.device) -> None:
    """On a GPU: counts and learning rates on the device, where the optimizer can have them there.

    In a captured step a number would stay what it was when the step was captured.
    """
    for group in optimizer.param_groups:
        if device.type == "cuda":
            if "capturable" in group:
                group["capturable"] = True
            if _capturable(group):
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
                for entries in (optimizer.state.get(p, {}) for p in group["params"]):
                    if isinstance(entries.get("step"), Tensor):
                        entries["step"] = entries["step"].to(device)
        # A first update that is skipped would leave a buffer that nothing was written into.
        if isinstance(optimizer, torch.optim.SGD) and group["momentum"] and not group["dampening"]:
            for p in group["params"]:
                if p.requires_grad and optimizer.state[p].get("momentum_buffer") is None:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def skips_non_finite(optimizer: Optimizer) -> bool:
    """Whether its step heeds ``found_inf``, as torch's fused ones do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def not_capturable(optimizer: Optimizer) -> str | None:
    """Why a step with this optimizer cannot be a CUDA graph."""
    if all(map(_capturable, optimizer.param_groups)):
        return None
    return f"{type(optimizer).__name__} is neither capturable nor fused: its step asks the host"


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The plain settings of its groups, that a captured step has read."""
    return [
        {k: v for k, v in group.items() if k not in _NOT_SETTINGS and not isinstance(v, Tensor)}
        for group in optimizer.param_groups
    ]


def rates_of(optimizer: Optimizer | None) -> list[float] | None:
    """The learning rates that a person's own optimizer begins with."""
    return None if optimizer is None else [float(g["lr"]) for g in optimizer.param_groups]


class Schedulers:
    """torch's learning-rate schedulers, of a person's own optimizers: stepped after every step.

    Their state is not written down. It follows from the number of steps, so that they are stepped
    from their beginning where a run goes on or goes back.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizers: Sequence[Any]) -> None:
        for i, scheduler in enumerate(schedulers):
            if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler):
                raise TypeError(
                    f"schedulers[{i}] must follow from the number of steps, as a LRScheduler of "
                    f"torch does, got {type(scheduler).__name__}: step others in a callback"
                )
            if not any(scheduler.optimizer is optimizer for optimizer in optimizers):
                raise ValueError(f"schedulers[{i}] is of none of the optimizers")
        self._all = [(s, copy.deepcopy(s.state_dict())) for s in schedulers]
        self._groups = [
            (group, {k: copy.deepcopy(v) for k, v in group.items() if k != "params"})
            for optimizer in {id(s.optimizer): s.optimizer for s in schedulers}.values()
            for group in optimizer.param_groups
        ]
        self.settings = {"betas", "momentum"} if any(map(_cycles, schedulers)) else set[str]()
        """What they change of a group beside its learning rate."""

    def step(self) -> None:
        for scheduler, _ in self._all:
            scheduler.step()

    def replay(self, steps: int) -> None:
        """To where they are after ``steps`` steps."""
        for group, values in self._groups:
            for key, value in values.items():
                if isinstance(group.get(key), Tensor):
                    group[key].fill_(float(value))
                else:
                    group[key] = copy.deepcopy(value)
        for scheduler, state in self._all:
            scheduler.load_state_dict(copy.deepcopy(state))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no update was made in between
            for _ in range(steps):
                self.step()


def _cycles(scheduler: LRScheduler) -> bool:
    inner = getattr(scheduler, "_schedulers", ())
    return bool(getattr(scheduler, "cycle_momentum", False)) or any(map(_cycles, inner))


def _capturable(group: dict[str, Any]) -> bool:
    return bool(group.get("capturable") or group.get("fused"))
