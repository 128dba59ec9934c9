"""Tensors known again by how they lie, and made by it: `kind`, `empties` and `apart` of the C++
module, and Python in their place.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan.kernels.core.outputs import Layout, channels_last, contiguous
from fastgan.ops.core import native
from fastgan.ops.core.outputs import maker

in_cpp = pytest.mark.skipif(
    not native.WITH_AUTOGRAD.kind(0, None), reason="no C++ module of this Python"
)


class Sub(Tensor):
    pass


X = torch.zeros(2, 3, 4, 5)
DIFFERENT: list[Any] = [
    X, X[:1], X[:, :2], X.movedim(1, -1), X.to(memory_format=torch.channels_last), X.half(),
    X.bfloat16(), X.to("meta"), nn.Parameter(X), X[0], torch.zeros(()), None, True, False, 1, 0,
    1.0, 0.0, -1, 2**40, 1e-5,
]  # fmt: skip


@in_cpp
def test_kinds_are_the_same_of_arguments_alike_alone() -> None:
    kind = native.WITH_AUTOGRAD.kind
    found = [kind(0, X, value, 0.2) for value in DIFFERENT]
    assert len(set(found)) == len(DIFFERENT)
    for value, known in zip(DIFFERENT, found, strict=True):
        again = value
        if isinstance(value, Tensor):
            lies = value.shape, value.stride()
            again = torch.empty_strided(*lies, dtype=value.dtype, device=value.device)
            again = nn.Parameter(again) if isinstance(value, nn.Parameter) else again
        assert kind(0, X, again, 0.2) == known
    assert kind(0, X, None) != kind(0, X, None, None)


@in_cpp
def test_a_gradient_counts_where_it_is_asked_for() -> None:
    kind, leaf = native.WITH_AUTOGRAD.kind, X.clone().requires_grad_()
    assert kind(1, leaf, X) == kind(1, X, X)
    assert kind(2, leaf, X) != kind(2, X, X)
    assert kind(1, X, leaf) != kind(1, X, X)


@in_cpp
@pytest.mark.parametrize(
    "value",
    ["text", [1], 2**70, 1j, X.as_subclass(Sub), X.to_sparse(), (X, 1), (X, X.as_subclass(Sub))],
    ids=["str", "list", "too large", "complex", "subclass", "sparse", "tuple", "tuple of subclass"],
)
def test_of_anything_else_there_is_no_kind(value: Any) -> None:
    assert native.WITH_AUTOGRAD.kind(0, X, value) is None
    assert native.WITH_AUTOGRAD.kind(0, *[X] * 1000) is None
    assert native.WITH_AUTOGRAD.kind("0", X) is None


@in_cpp
def test_tensors_apart_fill_a_memory_each() -> None:
    apart, row = native.WITH_AUTOGRAD.apart, torch.zeros(8)
    assert apart(row, None, X, nn.Parameter(torch.zeros(8)))
    assert apart()
    for wrong in (row, row.detach(), row[4:], row.as_subclass(Sub), torch.zeros(1).expand(8), 1):
        assert not apart(row, X, wrong)
    assert not apart(torch.zeros(16)[::2])
    assert not apart(*[torch.zeros(8) for _ in range(20)])


LAYOUTS = (
    channels_last(2, 16, 4, 6),
    (contiguous(1, 5), contiguous(1, 5), contiguous(1, 3, 16)),
    Layout((3, 2), (1, 3), torch.float64),
    (contiguous(0, 4), contiguous(7)),
    contiguous(2, 3, dtype=torch.int32),
)


@pytest.mark.parametrize(
    "compiled", [pytest.param(True, marks=in_cpp), False], ids=["C++", "Python"]
)
def test_outputs_are_of_their_layouts(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native.WITH_AUTOGRAD, "kind", lambda *_: False)
    like = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    found = list(maker(LAYOUTS, like.dtype)(like))
    shapes = [(2, 16, 4, 6), (1, 5), (1, 5), (1, 3, 16), (3, 2), (0, 4), (7,), (2, 3)]
    assert [tuple(t.shape) for t in found] == shapes
    single = [torch.float32] * 3
    dtypes = [like.dtype, *single, torch.float64, torch.float32, torch.float32, torch.int32]
    assert [t.dtype for t in found] == dtypes
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert found[3].stride() == (48, 16, 1)
    assert found[4].stride() == (1, 3)
    for t in found:
        assert not t._is_view()
        assert not t.requires_grad
        assert t.data_ptr() % 16 == 0 or not t.numel()
        whole = t.isnan() if t.is_floating_point() else t == torch.iinfo(t.dtype).max
        assert whole.all(), "not as torch.empty poisons memory in tests"
    for i, t in enumerate(found):
        t.fill_(i)
    assert all((t == i).all() for i, t in enumerate(found)), "they share elements"


@in_cpp
def test_those_of_a_tuple_lie_in_one_memory() -> None:
    _, mean, var, rows, other, *_ = maker(LAYOUTS, torch.half)(X)
    addresses = {t.untyped_storage().data_ptr() for t in (mean, var, rows)}
    assert len(addresses) == 1
    assert other.untyped_storage().data_ptr() not in addresses
    version = var._version
    mean.add_(1)
    assert var._version == version
    with torch.inference_mode():
        assert maker(LAYOUTS, torch.half)(X)[1].is_inference()


@in_cpp
def test_what_cannot_be_made_is_left_to_python() -> None:
    kind, empties = native.WITH_AUTOGRAD.kind, native.WITH_AUTOGRAD.empties
    assert empties(X, b"") == ()
    for wrong in (kind(0, 1), kind(0, X)[:-1], kind(0, nn.Parameter(X)), b"T", "T", None):
        assert empties(X, wrong) is None
    assert empties(None, kind(0, X)) is None
    assert empties(X.as_subclass(Sub), kind(0, X)) is None
    huge = torch.empty(1 << 60, dtype=torch.uint8, device="meta")
    assert empties(X, kind(0, huge)) is None
    with pytest.raises(RuntimeError, match="memory"):
        maker((contiguous(1 << 60, dtype=torch.uint8),), torch.half)(X)
