"""Numbers that would fill the memory or never end are refused before anything is made."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fastgan.cli import main
from fastgan.data import ImageDataset, load
from fastgan.engine import TrainConfig, Trainer
from fastgan.engine.grid import MAX_PIXELS, check_picture, make_grid, save_grid
from fastgan.engine.memory import device_memory, require_memory
from fastgan.models import create_model
from fastgan.recipes import get_recipe
from fastgan.recipes.tuning import explain_recipe

SHORT = ["--steps=1", "--batch-size=4", "--limit=16", "--device=cpu"]
HUGE = 10**12

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("limits") / "run"
    assert main(["train", "digits", "--out", str(out), *SHORT, "--sample-count=4"]) == 0
    return out


def error_of(arguments: list[str], capsys) -> str:
    """What a refused command says; mistakes in flags end the process with a box of their own."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in error
    return error


INTEGERS = [f.name for f in dataclasses.fields(TrainConfig) if isinstance(f.default, int)]
INTEGERS = [n for n in INTEGERS if not isinstance(getattr(TrainConfig(), n), bool)]


@pytest.mark.parametrize("name", INTEGERS)
def test_every_integer_of_a_configuration_has_an_upper_bound(name):
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        TrainConfig(**{name: 10**30})


@pytest.mark.parametrize("value", ["sample-count=100000", "discriminator-steps=1000000000"])
def test_training_refuses_before_the_first_step(value, tmp_path, capsys):
    out = tmp_path / "run"
    error = error_of(["train", "digits", f"--out={out}", *SHORT, f"--{value}"], capsys)
    assert f"{value.split('=')[0].replace('-', '_')} must be at most" in error
    assert not out.exists()


COMMANDS = [
    (["sample", "RUN", f"-n={HUGE}"], "images of 28 x 28"),
    (["sample", "RUN", "-n=100000"], "there may be 300000000 in all"),
    (["sample", "RUN", "--columns=10000000"], "in 10000000 columns make a picture of"),
    (["sample", "RUN", f"--seed={2**64}"], "seed must be at most"),
    (["sample", "RUN", "--seed=-1"], "seed must be at least 0"),
    (["sample", "RUN", f"--labels={10**30}"], "labels must be at most"),
    (["picture", "interpolation", "RUN", f"--rows={HUGE}"], "make a picture of"),
    (["picture", "interpolation", "RUN", f"--columns={HUGE}"], "make a picture of"),
    (["picture", "nearest", "RUN", f"--rows={HUGE}"], "make a picture of"),
    (["picture", "reconstructions", "RUN", "--rows=-3"], "rows must be at least 1, got -3"),
    (["picture", "interpolation", "RUN", f"--seed={2**64}"], "seed must be at most"),
    (["eval", "RUN", f"--samples={HUGE}"], "samples must be at most 1000000"),
    (["eval", "RUN", f"--seed={2**64}"], "seed must be at most"),
    (["explain", "digits", f"--batch-size={HUGE}", "--device=cpu"], "GB at the very least"),
    (["tune", "digits", f"--batch-size={HUGE}", "--device=cpu"], "GB at the very least"),
    (["tune", "digits", f"--rounds={HUGE}", "--device=cpu"], "rounds must be at most"),
    (["bench", f"--threads={HUGE}"], "threads must be at most 1024"),
    (["train", f"--workers={HUGE}", "--loading=stream", "--data=DATA"], "workers must be at most"),
    (["train", f"--seed={2**62}"], "seed must be at most"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS)
def test_every_command_bounds_its_numbers(
    arguments, message, run, tmp_path, capsys, monkeypatch, pngs
):
    monkeypatch.chdir(tmp_path)
    names = {"RUN": str(run), "--data=DATA": f"--data={pngs}"}
    assert message in error_of([names.get(a, a) for a in arguments], capsys)
    assert not list(tmp_path.glob("*"))


@pytest.fixture(scope="module")
def pngs(tmp_path_factory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pngs")
    for i in range(64):
        Image.new("L", (28, 28), i).save(folder / f"{i}.png")
    return folder


def test_a_picture_is_measured_before_it_is_made(tmp_path):
    images = torch.zeros(3, 1, 8, 8)
    grid = make_grid(images, 2)
    check_picture(3, 8, 8, 2)
    assert grid.shape == (2 * 10 + 2, 2 * 10 + 2, 3)
    side = int(MAX_PIXELS**0.5)
    check_picture(1, side - 4, side - 4)
    for count, scale in ((1, 2), (4, 1)):
        with pytest.raises(ValueError, match="make a picture of"):
            check_picture(count, side - 4, side - 4, scale=scale)
    with pytest.raises(ValueError, match="in 1000000000 columns"):
        save_grid(images, tmp_path / "grid.png", columns=10**9)
    assert not list(tmp_path.iterdir())


def test_the_largest_usual_grids_are_within_the_bound():
    for size in (28, 64, 256, 1024, 2048):
        check_picture(64, size, size)
    check_picture(10_000, 64, 64)


def small_trainer(images: torch.Tensor, **settings) -> Trainer:
    size = {"image_size": 8, "channels": 1, "width": 8}
    return Trainer(
        create_model("dcgan_generator", latent_dim=6, **size),
        create_model("dcgan_discriminator", **size),
        ImageDataset(images=images),
        TrainConfig(**{"batch_size": 4, "sample_count": 4, "device": "cpu", **settings}),
    )


def test_a_batch_that_the_device_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr("fastgan.engine.memory.device_memory", lambda device: 2 * 4 * 8 * 64 - 1)
    images = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"batch_size 8 takes .* GB at the very least; cpu has"):
        small_trainer(images, batch_size=8)
    small_trainer(images, batch_size=8, accumulate=2)


def test_a_large_grid_of_large_images_names_the_setting():
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(4, 1, 2000, 2000)
    with pytest.raises(ValueError, match="sample_count: 100 images of 2000 x 2000"):
        small_trainer(images, sample_count=100)


def test_samples_beyond_one_pass_are_those_of_one():
    trainer = small_trainer(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), sample_count=300)
    noise = trainer.fixed_noise
    model = trainer.ema.average.eval()
    found = trainer.sample(noise)
    assert found.shape == (300, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(found, model(noise))


def test_memory_is_that_of_the_machine():
    there = device_memory(torch.device("cpu"))
    assert 2**28 < there < 2**50
    require_memory("n", 1, there, torch.device("cpu"))
    with pytest.raises(ValueError, match="n 1 takes"):
        require_memory("n", 1, there + 1, torch.device("cpu"))


def test_explaining_measures_its_layers_first(monkeypatch):
    device = torch.device("cpu")
    monkeypatch.setattr("fastgan.engine.memory.device_memory", lambda device: 10**8)
    explain_recipe(get_recipe("digits"), 4, device)
    with pytest.raises(ValueError, match="batch_size 4000 takes"):
        explain_recipe(get_recipe("digits"), 4000, device)


def test_image_sizes_are_bounded():
    with pytest.raises(ValueError, match="image_size must be at most"):
        load("mnist5k", image_size=10**6)
