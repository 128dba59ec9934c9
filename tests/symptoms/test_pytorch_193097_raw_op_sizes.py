"""pytorch#193097: an operator whose kernel trusts the sizes it is told reads beyond its memory.

Every operator of fastgan, called past the public functions with a tensor or a list of another size,
dtype, layout or device than its others, raises an error of one line, on every backend that runs on
the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgan  # noqa: F401  (registers the operators)

X = torch.randn(4, 16, 6, 6)
ROWS = torch.rand(2, 16) + 0.5
ROW = torch.rand(16) + 0.5
NORM_SPEC = (1e-5, 0, 0.2, 2, False)
W = torch.randn(32, 16, 4, 4)
Y = torch.randn(4, 32, 3, 3)
LIKE = ([2, 2], [1, 1], [0, 0], False)
IMAGES = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
INDEX = torch.tensor([0, 4])
FLIPS = torch.tensor([True, False])


def last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


_BLOCK = (ROWS, ROWS, ROW, ROW, 1e-5, 0, 0.2, *LIKE, 0, 0.2, 2)
_CONV = (*(None,) * 2, ROW, ROW, 1e-5, 0, 0.2, True, 2, *LIKE, 0, 0.2)
_CONV_BACK = (ROWS, ROWS, ROW, ROW, 1e-5, 0, 0.2, True, 2, *LIKE, 0, 0.2)
_STATISTICS = torch.rand(2, 32)
_NORM: dict[str, tuple[Any, ...]] = {
    "norm_act_train": (X, ROW, ROW, *NORM_SPEC),
    "norm_act_eval": (X, ROWS, ROWS, ROW, ROW, *NORM_SPEC),
    "norm_act_backward": (X, X, ROWS, ROWS, ROW, ROW, *NORM_SPEC, True, True, True),
    "update_running_stats_": (ROW, ROW + 1, ROWS, ROWS, 0.1, 72, False),
    "bias_act_backward": (X, X, 0, 0.2, True),
}
OPERATORS: dict[str, tuple[Any, ...]] = {
    **_NORM,
    "bias_act": (X, ROW, 0, 0.2),
    "conv_block": (last(X), W, ROW.repeat(2), *_BLOCK),
    "conv_block_backward": (
        last(Y), _STATISTICS, _STATISTICS, last(X), last(Y), _STATISTICS, W, *_BLOCK,
        True, True, True,
    ),
    "norm_act_conv": (X, W, ROW.repeat(2), *_CONV, True),
    "norm_act_conv_backward": (Y, X, Y, X, W, *_CONV_BACK, True, True, True, True),
    "gather_images": (IMAGES.permute(0, 3, 1, 2), INDEX, FLIPS, torch.float32),
}  # fmt: skip
_IMAGE = torch.randn(4, 3, 6, 6)
NATIVE: dict[str, tuple[Any, ...]] = {
    **_NORM,
    "bias_act": (X, ROW, 0, 0.2),
    "gather_images": (IMAGES, INDEX, FLIPS, torch.float32),
    "small_channel_conv": (_IMAGE, torch.randn(16, 3, 4, 4), ROW, [2, 2], [1, 1], [3, 3], 0, 0.2),
    "small_channel_conv_transpose": (
        last(X), torch.randn(16, 3, 4, 4), ROW[:3], [2, 2], [1, 1], [12, 12], 0, 0.2, True,
    ),
    "small_channel_conv_weight": (_IMAGE, last(Y), [4, 4], [2, 2], [1, 1]),
    "winograd_conv": (last(X), last(W)),
    "winograd_conv_transpose": (last(Y), last(W)),
    "winograd_conv_weight": (last(X), last(Y)),
    "bf16_conv": (last(X).bfloat16(), last(W).bfloat16(), [2, 2], [1, 1], [3, 3]),
    "bf16_conv_transpose": (last(Y).bfloat16(), last(W).bfloat16(), [2, 2], [1, 1], [6, 6]),
    "bf16_conv_weight": (
        last(X).bfloat16(), last(Y).bfloat16(), [4, 4], [2, 2], [1, 1], torch.float32,
    ),
}  # fmt: skip
# What an operator takes: more outputs, another wide side; gradients of any strides.
FREE = {
    ("winograd_conv", "weight", "more"), ("winograd_conv_transpose", "weight", "more of dim 1"),
    ("bf16_conv", "weight", "more"), ("small_channel_conv_weight", "wide", "cut 1"),
    *(("conv_block_backward", name, "expanded") for name in ("g_mean", "g_var", "y_mean")),
}  # fmt: skip


def wrong_values(value: Any, is_anchor: bool) -> dict[str, Any]:
    """Other than what an argument has to be beside the others; the anchor is what they go by."""
    if isinstance(value, list):
        return {"none": [], "one": value[:1], "three": [*value, 1], "negative": [-1] * len(value)}
    found = {
        "int32": value.to(torch.int32 if value.dtype is not torch.int32 else torch.int64),
        "complex": value.to(torch.complex64),
        "meta": value.to("meta"),
        "a scalar": value.new_ones(()),
    }
    if not is_anchor:
        found["more"] = torch.cat([value, value])
        for d, size in enumerate(value.shape[:2]):
            found[f"cut {d}"] = value.narrow(d, 0, size - 1).clone()
        if value.dim() < 3 and value.is_floating_point():  # kernels read on from the first
            found["expanded"] = value[..., :1].expand_as(value)
    return found


def cases(operators: dict[str, tuple[Any, ...]]) -> list[Any]:
    return [
        pytest.param(name, args, i, id=f"{name}-{i}")
        for name, args in operators.items()
        for i, value in enumerate(args)
        if isinstance(value, (Tensor, list))
    ]


def anchor(names: list[str]) -> str:
    found = next((n for n in ("x", "z", "image", "images") if n in names), None)
    return found or ("mean" if "mean" in names else names[0])


def assert_all_refused(
    op: Callable[..., Any], args: tuple[Any, ...], i: int, *backend: str
) -> None:
    names = [argument.name for argument in op._schema.arguments]  # type: ignore[attr-defined]
    op(*args, *backend[:1])
    given = [a.clone() if isinstance(a, Tensor) else a for a in args]
    for name in backend or ("",):
        for kind, value in wrong_values(args[i], names[i] == anchor(names)).items():
            if (op._schema.name.split("::")[1], names[i], kind) in FREE:  # type: ignore[attr-defined]
                continue
            if name and kind == "meta":  # shapes alone are worked out then, and nothing is read
                continue
            call = [*args[:i], value, *args[i + 1 :], *([name] if name else [])]
            try:
                op(*call)
            except (TypeError, ValueError, RuntimeError) as error:
                said = str(error)
                unknown = isinstance(error, NotImplementedError)  # no kernel for such a device
                assert unknown or any(f"{n}:" in said or f"{n}," in said for n in names), said
                assert unknown or len(said.splitlines()) == 1, said
            else:
                pytest.fail(f"{names[i]}, {kind}, {name}: is taken")
    for own, before in zip(args, given, strict=True):
        assert not isinstance(own, Tensor) or torch.equal(own, before)


@pytest.mark.parametrize(("name", "args", "i"), cases(OPERATORS))
def test_operators(name: str, args: tuple[Any, ...], i: int, native: None) -> None:
    """Of every backend alike, for it is not asked: Triton's kernels read what they are given."""
    backends = ["reference", "triton", "cuda"]
    if not name.startswith("conv_block"):
        backends.insert(1, "cpu")
    args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
    assert_all_refused(getattr(torch.ops.fastgan, name).default, args, i, *backends)


@pytest.mark.parametrize(("name", "args", "i"), cases(NATIVE))
def test_native(name: str, args: tuple[Any, ...], i: int, native: None) -> None:
    if name.startswith(("dot", "winograd")) and not _runs(name):
        pytest.skip("no instructions for it on this processor")
    args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
    assert_all_refused(kernel(name), args, i)


def kernel(name: str) -> Any:
    """The compiled kernel alone, where an operator of its name chooses a backend."""
    op = getattr(torch.ops.fastgan, name)
    return op.kernel if name in OPERATORS else op.default


def _runs(name: str) -> bool:
    try:
        kernel(name)(*NATIVE[name])
    except RuntimeError:
        return False
    return True
