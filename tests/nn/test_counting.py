"""The batches that batch norms count, together at the end of a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.nn import BatchNormAct1d, FusedSequential, batches_counted_together


def network(**options):
    return FusedSequential(BatchNormAct1d(3, **options), nn.Linear(3, 3), nn.BatchNorm1d(3))


def counts(net):
    return [int(b) for name, b in net.named_buffers() if name.endswith("num_batches_tracked")]


class Adds(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.integers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = args[0] if args else None
        tensors = first if isinstance(first, (list, tuple)) else [first]
        if "add_" in func.__name__ and tensors[0].dtype is torch.int64:
            self.integers += 1
        return func(*args, **(kwargs or {}))


def test_counts_move_by_one_launch_when_the_block_ends():
    net, x = network(), torch.randn(6, 3)
    net(x)
    with Adds() as adds:
        with batches_counted_together():
            net(x)
            with batches_counted_together():
                net[0](x)
            assert counts(net) == [1, 1]
        assert counts(net) == [3, 2]
    assert adds.integers == 1
    net(x)
    assert counts(net) == [4, 3]


def test_a_count_that_an_average_reads_moves_at_once():
    net, twin = network(momentum=None), network(momentum=None)
    twin.load_state_dict(net.state_dict())
    batches = torch.randn(2, 6, 3)
    with batches_counted_together():
        for x in batches:
            net(x)
        assert counts(net) == [2, 0]
    assert counts(net) == [2, 2]
    for x in batches:
        twin(x)
    for a, b in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def broken(x):
    raise ValueError("broken")


def test_counts_move_where_the_block_ends_by_an_error():
    net = network()
    with pytest.raises(ValueError, match="broken"), batches_counted_together():
        broken(net(torch.randn(6, 3)))
    assert counts(net) == [1, 1]
