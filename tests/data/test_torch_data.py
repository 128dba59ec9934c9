"""Datasets and DataLoaders of torch: what their items may be, and what is said of bad ones."""

from __future__ import annotations

import random
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from fastgan.data import DataError, Source, from_torch

Pair = namedtuple("Pair", "pixels kind")


class Listed:
    """A set with [i] and len, as torch's need not be more."""

    def __init__(self, make, count=10):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index)


class Streamed(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def one(value: float = 0.5) -> torch.Tensor:
    return torch.full((1, 4, 6), float(value))


def batch(data, size=4, step=0, **options):
    return from_torch(data, **options).batches(size, 0, "cpu").batch(step)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: (one(i / 10), i),
        lambda i: [one(i / 10).numpy(), np.int32(i)],
        lambda i: Pair(one(i / 10).double(), torch.tensor(i, dtype=torch.uint8)),
        lambda i: {"image": one(i / 10), "label": i, "name": f"image {i}"},
        lambda i: {"pixel_values": one(i / 10), "class": i},
    ],
)
def test_pairs_and_dictionaries(make) -> None:
    images, labels = batch(Listed(make))
    assert labels.dtype == torch.int64
    torch.testing.assert_close(images[:, 0, 0, 0], labels / 10 * 2 - 1)
    assert images.shape == (4, 1, 4, 6)


def test_an_item_without_a_condition() -> None:
    for make in (lambda _: one(), lambda _: (one(),), lambda _: {"anything": one()}):
        images, labels = batch(Listed(make))
        assert labels is None
        assert images.unique().tolist() == [0.0]


def test_keys_choose() -> None:
    made = Listed(lambda i: {"a": one(), "b": torch.tensor([1.0, i])})
    with pytest.raises(DataError, match=r"keys 'a', 'b'.*from_torch\(data, keys=\(...\)\)"):
        from_torch(made)
    assert batch(made, keys=("a", "b"))[1].shape == (4, 2)
    assert batch(made, keys=("a",))[1] is None
    with pytest.raises(DataError, match="not 'c'"):
        from_torch(made, keys=("c",))


def test_pil_images_are_channels_first() -> None:
    colour = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    assert from_torch(Listed(lambda _: colour)).shape == (10, 3, 4, 6)
    assert from_torch(Listed(lambda _: colour.convert("L"))).shape == (10, 1, 4, 6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaders_batches_are_a_function_of_seed_and_step(workers) -> None:
    """Random transforms included, and nothing is drawn from the run's own random numbers."""

    def make(i):
        return one(torch.rand(1) / 2), float(np.random.rand() + random.random() + i)  # noqa: NPY002

    def opened():
        loader = DataLoader(Listed(make), batch_size=4, shuffle=True, num_workers=workers)
        return from_torch(loader).batches(4, 1, "cpu", True)

    state = torch.get_rng_state()
    forward, jumping = opened(), opened()
    wanted = [forward.batch(step) for step in range(4)]
    for step in (3, 1):
        assert all(a.equal(b) for a, b in zip(jumping.batch(step), wanted[step], strict=True))
    assert torch.get_rng_state().equal(state)
    assert not wanted[0][0].equal(wanted[1][0])
    places = [int(value) % 100 for value in torch.cat([b[1] for b in wanted[:2]])]
    assert len(places) == 8
    forward.close()
    jumping.close()


def test_ranks_share_an_epoch() -> None:
    source = from_torch(TensorDataset(torch.arange(12.0).view(12, 1, 1) / 12))
    parts = [source.batches(3, 0, "cpu", rank=r, world_size=2).batch(0)[0] for r in (0, 1)]
    assert torch.cat(parts).equal(source.batches(6, 0, "cpu").batch(0)[0])


def test_a_collate_function_of_ones_own() -> None:
    loader = DataLoader(
        Listed(lambda i: i),
        batch_size=4,
        collate_fn=lambda items: {"x": torch.zeros(len(items), 2, 8), "y": torch.tensor(items)},
    )
    images, labels = batch(loader)
    assert images.shape == (4, 2, 8)
    assert len(set(labels.tolist())) == 4


def test_what_cannot_be_gone_on_with_is_said() -> None:
    sampler = WeightedRandomSampler([1.0] * 10, 10)
    kinds = {
        "an iterable": Streamed([one()] * 5),
        "a DataLoader with its own order": DataLoader(
            Listed(lambda _: one()), batch_size=4, sampler=sampler
        ),
    }
    for words, data in kinds.items():
        with pytest.warns(UserWarning, match=f"{words} .* a resumed run starts it anew"):
            loader = from_torch(data).batches(4, 0, "cpu")
        # Its odd last batch is left out, and another pass begins.
        assert [len(loader.batch(step)[0]) for step in range(3)] == [4, 4, 4]
    fresh = np.random.default_rng()
    changing = from_torch(Listed(lambda _: one(fresh.random())))
    with pytest.warns(UserWarning, match="an item that is read twice differs"):
        changing.batches(4, 0, "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_torch(DataLoader(Listed(lambda _: one()), batch_size=4)).batches(4, 0, "cpu")


def test_sources_know_what_they_are() -> None:
    source = from_torch(Listed(lambda i: (one(i / 10), i)), name="mine")
    assert isinstance(source, Source)
    assert (source.name, source.shape, source.dtype) == ("mine", (10, 1, 4, 6), torch.float32)
    assert source.some(99).shape == (10, 1, 4, 6)
    same, other = (
        from_torch(Listed(lambda i, k=k: (one(i / k), i)), name="mine") for k in (10, 11)
    )
    assert source.fingerprint() == same.fingerprint()
    assert source.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("make", "count", "message"),
    [
        (lambda i: one(np.nan if i == 8 else 0.5), 12, "item 8 holds NaN or infinite"),
        (lambda i: (one(), float("inf") if i == 8 else 1.0), 12, "item 8 holds NaN or infinite"),
        (lambda i: one()[..., : 5 + (i != 8)], 12, r"item 8 is .*\[1, 4, 5\] where "),
        (lambda i: one(200 if i == 8 else 1), 12, r"item 8 has values .* to 200, .*\[0, 1\]"),
        (lambda i: (one(), 3 if i == 8 else 1), 12, r"item 8 has label 3: labels must lie in 0..2"),
        (lambda i: (one(), -1), 12, "item 0 has label -1: labels must lie in 0..2"),
        (lambda i: (one(), 1) if i != 8 else one(), 12, "condition of item 8 is of type NoneType"),
        (lambda i: one(300 * i), 12, r"from 0 to 3000 in the first items: pass value_range"),
        (lambda i: one().int(), 12, r"torch\.int32 from 0 to 0 .*pass value_range"),
        (lambda i: "text", 12, "item 0 is of type str: expected a tensor"),
        (lambda i: (one(), 1, 2), 12, "an item has 3 parts"),
        (lambda i: torch.zeros(8), 12, r"must have shape \[N, C, L\]"),
        (lambda i: one(), 0, "Listed is empty"),
        (lambda i: one(), 3, "batch_size 12 is larger than the data: Listed has 3 images"),
    ],
)
@pytest.mark.filterwarnings("ignore:Listed")
def test_bad_items_are_named(make, count, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        batch(Listed(make, count), 12, num_classes=3)


@pytest.mark.filterwarnings("ignore:.*starts it anew")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Streamed([]), "Streamed is empty: it gave no item"),
        (Streamed([one()] * 3), "Streamed gives no whole batch of 4"),
        (DataLoader(Streamed([one()] * 3), batch_size=4), r"batches of 3: make them equal"),
        (DataLoader(Listed(lambda _: one()), batch_size=5), r"batches of 5: make them equal"),
        (Streamed([one()] * 9 + [one(np.nan)] * 7), "item 1 holds NaN"),
        (object(), "data must be a Source, .* got object"),
    ],
)
def test_bad_iterables_and_loaders(data, message) -> None:
    def passed():
        loader = from_torch(data).batches(4, 0, "cpu")
        return [loader.batch(step) for step in range(4)]

    with pytest.raises((ValueError, TypeError), match=message):
        passed()


def test_floats_of_bytes_are_taken_as_bytes_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="floats from 0 to 200: 0 to 255 becomes -1 to 1"):
        source = from_torch(Listed(lambda i: one(i * 25)))
    assert source.value_range == (0, 255)
