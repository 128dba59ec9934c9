"""A loop of the user's own on GAN, Update, Ema, capture and CheckpointManager."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda
from torch import Tensor, nn

from fastgan.augment import ADA
from fastgan.data import make_loader
from fastgan.engine import (
    GAN,
    Batch,
    CaptureError,
    CheckpointError,
    CheckpointManager,
    Ema,
    Update,
    capture,
    gan_step,
    load_generator,
)
from fastgan.engine.capture import StepRunner
from fastgan.losses import get_loss
from fastgan.models import create_model
from fastgan.regularizers import get_regularizer

from .conftest import TINY, tiny_data, tiny_trainer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_loop.py"


class OwnLoop:
    """What `tiny_trainer` does, by hand: batch norm, dropout, lazy R1 and ADA."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        torch.manual_seed(0)
        generator = create_model("dcgan_generator", latent_dim=6, **TINY)
        discriminator = create_model("dcgan_discriminator", dropout=0.25, **TINY)
        networks = [m.to(memory_format=torch.channels_last) for m in (generator, discriminator)]
        updates = [Update(m, 2e-4, changed.get("betas", (0.5, 0.999))) for m in networks]
        penalty = get_regularizer("r1", None, 2)
        self.gan = GAN(*networks, *updates, get_loss("non_saturating"), [penalty], ADA(p=0.5))
        self.ema = Ema(generator, 0.999)
        self.noise = torch.Generator().manual_seed(1)
        self.data = make_loader(tiny_data(), 8, seed=0, device="cpu")
        self.step = capture(self._step, "cpu", generators=[self.noise])
        self.checkpoints = CheckpointManager(
            folder, gan=self.gan, generator_ema=self.ema, noise=self.noise
        )

    def _step(self, rows: Tensor, mirrored: Tensor | None, *, due: bool) -> dict[str, Tensor]:
        images, _ = self.data.gather(rows, mirrored)
        noise = torch.randn(8, 6, generator=self.noise)
        losses = gan_step(self.gan, lambda _: Batch(images, None, noise), [[due]])
        self.ema.update()
        return losses

    def run(self, steps: int) -> dict[str, float]:
        for i in range(self.checkpoints.restore(), steps):
            self.ema.before(i + 1)
            losses = self.step(*self.data.rows(i), due=i % 2 == 0)
        self.checkpoints.save(steps)
        return {name: float(value) for name, value in losses.items()}

    def tensors(self) -> dict[str, Tensor]:
        modules = {
            "g": self.gan.generator,
            "d": self.gan.discriminator,
            "ema": self.ema.average,
            "augment": self.gan.augment,
        }
        found = {
            f"{m}.{k}": v for m, module in modules.items() for k, v in module.state_dict().items()
        }
        for name, update in (("g", self.gan.update_g), ("d", self.gan.update_d)):
            state = update.optimizer.state_dict()["state"]
            found |= {f"{name}.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}
        return found | {"noise": self.noise.get_state(), "torch": torch.get_rng_state()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_its_losses_and_weights_equal_the_trainers(tmp_path):
    settings = {"regularizer": "r1", "reg_every": 2, "parts": {"augment": ADA(p=0.5)}}
    trainer = tiny_trainer(steps=4, **settings)
    for _ in range(4):
        trainer.train_step()
    own = OwnLoop(tmp_path)
    losses = own.run(4)
    assert losses == {name: float(value) for name, value in trainer.latest.items()}
    for name, value in trainer.ema.average.state_dict().items():
        assert torch.equal(value, own.ema.average.state_dict()[name]), name


def test_it_resumes_to_the_bit(tmp_path):
    whole = OwnLoop(tmp_path / "whole")
    losses = whole.run(5)
    expected = whole.tensors()
    OwnLoop(tmp_path / "parts").run(3)
    torch.manual_seed(99)  # as in another process
    again = OwnLoop(tmp_path / "parts")
    assert again.run(5) == losses
    assert_same(again.tensors(), expected)


def test_its_average_is_what_a_generator_is_loaded_from(tmp_path):
    own = OwnLoop(tmp_path)
    own.run(2)
    loaded = load_generator(
        tmp_path, generator=create_model("dcgan_generator", latent_dim=6, **TINY)
    )
    assert_same(loaded.state_dict(), own.ema.average.state_dict())


def test_a_torn_checkpoint_is_passed_over_and_where_none_is_whole_it_is_an_error(tmp_path):
    own = OwnLoop(tmp_path)
    own.run(1)
    own.run(2)
    for step in (2, 1):
        (tmp_path / "checkpoints" / f"step-{step:08d}" / "rng.safetensors").write_bytes(b"")
        if step == 2:
            with pytest.warns(UserWarning, match=r"not used: .* is torn"):
                assert own.checkpoints.restore() == 1
    with (
        pytest.warns(UserWarning, match=r"not used: .* is torn"),
        pytest.raises(CheckpointError, match=r"every checkpoint of .* is torn"),
    ):
        own.checkpoints.restore()


def test_what_does_not_fit_is_named_before_anything_is_touched(tmp_path):
    OwnLoop(tmp_path).run(1)
    other = OwnLoop(tmp_path, betas=(0.0, 0.9))
    before = {name: value.clone() for name, value in other.tensors().items()}
    with pytest.raises(
        CheckpointError, match=r"optimizer_g.betas: \[0.5, 0.999\] in the checkpoint"
    ):
        other.checkpoints.restore()
    assert_same(other.tensors(), before)
    for parts, message in (
        ({"encoder": nn.Linear(2, 2)}, "has no encoder.safetensors"),
        ({"generator": nn.Linear(2, 2)}, "generator is of another module: missing bias"),
    ):
        with pytest.raises(CheckpointError, match=message):
            CheckpointManager(tmp_path, **parts).restore()


def test_any_part_alone_and_the_newest_checkpoints_are_kept(tmp_path):
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    parts = {"layer": layer, "optimizer": optimizer, "noise": torch.Generator()}
    manager = CheckpointManager(tmp_path, keep_last=2, info={"note": "mine"}, **parts)
    assert manager.restore() == 0
    for step in (1, 2, 3):
        layer(torch.ones(2)).sum().backward()
        optimizer.step()
        saved = manager.save(step)
    assert {path.name for path in saved.parent.iterdir()} == {"step-00000002", "step-00000003"}
    kept = layer.weight.detach().clone()
    nn.init.zeros_(layer.weight)
    assert manager.restore() == 3
    assert torch.equal(layer.weight, kept)
    with pytest.raises(CheckpointError, match=r"has no random state other\.0"):
        CheckpointManager(tmp_path, other=torch.Generator()).restore()


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"step_count": 3}, TypeError, "step_count must be a GAN, .* got int"),
        ({"rng": nn.Linear(1, 1)}, ValueError, "name 'rng', or it is reserved"),
        ({"info": {"sha256": ""}}, ValueError, "info must not have an entry of the name 'sha256'"),
        ({"keep_last": -1}, ValueError, "keep_last must be at least 0"),
    ],
)
def test_bad_parts_are_named(tmp_path, parts, error, message):
    with pytest.raises(error, match=message):
        CheckpointManager(tmp_path, **parts)


def test_a_part_of_a_name_that_the_gan_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two parts of the name 'generator'"):
        CheckpointManager(tmp_path, generator=nn.Linear(1, 1), gan=OwnLoop(tmp_path).gan)


def twice(value: Tensor, *, plus: float = 0.0) -> dict[str, Tensor]:
    return {"twice": 2 * value + plus}


def test_values_by_name_are_variants_and_each_is_recorded_once(monkeypatch):
    gpu = FakeCuda(monkeypatch)
    settings = [1]
    step = capture(twice, "cuda:1", settings=lambda: list(settings))
    for plus in (1.0, 2.0):
        for _ in range(StepRunner.WARM_UP + 2):
            found = step(torch.tensor(4.0), plus=plus)
        assert float(found["twice"]) == 8 + plus
    assert (len(gpu.graphs), len(gpu.replays)) == (2, 4)
    settings[0] = 2
    step(torch.tensor(4.0), plus=1.0)
    assert [graph.resets for graph in gpu.graphs] == [1, 1]


def test_bad_steps_and_inputs_are_named():
    step = capture(twice, "cpu")
    assert float(step(torch.tensor(4.0))["twice"]) == 8
    with pytest.raises(
        TypeError, match=r"inputs\[0\] of a captured step .* got 3; plain values go"
    ):
        step(3)
    with pytest.raises(
        ValueError, match=r"keep their shapes: \[\[\]\] in the first step, \[\[2\]\]"
    ):
        step(torch.ones(2))
    with pytest.raises(CaptureError, match="CUDA graphs need a CUDA device, got cpu"):
        capture(twice, "cpu", mode="on")
    with pytest.raises(ValueError, match="mode must be one of 'auto', 'on', 'off', got 'of'"):
        capture(twice, "cpu", mode="of")


def test_the_example_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    arguments = ["own_loop.py", "--out", str(tmp_path / "run"), "--batch-size", "4"]
    for steps in ("1", "2"):
        monkeypatch.setattr(sys, "argv", [*arguments, "--steps", steps])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[::2]] == ["step 1", "step 2"]
    assert load_generator(tmp_path / "run")(torch.randn(2, 64)).shape == (2, 1, 28, 28)
