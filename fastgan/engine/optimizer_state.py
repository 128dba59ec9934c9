"""An optimizer's state as named tensors and JSON-ready values, and back."""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastgan.engine.checkpoint import CheckpointError, require_alike
from fastgan.optim import Adam, laid_out_as

# Of an optimizer's group: how the update is computed, where the parameters are, and the learning
# rate, which each step sets. The rest is the algorithm.
_NOT_THE_ALGORITHM = {"params", "lr", "foreach", "capturable", "differentiable", "fused"}


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and JSON-ready values."""
    state = optimizer.state_dict()
    entries = {f"{i}.{key}": v for i, kept in state["state"].items() for key, v in kept.items()}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in entries.items() if name not in tensors}
    groups = [
        {k: float(v) if isinstance(v, Tensor) else v for k, v in group.items()}
        for group in state["param_groups"]
    ]
    kind = type(optimizer).__qualname__
    return tensors, {"type": kind, "values": values, "param_groups": groups}


def changed_optimizer(
    name: str, optimizer: Optimizer, info: dict[str, Any], scheduled: Set[str] = frozenset()
) -> list[str]:
    """How the algorithm of ``optimizer`` differs from the one that ``info`` was packed from.

    ``scheduled`` are settings that change from step to step.
    """
    packed = json.loads(json.dumps(pack_optimizer(optimizer)[1]))
    own, saved = packed["param_groups"], info["param_groups"]
    if info.get("type", packed["type"]) != packed["type"]:
        return [f"{name}: {info['type']} in the checkpoint, {packed['type']} now"]
    if [g["params"] for g in saved] != [g["params"] for g in own]:
        return [f"{name}: groups of other parameters"]
    return [
        f"{name}.{key}: {theirs[key]!r} in the checkpoint, {ours[key]!r} now"
        for theirs, ours in zip(saved, own, strict=True)
        for key in sorted(ours.keys() & theirs.keys() - _NOT_THE_ALGORITHM - scheduled)
        if theirs[key] != ours[key]
    ]


def fitting_optimizer_state(
    optimizer: Optimizer, tensors: dict[str, Tensor], info: dict[str, Any], what: str
) -> dict[str, Any]:
    """What :func:`pack_optimizer` gave, as ``load_optimizer`` takes it.

    Raises:
        CheckpointError: an entry is of no parameter of ``optimizer``, or of another shape or dtype.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    own = {}
    for name, value in {**tensors, **info["values"]}.items():
        index, _, key = name.partition(".")
        if not (index.isdecimal() and int(index) < len(parameters) and key):
            raise CheckpointError(f"the checkpoint's {what} has {name}, which is of no parameter")
        state.setdefault(int(index), {})[key] = value
        if isinstance(value, Tensor):
            own[name] = _of_state(key, value, parameters[int(index)])
    require_alike(tensors, own, f"{what} is of other parameters")
    # How the update is computed is the optimizer's own: the run may be on another device now.
    own_groups = optimizer.state_dict()["param_groups"]
    groups = [
        {**own, "lr": theirs["lr"]}
        for own, theirs in zip(own_groups, info["param_groups"], strict=True)
    ]
    packed = {"state": state, "param_groups": groups}
    if isinstance(optimizer, Adam):
        try:
            optimizer.check_state(packed)
        except ValueError as error:
            raise CheckpointError(f"the checkpoint's {what} does not fit: {error}") from error
    return packed


def load_optimizer(optimizer: Optimizer, packed: dict[str, Any]) -> None:
    """Load what :func:`fitting_optimizer_state` gave."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(packed)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            # A captured step reads the rate from this very tensor.
            group["lr"] = rate.fill_(group["lr"])
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            # Fused optimizers read a parameter and its moments in memory order; a file keeps none.
            if isinstance(value, Tensor):
                entries[key] = laid_out_as(parameter, value)


def _of_state(key: str, value: Tensor, parameter: Tensor) -> Tensor:
    """What stands where ``value`` would be loaded: a count, a moment, or a factor of one."""
    dtype = value.dtype if value.is_floating_point() else torch.float32
    if key == "step" or value.dim() == 0:  # NAdam's and ASGD's products and rates
        return torch.zeros((), dtype=dtype)
    factor = value.dim() == parameter.dim() and all(
        size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True)
    )
    # Adafactor keeps rows and columns.
    return torch.empty(value.shape, dtype=dtype) if factor and "var" in key else parameter
