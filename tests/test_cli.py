from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import fastgan
from fastgan import fold
from fastgan.cli import main, sample
from fastgan.engine import sampling
from fastgan.recipes import list_recipes

SHORT = ["--steps=2", "--batch-size=4", "--limit=16", "--sample-count=4", "--device=cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", "--out", str(out), *SHORT]) == 0
    return out


def error_of(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastgan: error: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_train_prints_where_its_pictures_are(tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "run"), *SHORT]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"samples: {tmp_path / 'run' / 'samples' / 'step-00000002.png'}"
    with Image.open(last.removeprefix("samples: ")) as image:
        assert image.size == (124, 124)


def test_runs_without_out_count_up_under_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "digits-2"):
        assert main(["train", *SHORT]) == 0
        assert f"samples: runs/{name}/samples/" in capsys.readouterr().out


def test_sample_draws_the_same_picture_for_the_same_seed(run, tmp_path, capsys):
    pictures = []
    for i, seed in enumerate((0, 0, 1)):
        path = tmp_path / f"{i}.png"
        assert main(["sample", str(run), "-n", "5", "--seed", str(seed), "-o", str(path)]) == 0
        assert capsys.readouterr().out.strip() == str(path)
        pictures.append(np.asarray(Image.open(path)))
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()


def test_many_images_are_drawn_by_a_folded_generator(run, tmp_path, monkeypatch):
    folded = []
    monkeypatch.setattr(
        sampling, "fold", lambda generator: folded.append(generator) or fold(generator)
    )
    pictures = []
    for least in (6, 5):
        monkeypatch.setattr(sampling, "_MIN_TO_FOLD", least)
        path = tmp_path / f"{least}.png"
        assert main(["sample", str(run), "-n", "5", "-o", str(path)]) == 0
        pictures.append(np.asarray(Image.open(path)).astype(int))
    assert len(folded) == 1
    assert abs(pictures[0] - pictures[1]).max() <= 1  # of 255: rounding


def test_recipes_lists_every_recipe(capsys):
    assert main(["recipes"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [recipe.name for recipe in list_recipes()]
    assert {"digits", "mlp-gan", "dcgan-28", "dcgan-64", "dcgan-128"} <= set(names)


@pytest.mark.parametrize("given", [[], ["digits"], ["digits", "--force"]])
def test_flags_are_not_needed(given, tmp_path, monkeypatch, capsys):
    """`make train` gives none."""
    monkeypatch.chdir(tmp_path)
    begun: list[str] = []

    def train(recipe, **settings):
        begun.append(recipe.name)
        return SimpleNamespace(stopped_by=15, step=1, checkpoint="c", out="o")

    monkeypatch.setattr("fastgan.cli.train.train", train)
    assert main(["train", *given]) == 128 + 15
    assert begun == ["digits"]
    assert "images of your own" in error_of(capsys, "train", "dcgan-64")


@pytest.mark.parametrize("command", ["data", "recipes"])
def test_commands_that_are_no_dataclass_have_help_too(command, capsys):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: fastgan {command}")


def test_a_recipe_for_images_of_ones_own_asks_for_them(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert "dcgan-64 is for images of your own" in error_of(
        capsys, "train", "dcgan-64", "--out", out, "--steps", "1"
    )
    assert "is for images of your own" in error_of(
        capsys, "train", "dcgan-64", "--out", out, "--resume"
    )
    assert not (tmp_path / "run").exists()
    given = ["--data", str(tmp_path / "none"), "--out", out]
    assert "none" in error_of(capsys, "train", "dcgan-64", *given)


def test_a_recipe_comes_before_its_flags(tmp_path, capsys):
    line = ["train", "--steps", "10", "dcgan-64"]
    assert "the recipe comes first: fastgan train dcgan-64 --steps 10" in error_of(capsys, *line)


def test_doctor_tells_versions_and_every_backend(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert metadata.version("torch") in out
    for backend in ("reference", "cpu", "triton", "cuda"):
        assert f"\n  {backend} " in out


def test_help_and_version(capsys):
    assert main([]) == 0
    assert main(["--help"]) == 0
    assert "fastgan COMMAND --help" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastgan {fastgan.__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        main(["train", "digits", "--help"])
    assert "--checkpoint-every" in capsys.readouterr().out


def test_the_module_is_the_command():
    module = subprocess.run(
        [sys.executable, "-m", "fastgan", "recipes"], capture_output=True, text=True, check=True
    )
    script = Path(sys.executable).with_name("fastgan")
    command = subprocess.run([script, "recipes"], capture_output=True, text=True, check=True)
    assert module.stdout == command.stdout


def test_a_signal_may_come_before_pytorch_is_there():
    code = """
import sys
from fastgan import cli
def stopped(name):
    raise cli.Terminated
cli._command = stopped
assert cli.main(["train"]) == 143
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "fastgan: stopped by SIGTERM\n")


def test_importing_prints_and_builds_nothing():
    code = "import fastgan, sys; assert 'torch' not in sys.modules and 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize(
    ("name", "meant"), [("fusee", "fuse"), ("ops.norm_akt", "norm_act"), ("engine.Emma", "Ema")]
)
def test_a_name_that_is_nearly_right_is_told_the_right_one(name, meant):
    code = f"import fastgan; fastgan.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"Did you mean: '{meant}'?" in done.stderr


def test_mistakes_are_told_in_one_line(run, tmp_path, capsys):
    assert "did you mean 'digits'?" in error_of(capsys, "train", "digit")
    assert "did you mean 'train'?" in error_of(capsys, "trian")
    assert "takes no arguments" in error_of(capsys, "recipes", "all")
    assert "usage: fastgan data fetch" in error_of(capsys, "data")
    assert "no checkpoint or run at" in error_of(capsys, "sample", str(tmp_path / "none"))
    assert "n must be at least 1, got 0" in error_of(capsys, "sample", str(run), "-n", "0")
    assert "columns must be at least 1" in error_of(capsys, "sample", str(run), "--columns", "0")
    out = ["--out", str(tmp_path / "new")]
    assert "batch_size" in error_of(capsys, "train", *out, "--limit=4", "--batch-size=8")
    assert "mnist5k" in error_of(capsys, "train", *out, "--data", "mnist5kk")
    assert "finished run" in error_of(capsys, "train", "--out", str(run), *SHORT)
    assert "device" in error_of(capsys, "train", *out, *SHORT[:-1], "--device=cuda:99")
    assert "cannot make the out folder" in error_of(capsys, "train", "--out=/proc/run", *SHORT)
    assert not (tmp_path / "new").exists()


def test_resume_takes_the_settings_of_the_run(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", "digits", *out, *SHORT]) == 0
    assert main(["train", "digits", *out, "--resume", "--steps=3"]) == 0
    assert "resumed" in capsys.readouterr().out
    error = error_of(capsys, "train", "digits", *out, "--resume", "--steps=4", "--batch-size=5")
    assert "batch_size: 4 in the checkpoint, 5 now" in error
    error = error_of(capsys, "train", "mlp-gan", *out, "--resume", "--steps=4")
    assert "is a run of 'digits', not of 'mlp-gan'" in error


def test_nothing_to_resume_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no unfinished run of 'digits'" in error_of(capsys, "train", "--resume")


@pytest.mark.parametrize("flag", ["--steps=0", "--steps=many", "--batch-size=-3", "--lr-g=0"])
def test_bad_numbers_are_refused(flag, tmp_path, capsys):
    out = tmp_path / "run"
    try:
        status = main(["train", "digits", "--out", str(out), flag])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert flag[2:].split("=")[0] in capsys.readouterr().err.replace("_", "-")
    assert not out.exists()


def test_classes_are_drawn_by_number_or_by_the_name_of_their_folder(run, capsys, monkeypatch):
    found = SimpleNamespace(manifest={"data": {"classes": ["cat", "dog"]}})
    monkeypatch.setattr(sample, "find_checkpoint", lambda path: found)
    assert [sample._class(label, run) for label in ("dog", "cat", "1", "-1")] == [1, 0, 1, -1]
    with pytest.raises(ValueError, match=r"'dgo' is no class of .*: there are cat, dog \(did you"):
        sample._class("dgo", run)
    found.manifest = {}
    with pytest.raises(ValueError, match=r"'dog' is no class of .*, whose data had no names"):
        sample._class("dog", run)


def test_a_wrong_name_is_judged_before_data_are_opened(capsys):
    for flag, name, meant in [
        ("--loss", "hing", "hinge"),
        ("--regularizer", "r1_r", "r1_r2"),
        ("--augment", "adda", "ada"),
    ]:
        with pytest.raises(SystemExit):
            main(["train", "digits", "--data", "nowhere", flag, name])
        told = capsys.readouterr().err
        assert f"'{name}'; did you mean '{meant}'" in told
        assert "nowhere" not in told


def test_an_unfinished_run_is_named_and_a_finished_one_goes_on_with_more_steps(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SHORT]) == 0
    assert "fastgan train digits --out runs/digits --resume --steps 4" in capsys.readouterr().out
    facts = tmp_path / "runs" / "digits" / "run.json"
    facts.write_text(facts.read_text().replace('"finished": true', '"finished": false'))
    assert main(["train", *SHORT]) == 0
    assert "runs/digits is not finished: fastgan train digits --resume" in capsys.readouterr().out
