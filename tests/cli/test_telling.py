"""What commands tell beside their results: warnings once, progress of long work, --verbose."""

from __future__ import annotations

import logging
import threading
import time
import warnings

import pytest
import torch
from torch import nn

from fastgan import TrainConfig, Trainer
from fastgan.cli import _telling, main
from fastgan.engine.log import SilentReporter
from fastgan.fusion import tune
from fastgan.ops.conv import tuning
from fastgan.system import how_far, listening, tell, working

MODULE = """
from torch import nn
def make_generator():
    return nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
def needs(x): return x
def number(): return 3
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of networks of one's own, beside the module that makes them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_networks.py").write_text(MODULE)
    generator = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    config = TrainConfig(steps=1, batch_size=4, sample_count=4, device="cpu")
    trainer = Trainer(generator, discriminator, torch.rand(8, 1, 8, 8), config, latent_dim=6)
    trainer.fit(folder / "run", reporter=SilentReporter())
    return folder


def test_verbose_tells_choices_times_and_tracebacks(capsys):
    assert main(["sample", "no-run", "--verbose"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "fastgan: error: no checkpoint or run at no-run" in told
    assert "fastgan sample took" in told
    assert main(["sample", "no-run"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    logger = logging.getLogger("fastgan")
    assert not logger.handlers
    assert logger.level == logging.NOTSET


def test_verbose_tells_the_form_of_each_block(run, capsys, tmp_path):
    fused = ["train", "dcgan-28", "--data", "mnist5k", "--limit=8", "--steps=1", "--batch-size=4"]
    out = ["--out", str(tmp_path / "run"), "--sample-count=2", "--device=cpu"]
    assert main([*fused, *out, "--verbose"]) == 0
    told = capsys.readouterr().err
    assert "fastgan.nn.planner: " in told
    assert "checkpoint step-00000001" in told or "step-00000001 written in" in told


def test_a_warning_is_one_line_told_once():
    before = warnings.formatwarning
    with _telling.telling("a command", verbose=False):
        made = [warnings.formatwarning(t, UserWarning, "a.py", 1, "code") for t in ("a", "a", "b")]
    assert made == ["warning: a\n", "", "warning: b\n"]
    assert warnings.formatwarning is before


def test_progress_is_told_of_what_takes_long_on_a_terminal(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 2.5, 2.55, 3.0, 9.0])
    monkeypatch.setattr(_telling.time, "monotonic", lambda: next(clock))
    line = _telling.Line()
    for done in (1, 2, 3, 4, 10):
        line("reading", done, 10)
    shown = capsys.readouterr().err
    assert [part for part in shown.split("\r") if part.startswith("reading")] == [
        "reading 3/10\x1b[K",
        "reading 10/10\x1b[K",
    ]
    assert shown.endswith("\r\x1b[K")
    tell("nobody", 1, 2)  # listens
    assert capsys.readouterr().err == ""


def test_work_whose_end_is_not_known_tells_its_seconds():
    told = []
    with listening(lambda *progress: told.append(progress)), working("exporting"):
        until = time.monotonic() + 20
        while not told and time.monotonic() < until:
            time.sleep(0.05)
    what, seconds, total = told[0]
    assert (what, total) == ("exporting", 0)
    assert how_far(seconds, total) == f"{seconds} s"
    assert told[-1] == ("exporting", 1, 1)
    with working("nobody listens"):
        assert not [t for t in threading.enumerate() if t.name.endswith("(beat)")]


def test_tuning_tells_how_many_layers_it_has_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "user_table", lambda: tmp_path / "tuning.json")
    told = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))
    with listening(lambda *progress: told.append(progress)):
        tune(model, torch.randn(2, 3, 8, 8), rounds=1)
    assert told[-1][0] == "measuring layers"
    assert told[-1][1] == told[-1][2]


def test_own_networks_are_sampled_and_exported_by_name(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    own = ["run", "--model", "own_networks:make_generator"]
    assert main(["sample", *own, "-n", "3", "-o", "grid.png"]) == 0
    assert main(["export", *own, "--format", "safetensors"]) == 0
    assert (run / "grid.png").stat().st_size > 0
    assert (run / "generator.safetensors").stat().st_size > 0
    for name, told in {
        "own_networks:gone": "model 'own_networks:gone' cannot be imported",
        "no_such_module:x": "cannot be imported",
        "own_networks:needs": "must be made without arguments",
        "own_networks:number": "must be or make an nn.Module, got int",
    }.items():
        assert main(["sample", "run", "--model", name, "-o", "x.png"]) == 2
        assert told in capsys.readouterr().err
    assert main(["sample", "run", "-o", "x.png"]) == 2
    assert "--model package.module:attribute" in capsys.readouterr().err
