"""The examples with Lightning and Accelerate, where these are installed."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(monkeypatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("fabric_loop.py", "lightning.fabric", "fabric"),
        ("accelerate_loop.py", "accelerate", "accelerate"),
        ("lightning_module.py", "lightning", "fabric"),
    ],
)
def test_an_example_names_the_package_that_it_misses(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'fastgan\[{extra}\]'"):
        run(monkeypatch, name)


@pytest.mark.parametrize(
    ("name", "package", "told"),
    [
        ("fabric_loop.py", "lightning", "step 2  loss_d "),
        ("accelerate_loop.py", "accelerate", "step 2  loss_d "),
        ("lightning_module.py", "lightning", "2 steps: {'loss_d': "),
    ],
)
def test_an_example_trains(tmp_path, monkeypatch, capsys, name, package, told):
    pytest.importorskip(package, reason=f"{name} needs {package}, an extra of fastgan")
    run(monkeypatch, name, "--steps", "2", "--batch-size", "8", "--out", str(tmp_path / "run"))
    assert told in capsys.readouterr().out
    if name == "fabric_loop.py":
        assert (tmp_path / "run/checkpoints/step-00000002/checkpoint.json").exists()
