"""A resume with other parts than the run had is refused, and says what is other."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from fastgan import losses
from fastgan.augment import ADA, Chain, DiffAugment, InstanceNoise
from fastgan.engine import CheckpointError, find_checkpoint, gan_step
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.parts import changed_parts, describe
from fastgan.regularizers import get_regularizer

from .conftest import forge, tiny_trainer


class OwnStep(nn.Module):
    """A step with a setting, a count that moves, and a buffer."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength, self.calls = strength, 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, *arguments: Any) -> Any:
        self.calls += 1
        self.seen.add_(1)
        return gan_step(*arguments)


def own_step(*arguments: Any) -> Any:
    return gan_step(*arguments)


def part(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


CASES = [
    (lambda: part("augment", ADA()), dict, r"augment: ADA\(target=0.6, .*now$"),
    (lambda: part("augment", ADA()), lambda: part("augment", DiffAugment()), "augment: ADA"),
    (dict, lambda: part("augment", DiffAugment()), r"augment: None in the .*, DiffAugment\("),
    (
        lambda: part("augment", ADA(target=0.6)),
        lambda: part("augment", ADA(target=0.7)),
        r"augment.target: 0.6 in the checkpoint, 0.7 now",
    ),
    (
        lambda: part("augment", ADA()),
        lambda: part("augment", ADA(kimg=100, interval=8)),
        r"augment.interval: 4 in the checkpoint, 8 now; augment.kimg: 500.0 in the checkpoint, 100",
    ),
    (
        lambda: part("augment", ADA()),
        lambda: part("augment", ADA(cutout=True)),
        r"augment.parts: \['blit', 'geometry', 'color'\] in the checkpoint, .*'cutout'\] now",
    ),
    (
        lambda: part("augment", DiffAugment(cutout=0.5)),
        lambda: part("augment", DiffAugment(cutout=0.25)),
        "augment.ratios",
    ),
    (
        lambda: part("augment", Chain(DiffAugment(), InstanceNoise(0.1))),
        lambda: part("augment", Chain(DiffAugment(), InstanceNoise(0.2))),
        r"augment.augmentations.1.initial: 0.1 in the checkpoint, 0.2 now",
    ),
    (
        lambda: part("augment", Chain(DiffAugment(), InstanceNoise())),
        lambda: part("augment", Chain(DiffAugment())),
        "augment.augmentations: ModuleList",
    ),
    (
        lambda: part("penalties", [get_regularizer("lecam")]),
        dict,
        r"penalties: \[LeCam\(.*\)\] in the checkpoint, \[\] now",
    ),
    (
        lambda: part("penalties", [get_regularizer("r1")]),
        lambda: part("penalties", [get_regularizer("r1", 5.0)]),
        r"penalties\[0\].weight: 10.0 in the checkpoint, 5.0 now",
    ),
    (
        lambda: part("penalties", [get_regularizer("r1")]),
        lambda: part("penalties", [get_regularizer("r2")]),
        r"penalties\[0\].name: 'r1' in the checkpoint, 'r2' now",
    ),
    (
        lambda: part("loss", losses.hinge),
        lambda: part("loss", losses.lsgan),
        "loss.name: 'hinge' in the checkpoint, 'lsgan' now",
    ),
    (lambda: part("loss", losses.hinge), dict, "loss: GANLoss"),
    (
        lambda: part("loss", losses.get_loss("lsgan", smooth_real=0.1)),
        lambda: part("loss", losses.lsgan),
        "loss.name: 'lsgan, targets 0.9 and 0.0' in the checkpoint, 'lsgan' now",
    ),
    (lambda: part("step", own_step), dict, r"step: own_step\(\) in the checkpoint, None now"),
    (
        lambda: part("step", OwnStep(1.0)),
        lambda: part("step", OwnStep(2.0)),
        "step.strength: 1.0 in the checkpoint, 2.0 now",
    ),
]


@pytest.mark.parametrize(("before", "after", "message"), CASES)
def test_other_parts_are_refused_by_name(tmp_path, recorder, before, after, message):
    out = tmp_path / "run"
    tiny_trainer(steps=2, parts=before()).fit(out, reporter=recorder)
    for state in ("resumed", "started anew"):
        if state == "started anew":
            for path in list_checkpoints(out / "checkpoints"):
                path.rename(tmp_path / path.name)
        with pytest.raises(CheckpointError, match=message):
            tiny_trainer(steps=4, parts=after()).fit(out, resume=True, reporter=recorder)


@pytest.mark.parametrize("before", [case[0] for case in CASES if case[0] is not dict])
def test_the_same_parts_go_on(tmp_path, recorder, before):
    out = tmp_path / "run"
    tiny_trainer(steps=2, parts=before()).fit(out, reporter=recorder)
    again = tiny_trainer(steps=4, parts=before()).fit(out, resume=True, reporter=recorder)
    assert again.finished


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (part("augment", ADA()), {}, "another augmentation, step or .* unexpected augment.p;"),
        ({}, part("augment", ADA()), "another augmentation, step or .* missing augment.p;"),
        (
            part("augment", ADA()),
            part("augment", InstanceNoise()),
            "missing augment.updates|augment.updates: float32",
        ),
        (part("penalties", [get_regularizer("lecam")]), {}, "unexpected penalty0.anchors"),
        (part("step", OwnStep()), {}, "unexpected step.seen"),
    ],
)
def test_state_that_would_be_lost_or_missing_is_refused_without_a_description(
    tmp_path, recorder, before, after, message
):
    """As older versions wrote checkpoints, which otherwise go on."""
    result = tiny_trainer(steps=2, parts=before).fit(tmp_path / "run", reporter=recorder)
    manifest = json.loads((result.checkpoint / "checkpoint.json").read_text())
    del manifest["parts"]
    forge(result.checkpoint, manifest)
    other = tiny_trainer(steps=4, parts=after)
    with pytest.raises(CheckpointError, match=message):
        other.load(find_checkpoint(result.out))
    tiny_trainer(steps=4, parts=before).load(find_checkpoint(result.out))


def test_another_optimizer_is_refused(tmp_path, recorder):
    result = tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder)
    other = tiny_trainer()
    other.optimizer_d.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(CheckpointError, match=r"optimizer_d.weight_decay: 0 in .*, 0.1 now"):
        other.load(find_checkpoint(result.out))
    other = tiny_trainer()
    parameters = list(other.generator.parameters())
    other.gan.update_g.optimizer = torch.optim.SGD(parameters, 0.1)  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match="optimizer_g: Adam in the checkpoint, SGD now"):
        other.load(find_checkpoint(result.out))


@dataclass
class Plain:
    weight: float = 1.0
    names: tuple[str, ...] = ("a", "b")
    limit: float = float("inf")
    _hidden: int = 0


class Chosen:
    def __init__(self) -> None:
        self.when = "today"

    def settings(self) -> dict[str, Any]:
        return {"depth": 3}

    def method(self) -> None: ...


def test_descriptions():
    assert describe(None) is None
    plain = {"type": "Plain", "weight": 1.0, "names": ["a", "b"], "limit": "inf"}
    assert describe(Plain()) == plain
    assert describe(Chosen()) == {"type": "Chosen", "depth": 3}
    assert describe(Chosen().method)["of"] == {"type": "Chosen", "depth": 3}
    assert describe(own_step) == {"type": "own_step"}
    assert describe(lambda: 1) == describe(lambda: 2) == {"type": "<lambda>"}
    bound = functools.partial(own_step, 1, scale=2)
    assert describe(bound)["args"] == [1]
    assert describe(bound)["scale"] == 2
    part = Plain()
    part.names = [part.names] * 1000  # type: ignore[assignment]
    assert describe(part)["names"] == {"type": "list"}
    cycle: list[Any] = []
    cycle.append(cycle)
    part.names = cycle  # type: ignore[assignment]
    assert describe(part)["type"] == "Plain"


def test_settings_that_one_version_does_not_know_are_not_compared():
    saved = {"augment": {"type": "A", "old": 1, "same": 1}, "gone": None}
    assert not changed_parts(saved, {"augment": {"type": "A", "new": 2, "same": 1}})
    assert changed_parts(saved, {"augment": {"type": "A", "same": 2}})
