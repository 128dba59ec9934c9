"""Precision, schedules, clipping, and gradients that are not finite."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from torch import Tensor, nn

from fastgan.engine import (
    Callback,
    CheckpointError,
    NonFiniteError,
    TrainConfig,
    Trainer,
    train_state,
)
from fastgan.engine.precision import LossScale, resolve_precision
from fastgan.engine.schedule import lr_factor
from fastgan.engine.update import Update
from fastgan.ops.core.cuda_libraries import cuda_libraries

from .conftest import all_tensors, tiny_data, tiny_trainer


def updated(parameter: Tensor, gradient: Tensor, **options) -> Update:
    """An update of one parameter whose gradient is ``gradient``."""
    module = nn.Module()
    module.weight = nn.Parameter(parameter.clone())
    update = Update(module, 0.1, (0.5, 0.9), **options)
    update.start()
    update.backward((module.weight * gradient).sum())
    update.finish()
    return update


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    weight = torch.tensor([1.0, 2.0])
    for bad in (math.inf, -math.inf, math.nan):
        update = updated(weight, torch.tensor([1.0, bad]))
        assert torch.equal(update.parameters[0], weight)
        state = update.optimizer.state[update.parameters[0]]
        assert not state["exp_avg"].any()
        assert state["step"] == 0
        assert update.skipped == 1
    assert updated(weight, torch.tensor([1.0, 1.0])).skipped == 0


def test_the_loss_scale_halves_on_overflow_doubles_after_its_interval_and_stays_above_one():
    scale = LossScale(torch.device("cpu"))
    bad, good = torch.ones(()), torch.zeros(())
    scale.update(bad)
    assert scale.value == LossScale.INITIAL / 2
    for _ in range(LossScale.INTERVAL):
        scale.update(good)
    assert scale.value == LossScale.INITIAL
    for _ in range(20):
        scale.update(bad)
    assert scale.value == 1.0


def test_scaled_losses_give_the_same_update():
    weight, gradient = torch.tensor([1.0, 2.0]), torch.tensor([0.3, -0.7])
    plain = updated(weight, gradient)
    scaled = updated(weight, gradient, loss_scale=LossScale(torch.device("cpu")))
    assert torch.equal(scaled.parameters[0].grad, gradient)
    assert torch.equal(scaled.parameters[0], plain.parameters[0])


def test_an_overflow_of_the_scaled_loss_is_told_from_a_gradient_that_is_not_finite():
    scale = LossScale(torch.device("cpu"))
    update = updated(torch.ones(1), torch.tensor([1e35]), loss_scale=scale)
    assert (update.skipped, update.overflows) == (1, 1)
    scale.value.fill_(1.0)
    update.start()
    update.backward((update.parameters[0] * math.nan).sum())
    update.finish()
    assert (update.skipped, update.overflows) == (2, 1)


def test_gradients_are_clipped_to_a_norm():
    weight, gradient = torch.zeros(2), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(updated(weight, gradient, clip=1.0).parameters[0].grad, gradient / 5)
    assert torch.equal(updated(weight, gradient, clip=9.0).parameters[0].grad, gradient)


def test_schedules():
    rates = [lr_factor("constant", s, 10, 4) for s in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [lr_factor("linear", s, 10, 0) for s in (0, 5, 9, 10)] == [1.0, 0.5, 1 - 0.9, 0.0]
    assert lr_factor("cosine", 5, 10, 0) == pytest.approx(0.5)
    assert lr_factor("cosine", 6, 10, 2) == pytest.approx(0.5)


def test_the_schedule_reaches_both_optimizers_as_tensors_too():
    settings = {"lr_schedule": "linear", "warmup_steps": 2, "steps": 4, "lr_g": 1e-3, "lr_d": 2e-3}
    trainer, on_device = tiny_trainer(**settings), tiny_trainer(**settings)
    for update in (on_device.gan.update_g, on_device.gan.update_d):
        update.optimizer.param_groups[0]["lr"] = torch.tensor(0.0)
    rates = []
    for _ in range(4):
        for each in (trainer, on_device):
            torch.manual_seed(0)
            each.train_step()
        rates.append(trainer.optimizer_d.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 2e-3, 2e-3, 1e-3])
    assert on_device.optimizer_d.param_groups[0]["lr"] == torch.tensor(1e-3)
    for name, value in all_tensors(trainer).items():
        torch.testing.assert_close(all_tensors(on_device)[name], value)


def test_a_learning_rate_that_is_a_tensor_stays_it_through_a_checkpoint(tmp_path, recorder):
    trainer = tiny_trainer(steps=2, lr_schedule="cosine")
    rate = torch.tensor(0.0)
    trainer.optimizer_g.param_groups[0]["lr"] = rate
    trainer.fit(tmp_path / "run", reporter=recorder)
    from fastgan.engine import find_checkpoint

    rate.fill_(7.0)
    trainer.load(find_checkpoint(tmp_path / "run"))
    assert trainer.optimizer_g.param_groups[0]["lr"] is rate
    assert 0 < rate < 2e-4


def test_a_falling_rate_depends_on_the_steps_so_they_cannot_change(tmp_path, recorder):
    tiny_trainer(steps=2, lr_schedule="linear").fit(tmp_path / "run", reporter=recorder)
    with pytest.raises(ValueError, match="steps: 2 in the checkpoint, 4 now"):
        tiny_trainer(steps=4, lr_schedule="linear").fit(
            tmp_path / "run", resume=True, reporter=recorder
        )


def test_float16_trains_with_float32_parameters_and_resumes_exactly(tmp_path, recorder):
    settings = {"precision": "float16", "clip_grad": 1.0, "norm": "none"}
    whole = tiny_trainer(**settings)
    torch.manual_seed(7)
    whole.fit(tmp_path / "whole", reporter=recorder)
    assert whole.gan.update_d.loss_scale is not whole.gan.update_g.loss_scale
    assert {p.dtype for p in whole.generator.parameters()} == {torch.float32}

    first = tiny_trainer(**settings, checkpoint_every=3)
    torch.manual_seed(7)
    first.gan.update_d.loss_scale.value.fill_(512.0)
    first.fit(tmp_path / "parts", reporter=recorder)
    again = tiny_trainer(**settings, steps=8)
    again.fit(tmp_path / "parts", resume=True, reporter=recorder)
    assert again.gan.update_d.loss_scale.value == 512.0
    assert again.gan.update_g.loss_scale.value == LossScale.INITIAL


def libraries() -> tuple[bool, ...]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark


def test_tf32_is_used_only_if_asked_for_and_the_setting_is_put_back():
    before = libraries()
    for precision, expected in (("float32", False), ("tf32", True)):
        with cuda_libraries(precision):
            assert libraries()[:2] == (expected, expected)
        assert libraries() == before


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float32"), ((8, 0), "tf32")])
def test_auto_is_tf32_where_a_gpu_has_it(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "some GPU")
    gpu = torch.device("cuda", 0)
    assert resolve_precision("auto", gpu) == expected
    assert resolve_precision("float16", gpu) == "float16"
    trainer = tiny_trainer(device="cpu")
    assert trainer.config.precision == trainer.gan.precision == "float32"
    trainer.gan.precision = expected
    assert trainer.on_device() == f"on some GPU, precision {expected} (auto)"


@pytest.mark.parametrize("kept", [True, False], ids=["with a checkpoint", "without"])
def test_a_run_goes_on_in_the_precision_it_was_recorded_with(kept, tmp_path, recorder, monkeypatch):
    out = tmp_path / "run"
    tiny_trainer(steps=2, precision="float32").fit(out, reporter=recorder)
    if not kept:
        shutil.rmtree(out / "checkpoints")
    monkeypatch.setattr(train_state, "resolve_precision", lambda *_: "tf32")
    with pytest.raises(CheckpointError, match="precision: 'float32' in the checkpoint, 'tf32' now"):
        tiny_trainer(steps=4, precision="tf32").fit(out, resume=True, reporter=recorder)
    seen = Libraries()
    again = tiny_trainer(steps=4, parts={"callbacks": [seen]})
    assert again.config.precision == "tf32"
    with pytest.raises(OSError, match="the disk is full"):
        again.fit(out, resume=True, reporter=recorder)
    assert seen.tf32 == (False, False)
    assert again.config.precision == again.gan.precision == "float32"
    assert json.loads((out / "run.json").read_text())["config"]["precision"] == "float32"


class Libraries(Callback):
    """What a run finds set, at its first step; then it fails."""

    def on_step(self, trainer: Trainer) -> None:
        self.tf32, self.found = libraries()[:2], libraries()[2:]
        raise OSError("the disk is full")


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("of_the_process", [False, True])
def test_cudnn_tries_its_algorithms_unless_the_run_is_deterministic(
    asked, of_the_process, tmp_path, recorder, monkeypatch
):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", of_the_process)
    before, seen = libraries(), Libraries()
    trainer = tiny_trainer(deterministic=asked, parts={"callbacks": [seen]})
    with pytest.raises(OSError, match="the disk is full"):
        trainer.fit(tmp_path / "run", reporter=recorder)
    exact = asked or of_the_process
    assert seen.found == (exact, not exact)
    assert libraries() == before


def test_a_run_may_go_on_deterministic(tmp_path, recorder):
    tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder)
    again = tiny_trainer(steps=4, deterministic=True)
    assert again.fit(tmp_path / "run", resume=True, reporter=recorder).finished


class Failing(nn.Module):
    """A discriminator whose logits are not a number in some of its training passes."""

    def __init__(self, bad: range) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        self.bad, self.passes = bad, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.training
        logits = self.body(images)
        return logits * math.nan if self.passes - 1 in self.bad else logits


def failing_trainer(bad: range, **settings) -> Trainer:
    """Each step makes three passes; ``bad`` counts them."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    common = {"steps": 8, "batch_size": 8, "log_every": 1, "checkpoint_every": 2}
    config = TrainConfig(**common, **settings)
    return Trainer(generator, Failing(bad), tiny_data(), config, latent_dim=4)


def test_by_default_a_run_stops_at_gradients_that_are_not_finite(tmp_path, recorder):
    trainer = failing_trainer(range(15, 18))
    expected = r"2 updates by step 6 .* the newest checkpoint is .*step-00000006"
    with pytest.raises(NonFiniteError, match=expected):
        trainer.fit(tmp_path / "run", reporter=recorder)
    assert all(p.isfinite().all() for p in trainer.discriminator.parameters())
    # The run can go on from where it was sound.
    result = failing_trainer(range(0)).fit(tmp_path / "run", resume=True, reporter=recorder)
    assert result.finished


def test_a_run_can_skip_them(tmp_path, recorder):
    trainer = failing_trainer(range(15, 18), nan_policy="skip")
    assert trainer.fit(tmp_path / "run", reporter=recorder).finished
    assert recorder.notes == ["2 updates by step 6 had gradients that were not finite: skipped"]
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0] * 5 + [2] * 3


def test_a_run_can_go_back_to_its_checkpoint_with_other_random_numbers(tmp_path, recorder):
    noise = []

    class Watch(Callback):
        def on_step(self, trainer: Trainer) -> None:
            noise.append((trainer.step, trainer.noise.get_state()))

    trainer = failing_trainer(range(15, 18), nan_policy="rollback")
    trainer.callbacks.append(Watch())
    assert trainer.fit(tmp_path / "run", reporter=recorder).finished
    assert [step for step, _ in noise] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert "back to step 4 (rollback 1)" in recorder.notes[0]
    assert not torch.equal(noise[4][1], noise[6][1])
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
    again = failing_trainer(range(0), nan_policy="rollback")
    from fastgan.engine import find_checkpoint

    again.load(find_checkpoint(tmp_path / "run"))
    assert again.rollbacks == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (range(15, 999), "after 2 rollbacks; the newest checkpoint is"),
        (range(999), "after 0 rollbacks; there is no checkpoint yet"),
    ],
)
def test_rollbacks_have_an_end(tmp_path, recorder, bad, message):
    trainer = failing_trainer(bad, nan_policy="rollback", max_rollbacks=2)
    with pytest.raises(NonFiniteError, match=message):
        trainer.fit(tmp_path / "run", reporter=recorder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_grad": -1.0}, "clip_grad must be a number of at least 0"),
        ({"accumulate": 3}, "batch_size must be a multiple of accumulate = 3, got 8"),
        ({"lr_schedule": "steps"}, "lr_schedule must be one of .*'cosine', got 'steps'"),
        ({"nan_policy": "ignore"}, "nan_policy must be one of 'stop', 'skip', 'rollback'"),
        ({"capture": "maybe"}, "capture must be one of 'auto', 'on', 'off'"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"keep_last": -1}, "keep_last must be at least 0"),
    ],
)
def test_bad_settings_name_themselves(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"batch_size": 8, **settings})


def test_a_regulariser_and_clipped_weights_are_a_setting_away(tmp_path, recorder):
    trainer = tiny_trainer(norm="none", regularizer="r1", reg_every=2, clip_weights=0.01)
    (penalty,) = trainer.gan.penalties
    assert (penalty.name, penalty.weight, penalty.every) == ("r1", 10.0, 2)
    trainer.fit(tmp_path / "run", reporter=recorder)
    assert "r1" in recorder.values[0][1]
    largest = [
        max(p.detach().abs().max() for p in network.parameters())
        for network in (trainer.discriminator, trainer.generator)
    ]
    assert largest[0] == torch.tensor(0.01) < largest[1]


def test_the_state_of_a_regulariser_is_in_the_checkpoint(tmp_path, recorder):
    settings = {"regularizer": "lecam", "dropout": 0.0}
    whole = tiny_trainer(**settings)
    whole.fit(tmp_path / "whole", reporter=recorder)
    tiny_trainer(**settings, steps=4).fit(tmp_path / "parts", reporter=recorder)
    again = tiny_trainer(**settings)
    again.fit(tmp_path / "parts", resume=True, reporter=recorder)
    assert whole.gan.penalties[0].anchors.any()
    assert torch.equal(again.gan.penalties[0].anchors, whole.gan.penalties[0].anchors)
    for name, value in all_tensors(whole).items():
        assert torch.equal(all_tensors(again)[name], value), name


def test_the_state_of_an_augmentation_is_in_the_checkpoint(tmp_path, recorder):
    settings = {"augment": "ada", "dropout": 0.0}
    whole = tiny_trainer(**settings)
    torch.manual_seed(7)
    whole.fit(tmp_path / "whole", reporter=recorder)
    assert whole.gan.augment.p != 0 or whole.gan.augment.updates != 0
    first = tiny_trainer(**settings, steps=4)
    torch.manual_seed(7)
    first.fit(tmp_path / "parts", reporter=recorder)
    again = tiny_trainer(**settings)
    again.fit(tmp_path / "parts", resume=True, reporter=recorder)
    for name, value in whole.gan.augment.state_dict().items():
        assert torch.equal(again.gan.augment.state_dict()[name], value), name
    for name, value in all_tensors(whole).items():
        assert torch.equal(all_tensors(again)[name], value), name
