"""Triton's interpreter with the arithmetic of a GPU, where its own differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton
from triton.language import bfloat16, core, float32
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


@contextmanager
def as_hardware() -> Iterator[None]:
    """Within, products of bfloat16 are of its values, float32 is rounded to the nearest bfloat16,
    and sums are taken pair by pair.

    The interpreter's dot would multiply bits as integers. It cuts float32 off where hardware rounds
    (cvt.rn.bf16.f32), which would double every error of bfloat16, and adds the rows of a tile one
    after the other where hardware adds lanes and warps in a tree. It takes a fourth of the time,
    too: see `_patched_once`, and it need not look for overflows, of which it would tell nobody.
    """
    dot, convert = interpreter.InterpreterBuilder.create_dot, interpreter._convert_float

    def widening(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (
            interpreter.TensorHandle(_widened(t.data), float32) if t.dtype.scalar == bfloat16 else t
            for t in (a, b)
        )
        return dot(self, a, b, *rest)

    def rounding(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if source != float32 or target != bfloat16:
            return convert(data, source, target, mode)
        # Through integers of the same width: numpy has no bfloat16.
        wide = torch.from_numpy(np.ascontiguousarray(data).view(np.int32)).view(torch.float32)
        return wide.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(data.shape)

    def pairwise(self: Any, operand: Any) -> Any:
        data, axis = operand.handle.data, self.axis
        if axis is not None:  # numpy does so along the innermost axis alone
            data, axis = np.ascontiguousarray(np.moveaxis(data, axis, -1)), -1
        total = np.sum(data, axis=axis, keepdims=self.keep_dims)
        if axis is not None and self.keep_dims:
            total = np.moveaxis(total, -1, self.axis)
        return self.to_tensor(total, operand.dtype)

    with ExitStack() as stack:
        stack.enter_context(patch.object(interpreter.ReduceOps, "sum", pairwise))
        stack.enter_context(patch.object(interpreter.InterpreterBuilder, "create_dot", widening))
        stack.enter_context(patch.object(interpreter, "_convert_float", rounding))
        stack.enter_context(patch.object(interpreter, "_patch_lang", _patched_once()))
        stack.enter_context(patch.object(interpreter, "_get_np_dtype", _looked_up_once()))
        unchecked = patch.object(
            TritonSemantic, "binary_op_sanitize_overflow_impl", lambda *_: None
        )
        stack.enter_context(unchecked)
        yield


def _patched_once() -> Callable[[Any], Any]:
    """The interpreter's patch of the language for a function, but once a launch: each call of a
    device function would wrap every builtin once more, until the launch ends.
    """
    patch_language, patched = interpreter._patch_lang, set[ModuleType]()

    def once(function: Any) -> Any:
        named = [value for value in function.__globals__.values() if isinstance(value, ModuleType)]
        languages = {lang for lang in (triton.language, core) if lang in named} - patched
        if not languages:
            return interpreter._LangPatchScope()
        scope = patch_language(function)
        restore = scope.restore

        def restored() -> None:
            patched.difference_update(languages)
            restore()

        patched.update(languages)
        scope.restore = restored
        return scope

    return once


def _looked_up_once() -> Callable[[Any], np.dtype]:
    """numpy's dtype of Triton's: the interpreter fills its table anew for each."""
    look_up, known = interpreter._get_np_dtype, dict[str, np.dtype]()

    def once(of: Any) -> np.dtype:
        if (name := of.scalar.name) not in known:
            known[name] = look_up(of)
        return known[name]

    return once


def _widened(data: np.ndarray) -> np.ndarray:
    """bfloat16, which the interpreter keeps as integers, in float32."""
    return (data.astype(np.uint32) << 16).view(np.float32)


@contextmanager
def launches() -> Iterator[Counter[str]]:
    """How often each kernel is launched within."""
    counted: Counter[str] = Counter()
    grid = interpreter.InterpretedFunction.__getitem__

    def counting(self: Any, size: Any) -> Any:
        counted[self.fn.__name__] += 1
        return grid(self, size)

    with patch.object(interpreter.InterpretedFunction, "__getitem__", counting):
        yield counted
