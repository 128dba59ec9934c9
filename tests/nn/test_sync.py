"""Statistics synchronised over two processes, against one process on the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import sync_worker
import torch
import torch.distributed as dist
from processes import in_two_processes
from tolerance import FLOOR
from torch import Tensor, nn

import fastgan.nn as fnn
from fastgan.ops import backend, norm_act, sync_norm_act

# name: sizes of the segments in each process
SPLITS = {
    "halves": ([4], [4]),
    "uneven": ([5], [2]),
    "an empty batch": ([0], [6]),
    "segments": ([3, 3], [2, 2]),
}
# |mean| is 10^4 standard deviations, and the processes' means differ by 3 of them.
OFFSETS = {"near zero": (0.0, 0.0), "far from zero": (1e4, 1e4 + 3)}


def whole(split: tuple[list[int], ...], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """A batch, and the indices of each process's images in it: segment by segment."""
    order = torch.arange(sum(map(sum, split)))
    pieces: list[list[Tensor]] = [[] for _ in split]
    start = 0
    for sizes in zip(*split, strict=True):
        for owned, size in zip(pieces, sizes, strict=True):
            owned.append(order[start : start + size])
            start += size
    batch = torch.randn(len(order), 2, 7, 7, generator=torch.Generator().manual_seed(1))
    return batch.to(dtype) + 0.5, [torch.cat(owned) for owned in pieces]


def shifted(offsets: tuple[float, float], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = (5, 3)
    return [
        torch.randn(n, 3, 6, 5, generator=generator).to(dtype) + offset
        for n, offset in zip(sizes, offsets, strict=True)
    ]


def make_cases() -> dict[str, Any]:
    train, normalise = {}, {}
    for dtype in (torch.float64, torch.float32):
        for name, split in SPLITS.items():
            batch, owned = whole(split, dtype)
            parts = [batch[indices].clone() for indices in owned]
            train[name, dtype] = {"parts": parts, "segments": len(split[0])}
        for name, offsets in OFFSETS.items():
            normalise[name, dtype] = shifted(offsets, dtype)
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(3)) + 2
    return {"train": train, "normalise": normalise, "adapt": list(logits)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two gloo processes computed."""
    folder = tmp_path_factory.mktemp("sync")
    torch.save(make_cases(), folder / "cases.pt")
    return in_two_processes(sync_worker.__file__, folder)


def flat(result: dict[str, Any]) -> dict[str, Tensor]:
    named = dict(result["shared"])
    for name, steps in result["per_image"].items():
        named |= {f"{name} {i}": step for i, step in enumerate(steps)}
    return named


def together(
    results: list[dict[str, Any]], kind: str, key: Any, owned: list[Tensor]
) -> dict[str, Tensor]:
    """The processes' parts as those of the whole batch; what is not of an image must be alike."""
    parts = [result[kind][key] for result in results]
    for name, value in parts[0]["shared"].items():
        torch.testing.assert_close(value, parts[1]["shared"][name], rtol=0, atol=0)
    back = torch.cat(owned).argsort()
    per_image = {
        name: [
            torch.cat(both)[back]
            for both in zip(*(p["per_image"][name] for p in parts), strict=True)
        ]
        for name in parts[0]["per_image"]
    }
    return flat({"shared": parts[0]["shared"], "per_image": per_image})


def errors(actual: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest deviations, relative to the largest magnitude of each tensor."""
    assert actual.keys() == exact.keys()
    found = {}
    for name, wanted in exact.items():
        scale = wanted.double().abs().max().clamp_min(1e-3)
        found[name] = float((actual[name].double() - wanted).abs().max() / scale)
    return found


def assert_alike(
    actual: dict[str, Tensor], exact: dict[str, Tensor], rounding: dict[str, float]
) -> None:
    """Float64: to 100 floors of `exact`. Float32: at most twice the `rounding` of one process."""
    for name, error in errors(actual, exact).items():
        single = actual[name].dtype is torch.float32
        allowed = (
            2 * rounding[name] + FLOOR[torch.float32] if single else 100 * FLOOR[torch.float64]
        )
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SPLITS)
def test_two_processes_train_as_one(
    results: list[dict[str, Any]], name: str, dtype: torch.dtype
) -> None:
    batch, owned = whole(SPLITS[name], dtype)
    segments = len(SPLITS[name][0])
    alone, exact = (flat(sync_worker.train(x, segments, False)) for x in (batch, batch.double()))
    rounding = errors(alone, exact)
    # Which tensor of so small a network draws the worst rounding is chance.
    rounding = dict.fromkeys(rounding, max(rounding.values()))
    assert_alike(together(results, "train", (name, dtype), owned), exact, rounding)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", OFFSETS)
def test_no_digits_are_lost_far_from_zero(
    results: list[dict[str, Any]], name: str, dtype: torch.dtype
) -> None:
    parts = shifted(OFFSETS[name], dtype)
    owned = list(torch.arange(sum(map(len, parts))).split([len(p) for p in parts]))
    batch = torch.cat(parts)
    alone, exact = (flat(sync_worker.normalise(x, False)) for x in (batch, batch.double()))
    actual = together(results, "normalise", (name, dtype), owned)
    assert_alike(actual, exact, errors(alone, exact))


def test_the_comparison_sees_statistics_that_are_not_synchronised() -> None:
    parts = shifted(OFFSETS["near zero"], torch.float64)
    exact = flat(sync_worker.normalise(torch.cat(parts), False))
    apart = [{"normalise": {"": sync_worker.normalise(p, False)}} for p in parts]
    for result in apart:
        result["normalise"][""]["shared"] = exact
    owned = list(torch.arange(8).split([5, 3]))
    actual = together(apart, "normalise", "", owned)
    with pytest.raises(AssertionError, match="z 0: error"):
        assert_alike(actual, exact, {})


def test_a_group_of_one_is_norm_act(results: list[dict[str, Any]]) -> None:
    for result in results:
        x, by_op, by_layer = result["edges"]["alone"]
        expected = norm_act(x, None, None, training=True)
        torch.testing.assert_close(by_op, expected)
        torch.testing.assert_close(by_layer, expected)


def test_a_copy_of_a_layer_shares_its_group(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["edges"]["copy shares the group"]
        assert result["edges"]["copy is another"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("outsider", "ValueError: process_group: this process is not a member"),
        ("one value", "ValueError: x: expected more than 1 value per channel over all"),
        ("forced", "RuntimeError: backend 'cpu' cannot run"),
        ("slices", "ValueError: segments: 2 does not divide the batch of 3"),
        ("half of the statistics", "ValueError: running_var: give both"),
        ("not a tensor", "TypeError: x: expected a Tensor"),
    ],
)
def test_errors_come_in_every_process(
    results: list[dict[str, Any]], case: str, message: str
) -> None:
    for result in results:
        assert result["edges"][case].startswith(message)


def test_batches_that_are_all_empty_move_nothing(results: list[dict[str, Any]]) -> None:
    for result in results:
        z, grad, mean, var = result["edges"]["nothing"]
        assert z.shape == grad.shape == (0, 2)
        assert torch.equal(mean, torch.zeros(2))
        assert torch.equal(var, torch.ones(2))


def test_a_graph_of_one_value_a_process_reads_no_value(results: list[dict[str, Any]]) -> None:
    for result in results:
        for eager, captured in zip(*result["recorded"].values(), strict=True):
            assert torch.equal(eager, captured)
        assert result["recorded"][True][1].all()


def test_layout_and_half_precision_are_kept(results: list[dict[str, Any]]) -> None:
    inputs, outputs = zip(*(result["edges"]["half"] for result in results), strict=True)
    assert all(result["edges"]["layout"] for result in results)
    assert all(z.dtype is torch.bfloat16 for z in outputs)
    expected = norm_act(torch.cat(inputs), None, None, training=True)
    torch.testing.assert_close(torch.cat(outputs), expected)


def test_ada_and_lecam_are_those_of_the_whole_batch(results: list[dict[str, Any]]) -> None:
    alone = sync_worker.adapt(make_cases()["adapt"])
    assert 0 < alone["p"] < 1
    assert results[0]["adapt"].keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(results[0]["adapt"][name], results[1]["adapt"][name]), name
        torch.testing.assert_close(results[0]["adapt"][name], value)


def test_without_a_group_it_is_norm_act() -> None:
    assert not dist.is_initialized()
    x = torch.randn(4, 3, 5)
    stats = [torch.zeros(3), torch.ones(3), torch.zeros(3), torch.ones(3)]
    with backend("reference"):
        z = sync_norm_act(x, *stats[:2], negative_slope=0.2)
        expected = norm_act(x, *stats[2:], training=True, negative_slope=0.2)
    assert torch.equal(z, expected)
    assert torch.equal(stats[0], stats[2])
    assert torch.equal(stats[1], stats[3])


def test_convert_sync_batchnorm() -> None:
    model = nn.Sequential(fnn.BatchNormAct2d(3), nn.Sequential(fnn.BatchNormAct1d(2)), nn.ReLU())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert "sync" not in repr(model)
    assert fnn.convert_sync_batchnorm(model) is model
    assert [m.sync for m in model.modules() if hasattr(m, "sync")] == [True, True]
    assert repr(model).count("sync=True") == 2
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_evaluation_is_that_of_the_running_statistics() -> None:
    layer = fnn.BatchNormAct1d(3, sync=True).eval()
    x = torch.randn(4, 3)
    expected = norm_act(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    assert torch.equal(layer(x), expected)
