"""Runs only where Triton was imported as its interpreter: ../test_interpreter.py sees to it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


def _widened(data: np.ndarray) -> np.ndarray:
    """bfloat16, which numpy lacks and the interpreter keeps as integers, in float32."""
    return (data.astype(np.uint32) << 16).view(np.float32)


@pytest.fixture(autouse=True)
def _bfloat16_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's dot would multiply the bits of bfloat16 operands as integers."""
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    dot = interpreter.InterpreterBuilder.create_dot

    def widening(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (
            interpreter.TensorHandle(_widened(t.data), float32) if t.dtype.scalar == bfloat16 else t
            for t in (a, b)
        )
        return dot(self, a, b, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", widening)


@pytest.fixture(autouse=True)
def _bfloat16_rounds_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts float32 off where hardware rounds to nearest (cvt.rn.bf16.f32), which
    would double every bfloat16 error that the tests bound.
    """
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounding(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if source != float32 or target != bfloat16:
            return convert(data, source, target, mode)
        # Through integers of the same width: numpy has no bfloat16.
        wide = torch.from_numpy(np.ascontiguousarray(data).view(np.int32)).view(torch.float32)
        return wide.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(data.shape)

    monkeypatch.setattr(interpreter, "_convert_float", rounding)
