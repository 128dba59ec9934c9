"""The arms of the training-quality benchmark train, alike, and are measured."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from bench import peer_torchgan, quality
from bench.harness import results


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "SAMPLES", 32)
    monkeypatch.setattr(quality, "MARKS", (0.5, 1.0))
    monkeypatch.setattr(quality, "METRICS", ("fid",))
    monkeypatch.setattr(quality, "keep_freed_memory", lambda: True)  # this process goes on


@pytest.mark.parametrize("name", quality.ARMS)
def test_an_arm_trains_and_is_measured(name):
    first, last = quality.arm(name, "digits", seconds=0.05, seed=0)
    assert 1 <= first["steps"] <= last["steps"]
    assert last["seconds"] >= 0.05
    assert last["metrics"]["fid"] > 0
    assert last["batch"] == 64


@pytest.mark.skipif(find_spec("torchgan") is None, reason="torchgan is not installed")
def test_torchgan_trains_on_the_same_images_and_is_measured_alike():
    _, last = quality.arm("torchgan", "digits", seconds=0.05, seed=0)
    assert last["metrics"]["fid"] > 0


@pytest.mark.skipif(find_spec("torchgan") is None, reason="torchgan is not installed")
def test_torchgan_goes_on_from_epoch_to_epoch():
    steps = []

    def after_step(generator: nn.Module) -> None:
        steps.append(generator(torch.randn(2, 100)).shape)
        if len(steps) == 5:
            raise quality.Ended

    with pytest.raises(quality.Ended):
        peer_torchgan.train(torch.rand(8, 1, 28, 28), 4, after_step)
    assert steps == [(2, 1, 28, 28)] * 5
    assert find_spec("torchvision") is None or find_spec("torchvision").origin


def test_torchgan_where_it_is_not_installed_is_an_error_in_words(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchgan.losses", None)
    with pytest.raises(SystemExit):
        quality.main(["--here", "--arms", "torchgan", "--seconds", "0.05"])
    assert "the arm torchgan needs the package torchgan" in capsys.readouterr().err


def test_torchgan_refuses_images_that_it_could_not_be_given():
    with pytest.raises(ValueError, match=r"expected squares of an even side, got \(2, 1, 27, 27\)"):
        peer_torchgan.train(torch.zeros(2, 1, 27, 27), 2, lambda _: None)


def test_snapshots_are_of_their_time_and_the_clock_stands_for_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(quality.time, "perf_counter", lambda: now[0])
    model = nn.Linear(2, 2)
    snapshots = quality.Snapshots(4.0)

    def train() -> None:
        for step in range(1, 9):
            now[0] = float(step)
            nn.init.constant_(model.bias, step)
            snapshots.after_step(model)

    with pytest.raises(quality.Ended):
        train()
    assert [(t, steps) for t, steps, _ in snapshots.taken] == [(2.0, 2), (4.0, 4)]
    assert [float(weights["bias"][0]) for *_, weights in snapshots.taken] == [2.0, 4.0]


def test_rows_of_other_arms_are_kept_and_of_the_same_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "FOLDER", tmp_path)

    def started(name, recipe, seconds, seed):
        return [{"kind": "quality", "arm": name, "seed": seed, "recipe": recipe, "s": seconds}]

    monkeypatch.setattr(quality, "started", started)
    assert quality.main(["--seconds", "1"]) == 0
    assert quality.main(["--seconds", "2", "--arms", "tutorial"]) == 0
    lines = (tmp_path / "local" / "quality.jsonl").read_text().splitlines()
    found = {row["arm"]: row["s"] for row in map(json.loads, lines[1:])}
    assert found == {"fused": 1, "reference": 1, "tutorial": 2}


def test_what_is_committed_is_replaced_when_every_arm_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    path = tmp_path / quality.machine.slug() / "quality.jsonl"
    results.write(path, {"commit": "older"}, [])
    before = path.read_text()
    trained: list[str] = []

    def started(name, recipe, seconds, seed):
        if len(trained) == 2:
            raise RuntimeError("cut")
        assert path.read_text() == before
        trained.append(name)
        return [{"kind": "quality", "arm": name, "seed": seed, "recipe": recipe}]

    monkeypatch.setattr(quality, "started", started)
    with pytest.raises(RuntimeError, match="cut"):
        quality.main(["--keep", "--arms", "fused", "reference", "tutorial"])
    assert path.read_text() == before
    trained.clear()
    assert quality.main(["--keep", "--arms", "tutorial"]) == 0
    _, rows = results.read(path)
    assert [row["arm"] for row in rows] == ["fused", "reference", "tutorial"]


def test_an_unknown_recipe_is_an_error_in_words(capsys):
    with pytest.raises(SystemExit):
        quality.main(["--here", "--arms", "fused", "--recipe", "digit"])
    assert "bench.quality: error: " in capsys.readouterr().err
