"""Wrong values of every kind of argument, for tables of calls that have to be refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

NO_TENSORS: list[Any] = ["a", 1.0, True, [1.0, 2.0, 3.0], np.ones(3, np.float32)]
NO_NUMBERS: list[Any] = [
    None, "a", b"1", 1j, True, torch.tensor(0.5), np.ones(2), [0.1], math.nan, math.inf, -math.inf,
]  # fmt: skip
REAL = [*NO_NUMBERS, -1.0, -1]
MOMENTUM = [*REAL, 2.0, 2, 1.001]
WHOLE = [*NO_NUMBERS, 1.5, 2.0, np.float32(1), -1, -(1 << 70)]
COUNT = [*WHOLE, 0]
FLAG: list[Any] = [None, "a", 1, 0, 1.0, torch.tensor(True), np.True_, []]
CHOICE: list[Any] = [None, "nothing", "", 1, True, b"tanh", ["tanh"], {}, torch.tensor(1)]
_STEPS: list[Any] = [
    *NO_NUMBERS, 1.5, 1.0, -1, -(1 << 70), (1,) * 5, (), (1.0, 1), (True, 1), ("1", "1"), "11",
    {1, 2}, (-1, 1), (None, 1), np.ones(2, np.int64), torch.ones(2, dtype=torch.int64),
]  # fmt: skip
STEPS = [*_STEPS, 0, (0, 1)]
PADDING = [*_STEPS, "same"]


def wrong_tensors(right: Tensor) -> list[Any]:
    """What is no tensor for floating-point kernels, of the shape of one that is right."""
    return [
        *NO_TENSORS, right.to(torch.complex64), right.int(), right.bool(), right.to_sparse(),
        torch.nested.nested_tensor([right, right]),
    ]  # fmt: skip


def input(right: Tensor) -> list[Any]:
    shapes = (3,), (), (1,) * 6
    return [None, *wrong_tensors(right), *(torch.ones(shape) for shape in shapes)]


def parameter(right: Tensor) -> list[Any]:
    """Of a tensor of one value a channel beside a float32 input."""
    of_shapes = [right[:-1], right[None], right.new_ones(()), torch.cat([right, right])]
    return [*wrong_tensors(right), right.double(), right.half(), right.to("meta"), *of_shapes]


def weight(right: Tensor) -> list[Any]:
    """Of a convolution's."""
    of_shapes = [right[:, :-1], right[:-1, :-1], right[..., 0], right[None], right.new_ones(())]
    return [None, *wrong_tensors(right), right.to("meta"), *of_shapes]


Table = dict[str, Iterable[Any]]


def cases(tables: dict[str, Table]) -> list[Any]:
    """(callable's name, argument) as pytest parameters."""
    return [
        pytest.param(name, argument, id=f"{name}-{argument}")
        for name, table in tables.items()
        for argument in table
    ]


def why_not_refused(argument: str, call: Callable[[], Any]) -> str | None:
    """None where a call raises TypeError or ValueError in one line that names the argument."""
    try:
        call()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        named = re.search(rf"(?<![a-z_]){re.escape(argument)}(?![a-z_])", str(error))
        right = type(error) in (TypeError, ValueError) and named and len(said.splitlines()) == 1
        return None if right else said
    return "is taken"


def assert_all_refused(argument: str, values: Iterable[Any], call: Callable[[Any], Any]) -> None:
    """`call` of every one of the values."""
    found = [(value, why_not_refused(argument, partial(call, value))) for value in values]
    wrong = [f"{value!r}: {why}" for value, why in found if why is not None]
    assert not wrong, "\n".join([argument, *wrong])
