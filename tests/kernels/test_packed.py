"""When a packed copy of a weight is kept and when it is made anew; no kernel is needed for it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan.kernels.core import packed as _conv_packed
from fastgan.kernels.core.packed import eager_call, kept
from fastgan.ops import packed_weights


class Packer:
    """Copies through `kept`, as a launcher asks for them."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, weight: Tensor, kind: str = "") -> Tensor:
        with eager_call():
            return kept(weight, kind, lambda: self._make(weight))

    def _make(self, weight: Tensor) -> Tensor:
        self.made += 1
        return weight.detach().clone(memory_format=torch.contiguous_format)


@pytest.fixture
def pack() -> Packer:
    return Packer()


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(2, 3))


def test_a_copy_is_made_once_in_a_scope_and_for_every_call_outside(pack, weight):
    pack(weight)
    pack(weight)
    assert pack.made == 2
    with packed_weights():
        assert pack(weight) is pack(weight)
        assert pack.made == 3
        assert pack(weight, "another") is not pack(weight)
        assert pack.made == 4
    with packed_weights():
        pack(weight)
    assert pack.made == 5


def test_a_view_counts_as_what_it_is_a_view_of(pack, weight):
    with packed_weights():
        pack(weight.view_as(weight))
        pack(weight.view_as(weight))
        assert pack.made == 1
        assert torch.equal(pack(weight[1:]), weight[1:])
        assert torch.equal(pack(weight.view(3, 2)), weight.view(3, 2))
        assert pack.made == 3
        with torch.no_grad():
            weight.view(-1)[0] = 7.0
        assert pack(weight)[0, 0] == 7.0


def stepped(name: str, **options: Any) -> Callable[[nn.Parameter], None]:
    def write(weight: nn.Parameter) -> None:
        weight.grad = torch.ones_like(weight)
        getattr(torch.optim, name)([weight], lr=0.5, **options).step()

    return write


def in_place(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.add_(1.0)


def in_inference_mode(weight: nn.Parameter) -> None:
    with torch.inference_mode():
        weight.add_(1.0)


def through_a_detached_alias(weight: nn.Parameter) -> None:
    weight.detach().add_(1.0)


def loaded(weight: nn.Parameter) -> None:
    nn.ParameterList([weight]).load_state_dict({"0": torch.randn(2, 3)})


def assigned(weight: nn.Parameter) -> None:
    weight.data = torch.randn(2, 3)


def assigned_to_lie_otherwise(weight: nn.Parameter) -> None:
    strides = (1, 2) if weight.is_contiguous() else (3, 1)
    weight.data = weight.data.as_strided((2, 3), strides)


def from_a_vector(weight: nn.Parameter) -> None:
    nn.utils.vector_to_parameters(torch.randn(6), [weight])


WRITES = {
    f"{name} {options}": stepped(name, **options)
    for name, options in (
        ("Adam", {"fused": True}),
        ("Adam", {"foreach": True}),
        ("Adam", {"foreach": False}),
        ("AdamW", {"fused": True}),
        ("SGD", {"fused": True}),
        ("SGD", {"momentum": 0.9}),
        ("RMSprop", {}),
    )
} | {
    write.__name__: write
    for write in (
        in_place,
        in_inference_mode,
        through_a_detached_alias,
        loaded,
        assigned,
        assigned_to_lie_otherwise,
        from_a_vector,
    )
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_write_is_noticed(pack, weight, write):
    with packed_weights(check=True):
        for _ in range(3):
            before = pack(weight).clone()
            write(weight)
            assert not torch.equal(before, weight)
            assert torch.equal(pack(weight), weight)


def test_only_the_parameters_of_the_optimizer_are_packed_anew(pack, weight):
    other = nn.Parameter(torch.randn(4))
    with packed_weights():
        pack(other)
        pack(weight)
        stepped("Adam", fused=True)(weight)
        pack(other)
        assert pack.made == 2


def test_a_step_of_master_weights_drops_all(pack, weight):
    """Half-precision weights by hand: what follows the step, `.data.copy_`, leaves no trace."""
    master = nn.Parameter(weight.detach().double())
    with packed_weights(check=True):
        pack(weight)
        stepped("Adam", fused=True)(master)
        weight.data.copy_(master.data)
        assert torch.equal(pack(weight), weight)


def test_memory_that_another_weight_had_before_is_no_hit(pack, weight):
    """An allocator likes to hand out the address that was just given back."""
    with packed_weights():
        for value in range(10):
            weight.data = torch.full((2, 3), float(value))
            assert (pack(weight) == value).all()


def test_a_write_without_a_trace_is_an_error_when_checked_and_forgotten_by_hand(pack, weight):
    with packed_weights(check=True) as copies:
        pack(weight)
        weight.data.add_(1.0)
        with pytest.raises(RuntimeError, match=r"shape \(2, 3\) was written without a trace"):
            pack(weight)
        copies.forget(weight)
        assert torch.equal(pack(weight), weight)
        weight.data.add_(1.0)
        copies.forget()
        assert torch.equal(pack(weight), weight)


def test_inference_tensors_count_no_versions_and_are_not_kept(pack):
    with torch.inference_mode(), packed_weights():
        made = torch.randn(3)
        pack(made)
        made.add_(1.0)
        assert torch.equal(pack(made), made)
        pack(made)
    assert pack.made == 3


def test_copies_go_with_their_weight_and_with_the_scope(pack, weight):
    with packed_weights() as copies:
        pack(weight)
        fresh = weight * 2  # as by a parametrization: another tensor at each access
        pack(fresh)
        assert len(copies._of) == 2
        del fresh
        gc.collect()
        assert len(copies._of) == 1
    assert len(copies._of) == 0
    assert not _conv_packed._open


def test_a_weight_that_only_a_graph_holds_keeps_its_copies(pack, weight):
    """Of a weight that was computed, the backward pass reads what the forward pass read."""
    with packed_weights():
        computed = weight * 2
        y = computed.square().sum()
        pack(computed)
        del computed
        gc.collect()
        pack(y.grad_fn.next_functions[0][0]._saved_self)
        assert pack.made == 1


def test_a_capture_does_not_use_what_was_made_outside_it(pack, weight, monkeypatch):
    captured = False
    monkeypatch.setattr(_conv_packed, "_is_captured", lambda: captured)
    with packed_weights():
        pack(weight)
        captured = True
        pack(weight)
        pack(weight)
        assert pack.made == 3  # the graph has packing launches of its own
        with packed_weights():
            pack(weight)
            pack(weight)
            assert pack.made == 4  # once, in the graph
            captured = False
            pack(weight)
            assert pack.made == 5  # and what only a replay computes is not used outside it
        pack(weight)
        assert pack.made == 5


def test_another_thread_uses_the_scope_and_scopes_end_in_any_order(pack, weight):
    with packed_weights():
        pack(weight)
        thread = threading.Thread(target=pack, args=(weight,))
        thread.start()
        thread.join()
        assert pack.made == 1
    first, second = packed_weights(), packed_weights()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    pack(weight)
    pack(weight)
    assert pack.made == 2
    second.__exit__(None, None, None)
    pack(weight)
    assert pack.made == 3


def test_a_scope_ends_with_an_error_and_decorates_a_function(pack, weight):
    @packed_weights()
    def twice(fails: bool) -> None:
        pack(weight)
        pack(weight)
        if fails:
            raise KeyError

    twice(False)
    twice(False)
    assert pack.made == 2
    with pytest.raises(KeyError):
        twice(True)
    assert not _conv_packed._open


def test_calls_that_are_not_eager_keep_nothing(weight):
    made = []
    with packed_weights():
        for _ in range(2):
            kept(weight, "", lambda: made.append(None) or weight.detach().clone())
    assert len(made) == 2
