"""`make setup`: what is installed, in which order, and that a torch that stands is kept."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "bootstrap.py"


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(bootstrap, monkeypatch):
    ran = []
    monkeypatch.setattr(bootstrap, "run", lambda command: ran.append(command) or 0)
    return ran


def test_an_empty_environment_gets_the_pinned_torch_first(
    bootstrap, commands, monkeypatch, tmp_path
):
    found = iter([None, "2.13.0+cpu", "3.7.1"])
    monkeypatch.setattr(bootstrap, "installed_version", lambda *_: next(found))
    assert bootstrap.install("python", tmp_path) == 0
    torch, tools, package, beside = commands
    assert torch[-4:] == ["--constraint", "constraints.txt", "torch", "triton"]
    assert tools[-1].startswith("setuptools")
    assert package[-4:] == ["--config-settings", "editable_mode=compat", "--editable", ".[dev]"]
    assert beside[-6:] == [
        "--no-deps", "--upgrade", "--target", str(tmp_path / "torch-fidelity"), "torch-fidelity",
        "timm",
    ]  # fmt: skip
    assert (tmp_path / "constraints.txt").read_text() == "torch==2.13.0+cpu\ntriton==3.7.1\n"


def test_a_torch_that_stands_is_a_constraint_and_is_not_installed(
    bootstrap, commands, monkeypatch, tmp_path
):
    versions = {"torch": "2.11.0+cu130", "triton": None}
    monkeypatch.setattr(bootstrap, "installed_version", lambda _, name: versions[name])
    assert bootstrap.install("python", tmp_path) == 0
    assert not any("torch" in command for command in commands)
    package = commands[-2]
    constraint = Path(package[package.index("--constraint") + 1])
    assert constraint.read_text() == "torch==2.11.0+cu130\n"


def test_a_script_beside_the_clone_gets_the_package(tmp_path):
    (tmp_path / "fastgan").mkdir()  # as the clone's folder is called
    code = "import fastgan; print(fastgan.__version__)"
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == metadata.version("fastgan"), done.stderr


def test_a_failed_step_ends_the_installation(bootstrap, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(bootstrap, "installed_version", lambda *_: "1")
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    run = bootstrap.run
    monkeypatch.setattr(bootstrap, "run", lambda _: run(fails))
    assert bootstrap.install("python", tmp_path) == 3
    assert "the installation failed" in capfd.readouterr().out


def test_versions_are_read_from_the_environment_asked_about(bootstrap):
    assert bootstrap.installed_version(sys.executable, "torch") == metadata.version("torch")
    assert bootstrap.installed_version(sys.executable, "no-such-package") is None


@pytest.mark.parametrize(
    ("build", "line"),
    [
        ({"native": True, "cuda": False}, "C++ extension: built"),
        ({"native": True, "cuda": True}, "C++ extension: built with CUDA"),
        ({"native": False, "reason": "no C++ compiler"}, "not built (no C++ compiler)"),
        (None, "not built; PyTorch's own operators are used"),
    ],
)
def test_one_line_tells_whether_the_extension_was_built(
    bootstrap, monkeypatch, tmp_path, build, line
):
    (tmp_path / "fastgan").mkdir()
    if build is not None:
        (tmp_path / "fastgan" / "_build.json").write_text(json.dumps(build))
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    assert line in bootstrap.native_line()


def test_a_python_that_is_too_old_is_told(bootstrap, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bootstrap, "OLDEST_PYTHON", (99, 0))
    assert bootstrap.main([str(tmp_path / "venv")]) == 1
    assert "needs Python 99.0 or newer" in capsys.readouterr().out
    assert not (tmp_path / "venv").exists()
