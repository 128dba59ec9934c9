"""`fastgan eval`, `fastgan picture` and `fastgan sample --labels` on runs of tiny width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fastgan import fold
from fastgan.cli import main
from fastgan.data import load
from fastgan.engine import load_generator, sampling
from fastgan.engine.evaluating import reconstruction_scores
from fastgan.engine.log import SilentReporter
from fastgan.losses import kl_divergence
from fastgan.metrics import Score, load_scores
from fastgan.recipes import train
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint

from .tiny_recipe import tiny

pytestmark = pytest.mark.usefixtures("own_statistics")

SHORT = {"steps": 3, "batch_size": 8, "limit": 60, "sample_count": 9, "sample_every": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("cdcgan", "vae", "dcgan-28-rgb"):
        train(tiny(name), out=folder / name, reporter=SilentReporter(), device="cpu", **SHORT)
    return {name: folder / name for name in ("cdcgan", "vae", "dcgan-28-rgb")}


def scores_of(runs, name: str, metrics: str, **settings) -> dict[str, Score]:
    chosen = Evaluation(metrics=tuple(metrics.split(",")), samples=40, reals=50, **settings)
    return {score.metric: score for score in evaluate_checkpoint(runs[name], chosen)}


def test_samples_are_compared_with_the_data_of_the_run(runs):
    scores = scores_of(runs, "cdcgan", "fid,kid,is,prdc,classes")
    setting = scores["fid"].setting
    assert (setting["features"], setting["reals"], setting["fakes"]) == ("lenet-mnist", 50, 40)
    assert (setting["data"], setting["seed"]) == ("mnist5k", 0)
    assert "biased upwards: 40 images for 128 features" in scores["fid"].note
    assert 0 <= scores["accuracy"].value <= 1
    assert 1 <= scores["is"].value <= 10
    assert scores_of(runs, "cdcgan", "fid")["fid"].value == scores["fid"].value
    assert scores_of(runs, "cdcgan", "fid", seed=1)["fid"].value != scores["fid"].value


def test_many_samples_are_drawn_by_a_folded_generator(runs, monkeypatch):
    expected, folded = scores_of(runs, "cdcgan", "fid")["fid"].value, []
    monkeypatch.setattr(sampling, "fold", lambda g: folded.append(g) or fold(g))
    monkeypatch.setattr(sampling, "_MIN_TO_FOLD", 40)
    assert scores_of(runs, "cdcgan", "fid")["fid"].value == pytest.approx(expected, rel=1e-3)
    assert len(folded) == 1


def test_reconstructions_are_measured_over_the_whole_set(runs):
    scores = scores_of(runs, "vae", "psnr,ssim,elbo")
    assert scores["elbo"].value == -scores["reconstruction"].value - scores["kl"].value
    assert scores["elbo"].setting["images"] == "binarised"
    model, reals = load_generator(runs["vae"]), load("mnist5k", limit=50)
    images = reals.images.float() / 127.5 - 1
    with torch.no_grad():
        error = (model.reconstruct(images) - images).square().mean().item()
        binary = torch.where(images > 0, 1.0, -1.0)
        kl = kl_divergence(*model.posterior(binary)).item()
    assert scores["psnr"].value == pytest.approx(10 * np.log10(4 / error), rel=1e-4)
    # The bound is of black and white images: where all pixels are, drawing them changes nothing.
    reals.images.copy_((binary + 1) * 127.5)
    same = {s.metric: s.value for s in reconstruction_scores(model, reals, ["elbo"])}
    assert same["kl"] == pytest.approx(kl, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cdcgan", {"metrics": ("psnr",)}, "psnr needs an encoder, and CDCGANGenerator has none"),
        ("cdcgan", {"metrics": ("elbo",)}, "elbo needs a variational autoencoder"),
        ("cdcgan", {"metrics": ("fidd",)}, "unknown metric 'fidd': there are fid, kid"),
        ("cdcgan", {"metrics": ()}, "metrics must name at least one of fid"),
        ("cdcgan", {"samples": 0}, "samples must be at least 1, got 0"),
        ("cdcgan", {"features": "lenett"}, "did you mean 'lenet'"),
        ("dcgan-28-rgb", {"reals": 20}, "lenet-mnist takes 1 channel, the images have 3: choose"),
    ],
)
def test_what_does_not_fit_is_told(runs, name, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_checkpoint(runs[name], Evaluation(**{"samples": 20, "reals": 20, **settings}))


def test_a_diverged_generator_is_told(runs, tmp_path, monkeypatch):
    import fastgan.recipes.evaluation as module

    def diverged(*args, **kwargs) -> torch.nn.Module:
        model = load_generator(*args, **kwargs).requires_grad_(False)
        next(model.parameters()).fill_(float("nan"))
        return model

    monkeypatch.setattr(module, "load_generator", diverged)
    with pytest.raises(ValueError, match="have pixels that are NaN or infinite: the run has div"):
        evaluate_checkpoint(runs["cdcgan"], Evaluation(metrics=("fid",), samples=20, reals=20))


def test_eval_prints_writes_and_compares(runs, tmp_path, capsys):
    out = tmp_path / "scores.json"
    arguments = ["eval", str(runs["cdcgan"]), "--metrics=fid,classes", "--reals=50"]
    assert main([*arguments, "--samples=40", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "features lenet-mnist" in text
    assert "fakes 40, seed 0" in text
    assert [score.metric for score in load_scores(out)][:2] == ["fid", "confident"]
    assert main([*arguments, "--samples=40", "--against", str(out)]) == 0
    assert f"fid: +0.0000 against {out}" in capsys.readouterr().out
    assert main([*arguments, "--samples=30", "--against", str(out)]) == 2
    assert "cannot be compared; they differ in fakes: 30, 40" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "run", "columns", "rows"),
    [
        ("classes", "cdcgan", 5, 10),
        ("interpolation", "cdcgan", 5, 3),
        ("nearest", "cdcgan", 5, 3),
        ("reconstructions", "vae", 4, 5),
    ],
)
def test_pictures(runs, kind, run, columns, rows, tmp_path, capsys):
    out = tmp_path / "picture.png"
    sizes = ["--columns=5", "--rows=3"]
    assert main(["picture", kind, str(runs[run]), *sizes, "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as picture:
        assert picture.size == ((columns * 30 + 2) * 2, (rows * 30 + 2) * 2)


def test_picture_of_a_runs_evolution(runs, tmp_path):
    out = tmp_path / "evolution.gif"
    assert main(["picture", "evolution", str(runs["vae"]), "-o", str(out)]) == 0
    with Image.open(out) as film:
        assert film.n_frames == 3
    assert (runs["vae"] / "samples" / "reconstructions-00000003.png").exists()


def test_picture_of_a_walk(runs, tmp_path):
    out = tmp_path / "walk.webp"
    few = ["--columns=2", "--rows=1", "--points=2", "--frames=3", "--truncation=1"]
    assert main(["picture", "walk", str(runs["cdcgan"]), *few, "-o", str(out)]) == 0
    with Image.open(out) as film:
        assert film.size == ((2 * 30 + 2) * 2, (30 + 2) * 2)


def test_picture_of_projections(runs, tmp_path, capsys):
    out, latents = tmp_path / "projection.png", tmp_path / "latents.safetensors"
    few = ["--rows=2", "--steps=2", "-o", str(out), "--latents", str(latents)]
    assert main(["picture", "projection", str(runs["cdcgan"]), *few]) == 0
    assert "the mean of 4 images" in capsys.readouterr().err
    with Image.open(out) as picture:
        assert picture.size == ((2 * 30 + 2) * 2, (4 * 30 + 2) * 2)
    assert load_file(latents)["latents"].shape[0] == 4
    assert main(["picture", "nearest", str(runs["cdcgan"]), "--latents", "x"]) == 2
    assert "latents is of picture projection" in capsys.readouterr().err


def test_samples_as_they_are_asked_for(runs, tmp_path, capsys):
    drawn = set()
    for number, option in enumerate(
        ("--truncation=0.5", "--rejection=0.1", "--statistics=batch", "--statistics=standing", "")
    ):
        out = tmp_path / f"{number}.png"
        options = [option, "-o", str(out)]
        assert main(["sample", str(runs["cdcgan"]), "-n=4", *filter(None, options)]) == 0
        drawn.add(out.read_bytes())
        assert ("accepted 4 of" in capsys.readouterr().err) == ("rejection" in option)
    assert len(drawn) == 5
    assert main(["sample", str(runs["vae"]), "--rejection=0.5"]) == 2
    assert "has no discriminator" in capsys.readouterr().err


def test_sample_of_chosen_labels(runs, tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert main(["sample", str(runs["cdcgan"]), "-n", "4", "--labels", "7", "-o", str(out)]) == 0
    assert out.exists()
    for labels, message in (("12", "labels must lie in 0..9, got 12"), ("-1", "got -1")):
        assert main(["sample", str(runs["cdcgan"]), "-n", "4", "--labels", labels]) == 2
        assert message in capsys.readouterr().err
    assert main(["sample", str(runs["vae"]), "--labels", "1"]) == 2
    assert "VAE draws no classes" in capsys.readouterr().err
