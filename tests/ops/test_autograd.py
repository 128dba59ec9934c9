"""The derivatives in C++ of plain eager calls: what autograd promises, as from Python."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.nn import BatchNormAct2d, BiasAct, InstanceNormAct2d
from fastgan.ops import backend, bias_act, instance_norm_act, norm_act
from fastgan.ops.core import dispatch, native

pytestmark = pytest.mark.skipif(
    native.why_no_autograd() is not None, reason=str(native.why_no_autograd())
)
C = 6


@pytest.fixture(autouse=True)
def on_cpu_backend() -> Iterator[None]:
    torch.manual_seed(0)
    with backend("cpu"):
        yield


@pytest.fixture
def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "in_cpp", lambda *_: False)


def train(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    running = torch.zeros(C), torch.ones(C)
    z = norm_act(x, *running, weight, bias, True, negative_slope=0.2, segments=2)
    return z + (running[0] + running[1]).reshape(-1, 1, 1)  # the moved statistics must agree too


def evaluate(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    running = torch.full((C,), 0.3), torch.full((C,), 2.0)
    return norm_act(x, *running, weight, bias, activation="tanh", order="act_norm")


def instance(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return instance_norm_act(x, None, None, weight, bias, activation="sigmoid")


def biased(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return bias_act(x, bias, activation="tanh")


OPS = [train, evaluate, instance, biased]
Op = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def inputs(layout: torch.memory_format = torch.channels_last) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(4, C, 5, 3).contiguous(memory_format=layout)
    return x.requires_grad_(), torch.randn(C).requires_grad_(), torch.randn(C).requires_grad_()


def grad_names(t: Tensor) -> str:
    """The names of the functions behind t, two deep."""
    assert t.grad_fn is not None
    return " ".join([t.grad_fn.name(), *(f.name() for f, _ in t.grad_fn.next_functions if f)])


@pytest.mark.parametrize("op", OPS)
def test_no_python_function_stands_behind_a_plain_call(op: Op) -> None:
    names = grad_names(op(*inputs()))
    assert "fastgan::" in names, names


@pytest.mark.parametrize("shape", [(4, C), (4, C, 9), (4, C, 2, 3, 2)], ids=str)
def test_every_dense_layout_is_plain(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for given in (x, x.movedim(1, -1).contiguous().movedim(-1, 1)):
        z = norm_act(given.requires_grad_(), None, None, training=True)
        assert "fastgan::" in grad_names(z)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("asked", ["x", "xw", "xb", "w", "b", "xwb"])
@pytest.mark.parametrize("op", OPS)
def test_same_bits_as_in_python(
    op: Op, asked: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(layout)
    leaves = [t for name, t in zip("xwb", given, strict=True) if name in asked]
    if op is biased:
        leaves = [t for t in leaves if t is not given[1]]
    for t in given:
        t.requires_grad_(any(t is leaf for leaf in leaves))
    dz = torch.randn(4, C, 3, 5).transpose(2, 3)
    results = []
    for in_cpp in (True, False):
        if not in_cpp:
            monkeypatch.setattr(dispatch, "in_cpp", lambda *_: False)
        z = op(*given)
        assert z.requires_grad == bool(leaves)
        results.append([z, *(torch.autograd.grad(z, leaves, dz) if leaves else [])])
    for own, python in zip(*results, strict=True):
        assert torch.equal(own, python)
        assert own.stride() == python.stride()


@pytest.mark.parametrize("missing", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("op", OPS)
def test_parameters_may_be_missing(op: Op, missing: tuple[int, ...]) -> None:
    given = [None if i in missing else t for i, t in enumerate(inputs())]
    leaves = [t for t in given if t is not None and not (op is biased and t is given[1])]
    gradients = torch.autograd.grad(op(*given).square().sum(), leaves)  # type: ignore[arg-type]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert gradient.shape == leaf.shape
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("op", OPS)
def test_one_full_size_tensor_is_saved_and_hooks_see_it(op: Op) -> None:
    x, weight, bias = inputs()
    packed: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t)
        return t.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        z = op(x, weight, bias)
    assert sum(t.numel() == x.numel() for t in packed) == 1
    (with_hooks,) = torch.autograd.grad(z.sum(), x)
    (without,) = torch.autograd.grad(op(x, weight, bias).sum(), x)
    assert torch.equal(with_hooks, without)


@pytest.mark.parametrize("op", OPS)
def test_changing_what_was_saved_raises(op: Op) -> None:
    x, weight, bias = inputs()
    own = x * 1
    z = op(own, weight, bias)
    with torch.no_grad():
        (z if op is biased else own).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@pytest.mark.parametrize("op", OPS)
def test_a_second_backward_needs_the_graph(op: Op) -> None:
    x, weight, bias = inputs()
    z = op(x, weight, bias).sum()
    z.backward(retain_graph=True)
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


@pytest.mark.parametrize("op", OPS)
def test_no_gradient_no_graph(op: Op) -> None:
    given = inputs()
    with torch.no_grad():
        assert not op(*given).requires_grad
    with torch.inference_mode():
        assert op(*given).is_inference()
    assert not op(*(t.detach() for t in given)).requires_grad


@pytest.mark.parametrize("op", OPS)
def test_create_graph_goes_through_the_operator(op: Op) -> None:
    x, weight, bias = inputs()
    (g,) = torch.autograd.grad(op(x, weight, bias).square().sum(), x, create_graph=True)
    assert g.requires_grad
    leaves = (x, bias) if op is biased else (x, weight, bias)
    second = torch.autograd.grad(g.square().sum(), leaves, create_graph=True)
    (third,) = torch.autograd.grad(second[0].square().sum(), x)
    assert third.isfinite().all()


@pytest.mark.parametrize("op", OPS)
def test_a_dispatch_mode_in_the_backward_sees_the_operator(op: Op) -> None:
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    x, weight, bias = inputs()
    z = op(x, weight, bias)
    with Watch():
        torch.autograd.grad(z.sum(), x)
    assert any(name.startswith("fastgan::") for name in seen), seen


@pytest.mark.parametrize("op", OPS)
def test_hooks_on_output_and_function(op: Op) -> None:
    x, weight, bias = inputs()
    (plain,) = torch.autograd.grad(op(x, weight, bias).sum(), x)
    z = op(x, weight, bias)
    z.register_hook(lambda g: 2 * g)
    calls = []
    assert z.grad_fn is not None
    z.grad_fn.register_hook(lambda *_: calls.append(1))
    (hooked,) = torch.autograd.grad(z.sum(), x)
    assert calls
    torch.testing.assert_close(hooked, 2 * plain)


@pytest.mark.parametrize("op", OPS)
def test_backward_on_other_threads(op: Op) -> None:
    given = inputs()
    (expected,) = torch.autograd.grad(op(*given).square().sum(), given[0])
    found: list[Tensor] = []

    def work(z: Tensor) -> None:
        for _ in range(5):
            found.append(torch.autograd.grad(z, given[0], retain_graph=True)[0])
            again = op(*given).square().sum()
            found.append(torch.autograd.grad(again, given[0])[0])

    threads = [threading.Thread(target=work, args=(op(*given).square().sum(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(torch.equal(g, expected) for g in found)


@pytest.mark.parametrize("layer", [BatchNormAct2d(C), InstanceNormAct2d(C), BiasAct(C)])
def test_layers_copy_and_pickle_after_a_call(layer: nn.Module) -> None:
    x = inputs()[0]
    layer(x).sum().backward()
    copied = copy.deepcopy(layer)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    expected = layer(x)
    for other in (copied, loaded):
        assert torch.equal(other(x), expected)


def test_autocast_leaves_the_input_as_it_is() -> None:
    given = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert train(*given).dtype is torch.float32
        half = given[0].bfloat16()
        assert norm_act(half, None, None, *given[1:], training=True).dtype is torch.bfloat16


# Arguments that C++ hands back: to be converted, copied or refused in Python.
LEFT_TO_PYTHON: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "parameters of x's dtype": lambda x, w, m, v: norm_act(
        x.bfloat16(), m.bfloat16(), v.bfloat16(), w.bfloat16(), training=True
    ),
    "strided parameters": lambda x, w, m, v: norm_act(
        x, m, v, w.repeat_interleave(2)[::2], training=True
    ),
    "sliced input": lambda x, w, m, v: norm_act(x[:, :, ::2], m, v, w, training=True),
    "empty batch": lambda x, w, m, v: norm_act(x[:0], m, v, w, training=True),
    "in evaluation": lambda x, w, m, v: norm_act(x.bfloat16(), m.bfloat16(), v.bfloat16(), w),
    "one of the statistics": lambda x, w, m, v: norm_act(x, m, None, w),
    "none in evaluation": lambda x, w, m, v: norm_act(x, None, None, w),
    "one value": lambda x, w, m, v: norm_act(x[:1, :, :1, :1], m, v, w, training=True),
    "segments": lambda x, w, m, v: norm_act(x, m, v, w, training=True, segments=3),
    "weight's shape": lambda x, w, m, v: norm_act(x, m, v, w[1:], training=True),
    "weight's dtype": lambda x, w, m, v: norm_act(x, m, v, w.double(), training=True),
    "dimensions": lambda x, w, m, v: norm_act(x[0, 0, 0], m, v, w, training=True),
}


@pytest.mark.parametrize("case", LEFT_TO_PYTHON)
def test_what_is_not_plain_is_as_in_python(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results, moved statistics and errors."""
    x, weight, _ = inputs()
    found: list[Any] = []
    for in_cpp in (True, False):
        if not in_cpp:
            monkeypatch.setattr(dispatch, "in_cpp", lambda *_: False)
        mean, var = torch.zeros(C), torch.ones(C)
        try:
            z = LEFT_TO_PYTHON[case](x, weight, mean, var)
            found.append([z, mean, var, *torch.autograd.grad(z.sum(), (x, weight))])
        except (ValueError, TypeError) as error:
            found.append(f"{type(error).__name__}: {error}")
    own, python = found
    if isinstance(python, str):
        assert own == python
    else:
        assert all(torch.equal(a, b) for a, b in zip(own, python, strict=True))


@pytest.mark.usefixtures("in_python")
@pytest.mark.parametrize("op", OPS)
def test_python_serves_without_the_library(op: Op) -> None:
    assert "fastgan::" not in grad_names(op(*inputs()))


def test_a_library_for_another_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {**native.build_record(), "torch": "2.11.0"}
    monkeypatch.setattr(native, "build_record", lambda: record)
    assert "built for torch 2.11.0" in str(native.why_no_autograd.__wrapped__())


def test_a_library_of_earlier_sources_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {key: value for key, value in native.build_record().items() if key != "python"}
    monkeypatch.setattr(native, "build_record", lambda: record)
    assert "earlier sources: build it again" in str(native.why_no_autograd.__wrapped__())
