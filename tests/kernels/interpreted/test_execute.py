"""tools/rehearse: calls of a recorded step, executed in the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import fastgan.kernels.conv_block.tma.plan as _plan
from fastgan.kernels import norm_act
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.mean_loss.reference import CROSS_ENTROPY, HINGE, Term
from fastgan.ops.norm_act.arguments import NormTensors
from fastgan.ops.norm_act_conv import fused
from fastgan.ops.norm_act_conv.arguments import Backward, Forward, Spec
from fastgan.ops.norm_act_conv.fused import Companions, Statistics
from tools.rehearse.execute import execute
from tools.rehearse.interpreter import launches
from tools.rehearse.record import Call
from tools.rehearse.record import Spec as TensorSpec


@pytest.fixture(autouse=True)
def _on_tma(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_plan, "has_tma", lambda device: True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def images(n: int, c: int, side: int, offset: int = 0) -> TensorSpec:
    stride = (c * side * side, 1, c * side, c)
    return TensorSpec((n, c, side, side), stride, torch.bfloat16, offset)


def floats(*shape: int) -> TensorSpec:
    return TensorSpec(shape, torch.empty(shape).stride(), torch.float32, 0)


C16 = floats(16)
TRAIN = Call("norm_act_train", "norm_act", (images(4, 16, 8), C16, C16, 1e-5, 0, 0.2, 1, False))
MOVE = Call("update_running_stats_", "norm_act", (C16, C16, *[floats(1, 16)] * 2, 0.1, 64, False))
SPEC = Spec(1e-5, 0, 0.2, True, 2, Geometry((2, 2), (1, 1), (0, 0), False), 0, 0.2)
WEIGHT = floats(32, 16, 4, 4)
PIECES = Statistics(floats(2, 3), floats(2, 3, 16), floats(2, 3, 16))
FORWARD = Call(
    "forward", "fused",
    (
        Forward(images(4, 16, 8), WEIGHT, None, NormTensors(None, None, C16, C16), SPEC, True),
        Companions(PIECES, (C16, C16), 0.1, False, 2),
    ),
)  # fmt: skip
NORM = NormTensors(floats(2, 16), floats(2, 16), C16, C16)
BACKWARD = Call(
    "backward", "fused",
    (
        Backward(images(4, 32, 4), images(4, 16, 8), images(4, 32, 4), images(4, 16, 8), WEIGHT,
                 NORM, SPEC, True, True, True, True),
        floats(2, 3, 16),
    ),
)  # fmt: skip


def in_tf32(call: Call) -> Call:
    """Of float32."""

    def widened(value: Any) -> Any:
        if isinstance(value, TensorSpec):
            return replace(value, dtype=torch.float32)
        if not isinstance(value, tuple):
            return value
        held = map(widened, value)
        return type(value)(*held) if hasattr(value, "_fields") else tuple(held)

    return replace(call, arguments=widened(call.arguments), precision="tf32")


OF_TF32 = [in_tf32(FORWARD), in_tf32(BACKWARD)]
LOGITS, TERMS = (floats(4, 1), images(4, 1, 1)), (Term(CROSS_ENTROPY, 0.9), Term(HINGE, -1.0))
LOSS = Call("mean_loss", "mean_loss", (LOGITS, TERMS))
LOSS_BACKWARD = Call("mean_loss_backward", "mean_loss", (floats(), LOGITS, TERMS))
CALLS = [TRAIN, MOVE, FORWARD, BACKWARD, *OF_TF32, LOSS, LOSS_BACKWARD]


@pytest.mark.parametrize("call", CALLS, ids=lambda c: f"{c.op} {c.precision}")
def test_what_kernels_compute_is_accepted(call: Call) -> None:
    assert execute(call) == []


@pytest.mark.parametrize("call", OF_TF32, ids=lambda c: c.op)
def test_a_call_in_tf32_runs_as_it_was_recorded(call: Call) -> None:
    """By the kernels that TF32 has, and so not with the digits of float32."""
    with launches() as counted:
        assert execute(call) == []
    assert counted["tma_conv_kernel"] == 1
    with launches() as counted:
        assert execute(replace(call, precision="ieee")) == []
    assert not counted["tma_conv_kernel"]


def test_tensors_are_as_they_were_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def note(x: torch.Tensor, *rest: Any) -> Any:
        seen.append(x)
        return norm_act_train(x, *rest)

    norm_act_train = norm_act.norm_act_train
    monkeypatch.setattr(norm_act, "norm_act_train", note)
    call = Call(TRAIN.op, TRAIN.module, (images(4, 16, 8, offset=6), *TRAIN.arguments[1:]))
    assert execute(call) == []
    (x,) = seen
    assert x.stride() == (1024, 1, 128, 16)
    assert x.data_ptr() % 16 == 6


def unwritten(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    results[0][-1, -1] = torch.nan
    return results


def of_another_dtype(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return results[0].half(), *results[1:]


def off(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return results[0], results[1] + 1e-4, *results[2:]


def absent(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return results[0].new_empty(0), *results[1:]


@pytest.mark.parametrize("wrong", [unwritten, of_another_dtype, off, absent])
def test_what_they_do_not_compute_is_told(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = norm_act.norm_act_train
    monkeypatch.setattr(norm_act, "norm_act_train", lambda *a: wrong(train(*a)))
    (told,) = execute(TRAIN)
    assert told.startswith("norm_act.norm_act_train 4x16x8x8:bfloat16 16:float32")


def test_statistics_that_travel_and_move_are_held_too(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = fused.forward

    def moved_twice(a: Any, backend: str, *, companions: Companions) -> Any:
        found = forward(a, backend, companions=companions)
        companions.running[1].mul_(1.1)  # type: ignore[index]
        of_y = found.statistics
        return found._replace(statistics=of_y._replace(m2s=of_y.m2s * 1.1))

    monkeypatch.setattr(fused, "forward", moved_twice)
    told = execute(FORWARD)
    assert [line.partition("result ")[2][:1] for line in told] == ["5", "7"]


def test_a_launcher_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_act, "norm_act_train", lambda *_: 1 / 0)
    (told,) = execute(TRAIN)
    assert told.endswith("ZeroDivisionError: division by zero")
