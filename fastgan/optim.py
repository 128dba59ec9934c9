"""Optimizers: torch.optim's, without a detour that channels-last weights make on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`: arguments, state and results are the same, bit for bit.

    With `fused=True` PyTorch copies every channels-last weight of a CPU at every step, which takes
    as long as the update. Here the update sees such a weight, its gradient and its moments as
    contiguous views of the same memory.

    A state whose shapes are not those of the parameters, by which PyTorch's fused update reads and
    writes other memory, is a ValueError: where it is loaded, and in a step.
    """

    instead: Callable[..., bool] | None = None
    """Called in a step with a group and lists of its parameters, their gradients, moments, largest
    moments and counts: it may update them in PyTorch's place, and says whether it has."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.check_state(state_dict)
        super().load_state_dict(state_dict)
        for parameter, entries in self.state.items():
            for key, value in entries.items():
                # Fused updates walk a parameter and its moments in memory order, and the moments of
                # a plain torch.optim.Adam, or of a file, may lie otherwise.
                if isinstance(value, Tensor) and value.stride() != parameter.stride():
                    entries[key] = laid_out_as(parameter, value)

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """ValueError unless `state_dict` fits; nothing is loaded."""
        groups = state_dict["param_groups"]
        own = [p for group in self.param_groups for p in group["params"]]
        saved = [index for group in groups for index in group["params"]]
        if len(saved) != len(own):
            raise ValueError(f"the state is of {len(saved)} parameters, here are {len(own)}")
        largest = [group.get("amsgrad", False) for group in groups for _ in group["params"]]
        for index, parameter, amsgrad in zip(saved, own, largest, strict=True):
            state = state_dict["state"].get(index)
            if not state:
                continue  # a parameter that never had a gradient
            moments = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else [])]
            if missing := {"step", *moments} - state.keys():
                raise ValueError(f"the state of parameter {index} has no {sorted(missing)[0]}")
            count = state["step"]
            if isinstance(count, Tensor) and count.numel() != 1:
                raise ValueError(f"step of parameter {index} must be one number, got {count}")
            for name in moments:
                found = state[name].shape
                if found != parameter.shape:
                    raise ValueError(
                        f"{name} of parameter {index} has shape {list(found)}, the parameter "
                        f"{list(parameter.shape)}"
                    )

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> Any:
        complex_or_not = super()._init_group(group, *lists)
        self._require_shapes(group, lists)
        if self.instead is not None and self.instead(group, *lists):
            for tensors in lists:
                tensors.clear()
        if group["fused"]:
            # Of each parameter: itself, gradient, moments and, with amsgrad, their largest.
            of_each = [tensors for tensors in lists[:5] if tensors]
            for i, given in enumerate(zip(*of_each, strict=True)):
                for tensors, view in zip(of_each, as_contiguous(given), strict=True):
                    tensors[i] = view
        return complex_or_not

    def _require_shapes(self, group: dict[str, Any], lists: tuple[list[Tensor], ...]) -> None:
        """Of what a step is about to work on: parameters, gradients, moments, largest, counts.

        Shapes are compared when a tensor of the state is another one than in the step before.
        """
        parameters, _, *moments, counts = lists
        sizes, state = list(map(Tensor.numel, parameters)), list(chain(*moments, counts))
        checked = self.__dict__.setdefault("_checked", {})
        known = checked.get(id(group))
        same = known and known[0] == sizes and len(known[1]) == len(state)
        if same and all(map(is_, known[1], state)):
            return
        for of_each in moments:
            for parameter, moment in zip(parameters, of_each, strict=bool(of_each)):
                if moment.shape != parameter.shape:
                    raise ValueError(
                        f"a moment has shape {list(moment.shape)}, its parameter "
                        f"{list(parameter.shape)}"
                    )
        for count in counts:
            if count.numel() != 1:
                raise ValueError(f"the step of a parameter must be one number, got {count}")
        checked[id(group)] = sizes, state


class AdamW(Adam, torch.optim.AdamW):
    """`torch.optim.AdamW` (decoupled weight decay), likewise."""


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A tensor of a parameter's shape in the parameter's memory order; any other as it is."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def as_contiguous(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Views of tensors of one layout that are contiguous; those given where there are none."""
    first, *others = tensors
    if (
        first.is_contiguous()
        or first.device.type != "cpu"
        or any(t.stride() != first.stride() for t in others)
    ):
        return tensors
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    views = tuple(t.permute(order) for t in tensors)
    return views if views[0].is_contiguous() else tensors
