"""fastgan train --dry-run tells what would run, and leaves nothing behind."""

from __future__ import annotations

from fastgan.cli import main

SHORT = ["--batch-size=4", "--limit=16", "--sample-count=4", "--device=cpu", "--checkpoint-every=2"]


def test_a_dry_run_tells_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mlp-gan", *SHORT, "--steps=40", "--dry-run"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["into"] == "runs/mlp-gan"
    assert told["data"].startswith("mnist5k: 16 items of 1 × 28 × 28")
    assert told["steps"] == "40, batches of 4, 10.0 times through the data"
    assert "parameters" in told["generator"]
    assert "checkpoint every 2" in told["files"]
    assert " ms a step, " in told["time"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_the_run_that_stands(tmp_path, capsys):
    run = tmp_path / "run"
    line = ["train", "mlp-gan", "--out", str(run), *SHORT]
    assert main([*line, "--steps=2", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("2 steps, ")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main([*line, "--steps=6", "--dry-run", "--resume"]) == 0
    assert "6, of which 2 are made" in capsys.readouterr().out
    assert main([*line, "--dry-run"]) == 0
    assert f"{run} holds a run: --resume goes on" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_dry_run_refuses_what_a_run_would(capsys):
    assert (
        main(["train", "mlp-gan", *SHORT, "--eval-every=1", "--eval-metrics=x", "--dry-run"]) == 2
    )
    assert "unknown metric 'x'" in capsys.readouterr().err
