"""The order of shards: each image once an epoch, a few files at a time, a function of seed."""

from __future__ import annotations

import torch

from fastgan.data import order
from fastgan.data.order import Order

SIZES = [3, 5, 1, 4, 7, 2, 6, 4, 8, 3, 5, 2]


def test_shards_are_shuffled_and_read_a_few_at_a_time() -> None:
    made = Order(sum(SIZES), "x", 1, 7, shards=SIZES)
    ends = torch.tensor(SIZES).cumsum(0)
    firsts = set()
    for epoch in range(5):
        drawn, _ = made.draw(epoch)
        assert sorted(drawn.tolist()) == list(range(sum(SIZES)))
        files = torch.bucketize(drawn, ends, right=True).tolist()
        spans = {f: (files.index(f), len(files) - 1 - files[::-1].index(f)) for f in set(files)}
        open_at_once = [sum(a <= i <= b for a, b in spans.values()) for i in range(len(files))]
        assert max(open_at_once) <= order.SHARDS_AT_ONCE
        firsts.add(tuple(drawn.tolist()[:5]))
    assert len(firsts) == 5
    again, _ = Order(sum(SIZES), "x", 1, 7, shards=SIZES).draw(3)
    assert torch.equal(again, made.draw(3)[0])


def test_one_shard_is_shuffled_whole() -> None:
    drawn, flips = Order(50, "x", 5, 0, True, shards=[50]).draw(0)
    assert sorted(drawn.tolist()) == list(range(50)) != drawn.tolist()
    assert flips is not None
    assert 5 < int(flips.sum()) < 45
