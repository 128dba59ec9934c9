"""Optimizers and schedules that a person brings, or names."""

from __future__ import annotations

import math
import sys
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from fastgan.engine import CaptureError, CheckpointError, TrainConfig, Trainer
from fastgan.engine.checkpoint import open_checkpoint
from fastgan.engine.optimizers import OptimizerName, named_optimizer, not_capturable, prepare
from fastgan.engine.update import Update
from fastgan.engine.validate import capture_of
from fastgan.models import create_model
from fastgan.optim import Adam

from .conftest import TINY, all_tensors, tiny_data, tiny_trainer


class Own:
    """tiny_trainer's networks with optimizers and schedulers of one's own."""

    def __init__(self, make, schedule=lambda optimizer: [], **settings: Any) -> None:
        torch.manual_seed(0)
        g = create_model("dcgan_generator", latent_dim=6, **TINY)
        d = create_model("dcgan_discriminator", dropout=0.25, **TINY)
        pair = make(g), make(d)
        defaults = {"steps": 6, "batch_size": 8, "log_every": 2, "sample_every": 0}
        config = TrainConfig(**{**defaults, "sample_count": 4, "checkpoint_every": 2, **settings})
        schedulers = [s for optimizer in pair for s in schedule(optimizer)]
        self.trainer = Trainer(g, d, tiny_data(), config, optimizers=pair, schedulers=schedulers)


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    sizes = [p.dim() > 1 for p in module.parameters()]
    parts = [
        [p for p, s in zip(module.parameters(), sizes, strict=True) if s is big]
        for big in (True, False)
    ]
    groups = [{"params": parts[0], "weight_decay": 0.1}, {"params": parts[1], "lr": 1e-4}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.2, 0.9), weight_decay=0.0)


def rates(trainer) -> list[float]:
    return [float(group["lr"]) for group in trainer.optimizer_g.param_groups]


def schedules(optimizer):
    warm = LinearLR(optimizer, 0.1, total_iters=2)
    return [SequentialLR(optimizer, [warm, CosineAnnealingLR(optimizer, 4)], [2])]


def test_groups_and_their_rates_are_the_persons_and_a_run_resumes_exactly(tmp_path, recorder):
    whole = Own(adamw, schedules).trainer
    whole.fit(tmp_path / "whole", reporter=recorder)
    alone = schedules(optimizer := adamw(create_model("dcgan_generator", latent_dim=6, **TINY)))
    for _ in range(6):
        optimizer.step()
        alone[0].step()
    assert rates(whole) == [group["lr"] for group in optimizer.param_groups]
    Own(adamw, schedules, steps=3).trainer.fit(tmp_path / "cut", reporter=recorder)
    cut = Own(adamw, schedules).trainer
    cut.fit(tmp_path / "cut", resume=True, reporter=recorder)
    one, two = all_tensors(whole), all_tensors(cut)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert rates(whole) == rates(cut)
    other = Own(lambda m: torch.optim.AdamW(m.parameters(), lr=1e-5), schedules, steps=8).trainer
    with pytest.raises(CheckpointError, match=r"rates.*1e-05"):
        other.fit(tmp_path / "cut", resume=True, reporter=recorder)


def test_a_schedule_that_moves_momentum_goes_on_where_it_was(tmp_path, recorder):
    def cycle(optimizer):
        return [OneCycleLR(optimizer, 1e-2, total_steps=8)]

    Own(adamw, cycle, steps=3).trainer.fit(tmp_path / "run", reporter=recorder)
    trainer = Own(adamw, cycle, steps=5).trainer
    trainer.fit(tmp_path / "run", resume=True, reporter=recorder)
    whole = Own(adamw, cycle, steps=5).trainer
    for _ in range(5):
        whole.train_step()
    assert (
        trainer.optimizer_g.param_groups[0]["betas"] == whole.optimizer_g.param_groups[0]["betas"]
    )
    assert rates(trainer) == rates(whole)


def test_a_schedule_goes_back_with_a_rollback(tmp_path):
    trainer = Own(adamw, lambda o: [LambdaLR(o, lambda step: 0.5**step)], steps=9).trainer
    trainer.train_step()
    kept = trainer.save(tmp_path)
    trainer.train_step()
    assert rates(trainer) == [2.5e-4, 2.5e-5]
    trainer.load(open_checkpoint(kept))
    assert rates(trainer) == [5e-4, 5e-5]


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_name_trains_skips_what_is_not_finite_and_resumes(name, tmp_path):
    settings = {"optimizer": name, "beta2": 0.9, "beta1": 0.3, "steps": 4}
    trainer = tiny_trainer(**settings)
    before = [p.clone() for p in trainer.generator.parameters()]
    trainer.train_step()
    assert not all(map(torch.equal, before, trainer.generator.parameters()))
    path = trainer.save(tmp_path)
    update = trainer.gan.update_d
    kept = all_tensors(trainer)
    update.start()
    update.backward(sum(p.sum() for p in update.parameters) * math.nan)
    update.finish()
    assert int(update.skipped) == 1
    assert all(torch.equal(kept[n], v) for n, v in all_tensors(trainer).items())
    trainer.train_step()
    again = tiny_trainer(**settings)
    again.load(open_checkpoint(path))
    again.train_step()
    one, two = all_tensors(trainer), all_tensors(again)
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_names_take_what_they_have():
    p = [nn.Parameter(torch.ones(2, 2))]
    assert named_optimizer("sgd", p, 0.1, (0.3, 0.9)).defaults["momentum"] == 0.3
    rms = named_optimizer("rmsprop", p, 0.1, (0.3, 0.9)).defaults
    assert (rms["momentum"], rms["alpha"]) == (0.3, 0.9)
    assert named_optimizer("adamw", p, 0.1, weight_decay=0.2).defaults["weight_decay"] == 0.2
    assert isinstance(named_optimizer("adamw", p, 0.1), Adam)
    with pytest.raises(ValueError, match=r"weight_decay must be 0 with optimizer rprop, got 0.1"):
        named_optimizer("rprop", p, 0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"one of adam, .*got 'lamb'; .*any other is given in Pyt"):
        TrainConfig(optimizer="lamb")
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        TrainConfig(optimizer="adamW2")


def test_lion_is_of_a_package_of_its_own(monkeypatch):
    pytest.importorskip("lion_pytorch", reason="needs fastgan[lion]")
    p = [nn.Parameter(torch.ones(2, 2))]
    lion = named_optimizer("lion", p, 0.1, (0.3, 0.9), weight_decay=0.2)
    (group,) = lion.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.3, 0.9), 0.2)
    trainer = tiny_trainer(optimizer="lion")
    before = [w.clone() for w in trainer.generator.parameters()]
    trainer.train_step()
    after = trainer.generator.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastgan\[lion\]'"):
        named_optimizer("lion", p, 0.1)


def other_network(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([*module.parameters(), nn.Parameter(torch.ones(1))], 0.1)


BAD = {
    "foreign": (other_network, r"optimizers\[0\] .* alone: 1 of its \d+ are of another"),
    "lacking": (lambda m: torch.optim.SGD([next(m.parameters())], 0.1), r"lacks \d+ parameters of"),
    "closure": (lambda m: torch.optim.LBFGS(m.parameters()), "LBFGS needs a closure"),
    "none": (lambda m: 3, r"optimizers\[0\] .*must be a torch.optim.Optimizer or None, got 3"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_optimizers_that_do_not_fit_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Own(make)


def test_the_discriminators_optimizer_is_not_the_generators():
    trainer = tiny_trainer()
    pair = trainer.optimizer_d, trainer.optimizer_g
    with pytest.raises(ValueError, match=r"optimizers\[0\] .*DCGANGenerator, alone: \d+ of its"):
        tiny_trainer(parts={"optimizers": pair})
    with pytest.raises(ValueError, match="optimizers must be two"):
        tiny_trainer(parts={"optimizers": pair[:1]})


def test_schedulers_that_do_not_fit_are_refused():
    plateau = Own(adamw).trainer
    with pytest.raises(TypeError, match="got ReduceLROnPlateau: step others in a callback"):
        Own(adamw, lambda o: [ReduceLROnPlateau(o)])
    with pytest.raises(ValueError, match=r"schedulers\[0\] is of none of the optimizers"):
        Own(adamw, lambda o: [LinearLR(plateau.optimizer_g)])
    with pytest.raises(ValueError, match="give schedulers for your own"):
        Own(adamw, lr_schedule="cosine")


def test_what_cannot_be_captured_runs_eagerly_and_says_why():
    parameters = [nn.Parameter(torch.ones(2, 2))]
    slow = named_optimizer("adagrad", parameters, 0.1)
    assert not_capturable(named_optimizer("adam", parameters, 0.1)) is None
    assert capture_of(TrainConfig(), slow) == ("off", not_capturable(slow))
    assert "Adagrad is neither capturable nor fused" in (not_capturable(slow) or "")
    with pytest.raises(CaptureError, match="capture is on, but Adagrad is neither"):
        capture_of(TrainConfig(capture="on"), slow)


def test_on_a_gpu_counts_and_rates_are_on_the_device(monkeypatch):
    """Without one: the tensors stay here."""
    monkeypatch.setattr(torch, "as_tensor", lambda v, dtype, device: torch.tensor(v, dtype=dtype))
    parameters = [nn.Parameter(torch.ones(2, 2))]
    for name, captured in (("nadam", True), ("adam", True), ("adagrad", False)):
        optimizer = named_optimizer(name, parameters, 0.1)
        prepare(optimizer, torch.device("cuda"))
        assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor) is captured
        assert (not_capturable(optimizer) is None) is captured
    own = torch.optim.AdamW(parameters, lr=0.1)
    schedule = LinearLR(own, 0.5, total_iters=2)
    prepare(own, torch.device("cuda"))
    rate = own.param_groups[0]["lr"]
    schedule.step()
    assert own.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.075)


def test_a_captured_update_that_is_skipped_leaves_weights_and_state(monkeypatch):
    """Without a host that looks: by the arithmetic alone."""
    module = nn.Linear(3, 2)
    optimizer = torch.optim.NAdam(module.parameters(), 0.1)
    update = Update(module, 0.0, (0.0, 0.0), optimizer=optimizer)
    update.start()
    update.backward(module(torch.ones(1, 3)).sum())
    update.finish()
    monkeypatch.setattr(update, "device", torch.device("cuda"))
    monkeypatch.setattr("fastgan.engine.update.not_capturable", lambda _: None)
    kept = [v.clone() for s in optimizer.state.values() for v in s.values()]
    weights = [p.detach().clone() for p in module.parameters()]
    for factor, changes in ((math.inf, False), (1.0, True)):
        update.start()
        update.backward(module(torch.ones(1, 3)).sum() * factor)
        update.finish()
        now = [v for s in optimizer.state.values() for v in s.values()]
        assert all(map(torch.equal, kept, now)) is not changes
        assert all(map(torch.equal, weights, module.parameters())) is not changes
