"""A watched run: what a look measures, what it says, and that it changes nothing.

That every recipe's weights are the same, watched or not, is held by tests/recipes/test_smoke.py.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgan.data import ImageDataset
from fastgan.engine import TrainConfig, Trainer, VAEObjective, gan_step
from fastgan.engine.health import Health
from fastgan.engine.watching import Watch
from fastgan.engine.watching.measures import LargestSingular, Reals
from fastgan.engine.watching.signs import Signs
from fastgan.models import create_model

from .conftest import Recorder, all_tensors, tiny_data, tiny_trainer

MEASURES = {"accuracy_real", "accuracy_fake", "grad_g", "grad_d", "spectral_g", "spectral_d"}
MEASURES |= {"spread", "nearest", "copied"}


def watched(trainer: Trainer) -> tuple[Watch, list[str], dict[str, float]]:
    """After one look, what it tells and what it has measured."""
    watch = Watch(trainer, Health(trainer))
    return watch, watch.look(), watch.take()


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "ada", "discriminator_steps": 2},
        {"joint_batch": True, "loss": "relativistic_pairing", "regularizer": "r1", "flip": True},
        {"precision": "bfloat16", "accumulate": 2, "ema_decay": 0.0, "update_rule": "simultaneous"},
    ],
)
def test_a_look_moves_nothing_of_the_run(settings):
    """Nor does one between the parts of a run, so a resume is as exact as without."""
    both = []
    for watches in (False, True):
        trainer = tiny_trainer(**settings, watch_every=1 if watches else 0)
        torch.manual_seed(5)  # of dropout
        watch = Watch(trainer, Health(trainer))
        for _ in range(3):
            trainer.train_step()
            if watches:
                random = torch.get_rng_state()
                buffers = {id(b) for b in trainer.generator.buffers()}
                watch.look()
                assert torch.equal(torch.get_rng_state(), random)
                assert {id(b) for b in trainer.generator.buffers()} == buffers
                assert trainer.generator.training
                assert trainer.discriminator.training
                assert watch.take().keys() >= MEASURES - {"accuracy_real", "accuracy_fake"}
        both.append(all_tensors(trainer) | {"random": torch.get_rng_state()})
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())


def test_what_is_measured_stands_in_the_log_at_the_next_line_and_once(tmp_path, recorder):
    trainer = tiny_trainer(steps=6, log_every=2, watch_every=3)
    trainer.fit(tmp_path / "run", reporter=recorder)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.keys() >= MEASURES] == [4, 6]
    assert not lines[0].keys() & MEASURES
    assert "seconds_watch" in lines[1]


def test_an_unwatched_run_has_none_of_it(tmp_path, recorder):
    trainer = tiny_trainer(steps=2)
    watch = Watch(trainer, Health(trainer))
    assert (watch.on, watch.left_out, watch.take()) == (False, [], {})
    trainer.fit(tmp_path / "run", reporter=recorder)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert not line.keys() & (MEASURES | {"seconds_watch"})


def test_gradients_are_those_of_the_losses():
    """A network of one weight each, whose losses' slopes are known."""

    class Scale(nn.Module):
        latent_dim = 1

        def __init__(self, weight: float, bias: float = 0.0) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.tensor(weight)), bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.flatten(1)[:, :1] * self.weight + self.bias
            return flat.view(-1, 1, 1, 1) if x.dim() == 2 else flat

    images = torch.full((8, 1, 1, 1), 255, dtype=torch.uint8)  # 1 in [-1, 1]
    config = TrainConfig(batch_size=8, loss="wasserstein", watch_every=1, device="cpu")
    trainer = Trainer(Scale(0.0, bias=0.5), Scale(2.0), ImageDataset(images), config)
    watch, told, values = watched(trainer)
    # The critic's loss is (0.5 - 1) w, the generator's -2 (g z + 0.5): slopes -0.5 and -2 E z.
    assert values["grad_d"] == pytest.approx(0.5)
    z = watch._batch().noise
    assert values["grad_g"] == pytest.approx(2 * abs(z.mean().item()), rel=1e-5)
    assert not values.keys() & {"accuracy_real", "spectral_g", "copied"}
    assert watch.left_out == [
        "not watched is accuracy: the logits of loss wasserstein have no place that parts real "
        "from generated images"
    ]
    assert told == ["not watched are spread and nearest: most images of the data are one"]


def test_accuracy_is_the_share_on_the_right_side():
    class Brightness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).mean(1, keepdim=True) * self.scale

    images = torch.full((8, 1, 8, 8), 255, dtype=torch.uint8)
    images[:2] = 0
    generator = create_model("dcgan_generator", latent_dim=6, image_size=8, channels=1, width=8)
    for loss, real in (("non_saturating", 0.75), ("lsgan", 0.75)):
        config = TrainConfig(batch_size=8, loss=loss, watch_every=1, device="cpu")
        trainer = Trainer(generator, Brightness(), ImageDataset(images), config)
        *_, values = watched(trainer)
        assert values["accuracy_real"] == real
    # Of lsgan fakes are below ½: a mean of pixels of an untrained generator is.
    assert values["accuracy_fake"] == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(7, 5),
        nn.Conv2d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose1d(3, 9, 4),
        spectral_norm(nn.Conv2d(4, 6, 3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_spectral_norms_are_those_of_the_matrices(layer):
    norms = LargestSingular(nn.Sequential(layer, nn.BatchNorm1d(3)))
    for _ in range(30):  # each goes on from the one before
        found = norms.largest()
    weight = layer.weight.detach()
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        weight = weight.transpose(0, 1)
    exact = torch.linalg.matrix_norm(weight.flatten(1), 2)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)  # of close singular values slowly
    assert found <= exact * (1 + 1e-6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter *= 3
    scale = 1 if hasattr(layer, "parametrizations") else 3
    torch.testing.assert_close(norms.largest(), exact * scale, rtol=1e-3, atol=0)


def test_a_weight_of_zeros_is_seen_once_it_is_none():
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    norms = LargestSingular(layer)
    assert norms.largest() == 0
    nn.init.eye_(layer.weight)
    torch.testing.assert_close(norms.largest(), torch.tensor(1.0))
    assert LargestSingular(nn.ReLU()).largest() is None


def images_of(data: ImageDataset) -> torch.Tensor:
    return data.images.float() / 127.5 - 1


def test_samples_are_compared_with_real_images():
    data = tiny_data()
    reals = Reals(data, flip=False, count=40)
    others = images_of(tiny_data(seed=1))
    fair = reals.likeness(others)
    # As far from each other, and from the data, as the data are.
    assert fair.spread == pytest.approx(1, abs=0.05)
    assert fair.nearest == pytest.approx(1, abs=0.1)
    assert fair.copied == reals.copied == 0
    half = torch.cat([others[:20], images_of(data)[:20] + 0.01 * torch.randn(20, 1, 8, 8)])
    assert reals.likeness(half).copied == 0.5
    copies = reals.likeness(images_of(data))
    assert (copies.spread, copies.nearest, copies.copied) == (pytest.approx(1), 0, 1)
    assert reals.likeness(others[:1].expand(8, -1, -1, -1)).spread == pytest.approx(0, abs=1e-6)


def test_mirrored_copies_are_copies_where_the_run_mirrors():
    data = tiny_data()
    mirrored = images_of(data).flip(-1)
    assert Reals(data, flip=True, count=16).likeness(mirrored).copied == 1
    assert Reals(data, flip=False, count=16).likeness(mirrored).copied == 0


def test_images_that_are_there_twice_are_no_sign():
    images = tiny_data(20).images.repeat(2, 1, 1, 1)
    near = (images.int() + torch.arange(40).view(-1, 1, 1, 1) // 20).clamp(0, 255).byte()
    reals = Reals(ImageDataset(near), flip=False, count=40)
    assert not Reals(ImageDataset(images), flip=False, count=40).usable  # their distance is 0
    # A copy of one of a pair is no nearer than the pair is.
    assert reals.usable
    assert reals.likeness(images_of(tiny_data(20, seed=3))).copied == 0


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([{"accuracy_real": 1.0, "accuracy_fake": 0.995}] * 9, "the discriminator has won by"),
        ([{"spread": 0.1}] * 9, "the samples of step 3 are alike: two of them are 0.1 times"),
        ([{"copied": 0.5}] * 9, "50% of the samples of step 2 are all but copies of the data"),
        (
            [{"grad_g": 1.0}] * 5 + [{"grad_g": 300.0}] * 4,
            "the generator's gradients explode by step 7: they are 300 times as large",
        ),
        ([{"grad_d": math.nan}] * 9, "the discriminator's gradients explode by step 2: they are"),
        (
            [{"grad_g": 1.0}] * 5 + [{"grad_g": 1e-5}] * 4,
            "the generator's gradients vanish by step 8: they are 1e-05 times as large",
        ),
        ([{"grad_d": 0.0}] * 9, "the discriminator's gradients vanish by step 3: they are 0"),
    ],
)
def test_what_goes_wrong_is_told_once_with_what_may_help(looks, told):
    health = Health(tiny_trainer())
    signs = Signs(health)
    found = [text for step, values in enumerate(looks, 1) for text in signs.of(step, values)]
    (text,) = found
    assert text.startswith(f"warning: {told}")
    assert len(health.warnings[0].partition(". ")[2]) > 20
    # Nor is it told again by a run that was resumed.
    later = Health(tiny_trainer())
    later.warnings = [*health.warnings]
    again = Signs(later)
    assert [again.of(step, values) for step, values in enumerate(looks)] == [[]] * 9


@pytest.mark.parametrize(
    "values",
    [
        {"accuracy_real": 1.0, "accuracy_fake": 0.8},
        {"spread": 0.5},
        {"copied": 0.3},
        {"grad_g": 1e-9, "grad_d": 1e9},
        {},
    ],
)
def test_what_is_well_is_left_alone(values):
    # A third of the real images is there twice: that is what samples are compared with.
    signs = Signs(Health(tiny_trainer()), copied=0.3)
    assert [signs.of(step, values) for step in range(20)] == [[]] * 20


def test_what_comes_and_goes_is_no_sign():
    signs = Signs(Health(tiny_trainer()))
    looks = [{"spread": 0.1, "copied": 0.5}, {"spread": 0.1, "copied": 0.0}, {"spread": 0.9}] * 5
    assert [signs.of(step, values) for step, values in enumerate(looks)] == [[]] * 15


def test_a_discriminator_that_has_won_is_told_of_once_by_whoever_sees_it_first():
    health = Health(tiny_trainer())
    assert any(health.losses({"loss_d": 0.001}) for _ in range(9))
    signs = Signs(health)
    won = {"accuracy_real": 1.0, "accuracy_fake": 1.0}
    assert [signs.of(step, won) for step in range(9)] == [[]] * 9


class Copier(nn.Module):
    """Draws the images that it was given."""

    latent_dim = 4

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.images[torch.arange(len(z)) % len(self.images)]


def test_a_generator_that_copies_is_told_of_in_the_log_the_folder_and_the_report(tmp_path):
    data = tiny_data()
    config = TrainConfig(
        steps=4, batch_size=8, watch_every=1, log_every=1, lr_g=1e-6, report_every=4, device="cpu"
    )
    recorder = Recorder()
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    trainer = Trainer(Copier(images_of(data)), discriminator, data, config)
    result = trainer.fit(tmp_path / "run", reporter=recorder)
    told = [note for note in recorder.notes if "copies of the data" in note]
    assert len(told) == 1
    assert told[0].startswith("warning: 100% of the samples of step 2 are all but copies")
    assert told[0].removeprefix("warning: ") in result.warnings
    assert json.loads((tmp_path / "run" / "run.json").read_text())["warnings"] == [*result.warnings]
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("all but copies of the data", "Stability", "Largest spectral norms"):
        assert text in page


def own_step(gan, batches, due):
    return gan_step(gan, batches, due)


def test_what_has_no_meaning_is_left_out_and_said_once(tmp_path, recorder):
    trainer = tiny_trainer(steps=2, log_every=1, watch_every=1, parts={"step": own_step})
    trainer.fit(tmp_path / "own", reporter=recorder)
    said = [note for note in recorder.notes if note.startswith("not watched")]
    assert said == [
        "not watched are accuracy and gradients: they are of a generator against a discriminator, "
        "and this run's step is one's own"
    ]
    lines = (tmp_path / "own" / "metrics.jsonl").read_text().splitlines()
    expected = {"spectral_g", "spectral_d", "spread", "nearest", "copied"}
    assert json.loads(lines[-1]).keys() & MEASURES == expected

    config = TrainConfig(batch_size=8, watch_every=1, device="cpu")
    vae = create_model("vae", latent_dim=4, image_size=8, channels=1)
    found, _, values = watched(Trainer(vae, None, tiny_data(), config, objective=VAEObjective()))
    assert values.keys() == expected - {"spectral_d"}
    assert found.left_out[0].endswith("this run's objective is vae")


def test_a_bad_interval_is_told():
    with pytest.raises(ValueError, match="watch_every must be a number of steps, or a time"):
        TrainConfig(watch_every="soon")
