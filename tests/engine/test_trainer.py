from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from PIL import Image
from torch import nn

from fastgan.data import ImageDataset
from fastgan.engine import CheckpointError, TrainConfig, Trainer, find_checkpoint
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.gan import Batch
from fastgan.engine.step import gan_step
from fastgan.engine.update import frozen

from .conftest import all_tensors, tiny_data, tiny_trainer


def assert_same(left: Trainer, right: Trainer) -> None:
    a, b = all_tensors(left), all_tensors(right)
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different


def test_a_run_leaves_weights_metrics_samples_and_a_finished_mark(tmp_path, recorder):
    result = tiny_trainer(sample_every=3).fit(tmp_path / "run", reporter=recorder)
    assert (result.step, result.finished, result.stopped_by) == (6, True, None)
    assert [p.name for p in list_checkpoints(result.out / "checkpoints")] == [
        "step-00000006",
        "step-00000004",
        "step-00000002",
    ]
    assert sorted(p.name for p in (result.out / "samples").iterdir()) == [
        "step-00000003.png",
        "step-00000006.png",
    ]
    with Image.open(result.samples) as grid:
        assert grid.size == (2 * 8 * 10 + 16, 2 * 8 * 10 + 16)
    lines = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss_d", "loss_g", "real_logit", "fake_logit", "img_per_s"} <= lines[0].keys()
    assert [step for step, _ in recorder.values] == [2, 4, 6]
    run = json.loads((result.out / "run.json").read_text())
    assert run["finished"]
    assert run["config"]["steps"] == 6


def test_training_changes_both_networks_and_the_average_follows(tmp_path, recorder):
    trainer = tiny_trainer()
    before = {k: v.clone() for k, v in all_tensors(trainer).items()}
    trainer.fit(tmp_path / "run", reporter=recorder)
    after = all_tensors(trainer)
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert {"g", "d", "ema"} <= moved
    assert not torch.equal(after["ema.output.weight"], after["g.output.weight"])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, recorder):
    runs = [tiny_trainer(seed=seed) for seed in (3, 3, 4)]
    states = []
    for i, trainer in enumerate(runs):
        torch.manual_seed(trainer.config.seed)
        trainer.fit(tmp_path / str(i), reporter=recorder)
        states.append(all_tensors(trainer))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["g.output.weight"], states[2]["g.output.weight"])


@pytest.mark.parametrize("settings", [{}, {"discriminator_steps": 2, "ema_decay": 0.0}])
def test_resume_is_exact(tmp_path, recorder, settings):
    whole = tiny_trainer(**settings)
    torch.manual_seed(7)
    whole.fit(tmp_path / "whole", reporter=recorder)

    first = tiny_trainer(**{**settings, "steps": 4})
    torch.manual_seed(7)
    first.fit(tmp_path / "parts", reporter=recorder)
    second = tiny_trainer(**settings)
    torch.manual_seed(99)
    result = second.fit(tmp_path / "parts", resume=True, reporter=recorder)
    assert result.finished
    assert_same(whole, second)
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]


def test_resume_keeps_the_memory_layout_of_the_optimizers_moments(tmp_path, recorder):
    tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder)
    trainer = tiny_trainer()
    trainer.load(find_checkpoint(tmp_path / "run"))
    for parameter, state in trainer.optimizer_d.state.items():
        assert state["exp_avg"].stride() == parameter.stride()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_and_the_run_goes_on_exactly(tmp_path, recorder, number):
    whole = tiny_trainer()
    torch.manual_seed(7)
    whole.fit(tmp_path / "whole", reporter=recorder)

    trainer = tiny_trainer(checkpoint_every=0)
    torch.manual_seed(7)

    def raise_signal(step, _values):
        if step == 3:
            signal.raise_signal(number)

    recorder.update = raise_signal
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    result = trainer.fit(tmp_path / "parts", reporter=recorder)
    assert (result.step, result.finished, result.stopped_by) == (3, False, number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    del recorder.update

    again = tiny_trainer(checkpoint_every=0)
    assert again.fit(tmp_path / "parts", resume=True, reporter=recorder).finished
    assert_same(whole, again)


def test_a_standing_run_is_kept_unless_forced(tmp_path, recorder):
    out = tmp_path / "run"
    tiny_trainer(steps=2).fit(out, reporter=recorder)
    kept = (out / "metrics.jsonl").read_text()
    with pytest.raises(
        FileExistsError, match="finished run: resume continues it, with more steps, force"
    ):
        tiny_trainer(steps=2).fit(out, reporter=recorder)
    with pytest.raises(FileExistsError, match="has made its 2 steps already"):
        tiny_trainer(steps=2).fit(out, resume=True, reporter=recorder)
    assert (out / "metrics.jsonl").read_text() == kept
    result = tiny_trainer(steps=4).fit(out, force=True, reporter=recorder)
    assert result.step == 4
    assert [p.name for p in list_checkpoints(out / "checkpoints")][-1] == "step-00000002"


def test_a_run_killed_after_its_last_checkpoint_has_only_to_be_closed(tmp_path, recorder):
    out = tmp_path / "run"
    tiny_trainer(steps=2).fit(out, reporter=recorder)
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**facts, "finished": False}))
    shutil.rmtree(out / "samples")
    saved = {p: p.stat().st_mtime_ns for p in (out / "checkpoints").rglob("*")}
    result = tiny_trainer(steps=2).fit(out, resume=True, reporter=recorder)
    assert (result.step, result.finished) == (2, True)
    assert result.samples.exists()
    assert {p: p.stat().st_mtime_ns for p in (out / "checkpoints").rglob("*")} == saved
    assert json.loads((out / "run.json").read_text())["finished"]


def test_a_finished_run_can_be_resumed_for_more_steps(tmp_path, recorder):
    tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder)
    result = tiny_trainer(steps=4).fit(tmp_path / "run", resume=True, reporter=recorder)
    assert (result.step, result.finished) == (4, True)


def test_a_resume_that_finds_nothing_says_so(tmp_path, recorder):
    tiny_trainer(steps=1).fit(tmp_path / "rnu", resume=True, reporter=recorder)
    told = f"nothing to resume in {tmp_path / 'rnu'}: the run begins at step 0"
    assert told in recorder.notes
    recorder.notes.clear()
    tiny_trainer(steps=2).fit(tmp_path / "rnu", resume=True, reporter=recorder)
    assert told not in recorder.notes


def test_a_torn_checkpoint_is_passed_over_and_named(tmp_path, recorder):
    whole = tiny_trainer()
    torch.manual_seed(7)
    whole.fit(tmp_path / "whole", reporter=recorder)

    first = tiny_trainer(steps=4)
    torch.manual_seed(7)
    first.fit(tmp_path / "run", reporter=recorder)
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[0] / "generator.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    again = tiny_trainer()
    again.fit(tmp_path / "run", resume=True, reporter=recorder)
    assert "torn: generator.safetensors has" in recorder.notes[0]
    assert recorder.notes[1].endswith("at step 2")
    assert_same(whole, again)


def test_resume_refuses_other_data_other_settings_and_other_models(tmp_path, recorder):
    out = tmp_path / "run"
    tiny_trainer(steps=2).fit(out, reporter=recorder)
    with pytest.raises(CheckpointError, match="data:"):
        tiny_trainer(tiny_data(seed=1)).fit(out, resume=True, reporter=recorder)
    with pytest.raises(CheckpointError, match=r"batch_size: 8 in the checkpoint, 4 now"):
        tiny_trainer(batch_size=4).fit(out, resume=True, reporter=recorder)
    other = tiny_trainer()
    other.generator = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="generator is of another model: missing"):
        other.fit(out, resume=True, reporter=recorder)


def test_resume_without_a_checkpoint_starts_anew(tmp_path, recorder):
    out = tmp_path / "run"
    tiny_trainer(steps=2).fit(out, reporter=recorder)
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "finished": False}))
    for path in list_checkpoints(out / "checkpoints"):
        path.rename(tmp_path / path.name)
    result = tiny_trainer(steps=2).fit(out, resume=True, reporter=recorder)
    assert result.finished
    assert "starting from step 0" in recorder.notes[0]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1


def test_any_modules_can_be_trained(tmp_path, recorder):
    generator = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    config = TrainConfig(steps=2, batch_size=4, sample_count=2)
    trainer = Trainer(generator, discriminator, tiny_data(), config, latent_dim=3)
    result = trainer.fit(tmp_path / "run", reporter=recorder)
    assert result.finished


def test_a_generator_without_a_latent_dim_must_be_told_one():
    with pytest.raises(ValueError, match=r"latent_dim must be .* Trainer\(\.\.\., latent_dim="):
        Trainer(nn.Linear(2, 2), nn.Linear(2, 2), tiny_data(), TrainConfig(batch_size=4))


def test_settings_may_be_named_beside_a_config_or_without_one():
    generator, discriminator = nn.Linear(4, 9), nn.Linear(9, 1)
    data, config = torch.zeros(8, 1, 9), TrainConfig(steps=7, batch_size=4, device="cpu")
    networks = generator, discriminator, data
    trainer = Trainer(*networks, config, latent_dim=4, loss="hinge", batch_size=2)
    assert (trainer.config.steps, trainer.config.batch_size) == (7, 2)
    assert trainer.config.loss == "hinge"
    assert Trainer(*networks, latent_dim=4, batch_size=2, device="cpu").config.batch_size == 2
    with pytest.raises(ValueError, match="unknown setting 'batchsize'; did you mean 'batch_size'"):
        Trainer(*networks, config, latent_dim=4, batchsize=2)
    with pytest.raises(ValueError, match="unknown augmentation 'diffaug'"):
        Trainer(*networks, config, latent_dim=4, augment="diffaug")


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match="batch_size"):
        tiny_trainer(tiny_data(count=4), batch_size=8)


def test_bfloat16_trains_with_float32_parameters(tmp_path, recorder):
    trainer = tiny_trainer(precision="bfloat16", steps=2)
    trainer.fit(tmp_path / "run", reporter=recorder)
    assert {p.dtype for p in trainer.generator.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in trainer.generator.parameters())


def test_the_step_equals_the_tutorials_loop_written_out():
    """One step against the plain loop: separate passes, detach, no tricks."""
    trainer, plain = tiny_trainer(dropout=0.0), tiny_trainer(dropout=0.0)
    reals = torch.rand(8, 1, 8, 8) * 2 - 1
    z = torch.randn(8, 6)
    metrics = gan_step(trainer.gan, lambda _: Batch(reals, None, z))

    g, d = plain.generator, plain.discriminator
    bce = nn.BCEWithLogitsLoss()
    fakes = g(z)
    plain.optimizer_d.zero_grad()
    loss_real = bce(d(reals), torch.ones(8))
    loss_fake = bce(d(fakes.detach()), torch.zeros(8))
    loss_real.backward()
    loss_fake.backward()
    plain.optimizer_d.step()
    plain.optimizer_g.zero_grad()
    loss_g = bce(d(fakes), torch.ones(8))
    loss_g.backward()
    plain.optimizer_g.step()

    torch.testing.assert_close(metrics["loss_d"], (loss_real + loss_fake).detach())
    torch.testing.assert_close(metrics["loss_g"], loss_g.detach())
    for name, parameter in trainer.generator.named_parameters():
        torch.testing.assert_close(parameter, dict(g.named_parameters())[name])
    for name, parameter in trainer.discriminator.named_parameters():
        torch.testing.assert_close(parameter, dict(d.named_parameters())[name])


def test_the_generators_update_leaves_no_gradient_in_the_discriminator():
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(module):
        module(x).sum().backward()
    assert module.weight.grad is None
    assert x.grad is not None
    assert module.weight.requires_grad
    assert not module.bias.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0"),
        ({"sample_count": 0}, "sample_count must be at least 1"),
        ({"lr_g": 0.0}, "lr_g must be a positive number"),
        ({"lr_d": float("nan")}, "lr_d must be a positive number"),
        ({"beta1": 1.0}, r"beta1 must lie in \[0, 1\)"),
        ({"ema_decay": -0.1}, r"ema_decay must lie in \[0, 1\)"),
        ({"precision": "int8"}, "precision must be one of 'auto', 'float32', .*, got 'int8'"),
    ],
)
def test_bad_settings_name_themselves(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_a_setting_of_another_type_is_an_error():
    with pytest.raises(TypeError, match=r"steps must be an int, got 2\.5 of type float"):
        TrainConfig(steps=2.5)


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta"])
def test_a_device_that_is_not_there_is_an_error(device):
    with pytest.raises(ValueError, match="device"):
        tiny_trainer(device=device)


def test_unknown_loss_is_an_error():
    with pytest.raises(ValueError, match="non_saturating"):
        tiny_trainer(loss="non_saturatin")


def test_images_of_any_channel_count_make_a_grid(tmp_path, recorder):
    images = torch.randint(0, 256, (8, 5, 8, 8), dtype=torch.uint8)
    data = ImageDataset(images=images, labels=None, classes=None, name="five", skipped=0)
    generator = nn.Sequential(nn.Linear(3, 320), nn.Tanh(), nn.Unflatten(1, (5, 8, 8)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(320, 1))
    config = TrainConfig(steps=1, batch_size=4, sample_count=2)
    trainer = Trainer(generator, discriminator, data, config, latent_dim=3)
    assert trainer.fit(tmp_path / "run", reporter=recorder).samples.exists()


def test_a_part_that_was_put_in_evaluation_mode_stays_in_it_after_samples():
    trainer = tiny_trainer(ema_decay=0)
    norm = next(m for m in trainer.generator.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    trainer.sample(trainer.fixed_noise)
    assert trainer.generator.training
    assert not norm.training
