"""The settings of each objective are its own."""

from __future__ import annotations

import pytest

from fastgan.engine import CheckpointError, GANObjective, TrainConfig, VAEGANObjective, VAEObjective
from fastgan.engine.objectives import changed_objective, objective_of
from fastgan.engine.records import RecordError

from .conftest import tiny_trainer


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (GANObjective, {"update_rule": "both"}, "update_rule must be one of 'alternating', 'simul"),
        (VAEObjective, {"kl_weight": -1.0}, "kl_weight must be a number of at least 0, got -1.0"),
        (VAEObjective, {"kl_warmup": 10**30}, "kl_warmup must be at most"),
        (VAEGANObjective, {"feature_weight": float("nan")}, "feature_weight must be a number"),
    ],
)
def test_bad_settings_name_themselves(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_they_are_read_from_runs_of_now_and_of_before():
    old = {"config": {"objective": "vae", "kl_weight": 2.0, "update_rule": "alternating"}}
    assert objective_of(old) == VAEObjective(kl_weight=2.0)
    assert objective_of({"config": {"update_rule": "one_stage"}}) == GANObjective(
        update_rule="one_stage"
    )
    assert objective_of({"objective": {"objective": "gan"}}) == GANObjective()
    changed = changed_objective(old, VAEObjective(kl_weight=3.0))
    assert changed == ["kl_weight: 2.0 in the checkpoint, 3.0 now"]
    assert "objective: 'vae' in the checkpoint, 'gan' now" in changed_objective(old, GANObjective())
    with pytest.raises(RecordError, match=r"field objective must be one of gan, .*got 'no'"):
        objective_of({"objective": {"objective": "no"}})
    with pytest.raises(RecordError, match=r"must be one of gan, .*got \['vae'\]"):
        objective_of({"objective": {"objective": ["vae"]}})
    with pytest.raises(RecordError, match=r"field objective.kl_weight must be a finite number"):
        objective_of({"objective": {"objective": "vae", "kl_weight": "much"}})


def test_a_resume_with_another_is_refused(tmp_path, recorder):
    tiny_trainer(steps=1).fit(tmp_path / "run", reporter=recorder)
    with pytest.raises(CheckpointError, match="update_rule: 'alternating' in the checkpoint, 'sim"):
        tiny_trainer(steps=2, update_rule="simultaneous").fit(
            tmp_path / "run", resume=True, reporter=recorder
        )
    assert not {"objective", "update_rule", "kl_weight"} & TrainConfig().as_dict().keys()
