"""`make gpu` where there is no GPU: what it says, and how it goes through its stages."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gpu_stage import stage

from bench.harness.source import source_hash
from tools.gpu import __main__ as command
from tools.gpu import stage as running
from tools.gpu import stages
from tools.gpu.stage import OUT_OF_TIME, SKIPPED, Stage
from tools.gpu.stages import STAGES, Kind

ROOT = Path(__file__).resolve().parent.parent
Own = dict[str, Callable[[Stage], int]]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Own:
    """Stages of the test's own, of a code that does not change, where a GPU seems to be."""
    chosen: Own = {}

    class Chosen(dict):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[str]:
            return iter(chosen)

        def __contains__(self, name: object) -> bool:
            return name in chosen

        def __getitem__(self, name: str) -> Kind:
            return Kind(chosen[name], ("setup.py",))

    monkeypatch.setattr(command, "STAGES", Chosen())
    monkeypatch.setattr(command, "why_not", lambda: None)
    return chosen


def table(out: str) -> list[list[str]]:
    lines = out[out.index("stage        status") :].splitlines()[1:]
    return [line.split()[:-1] for line in lines if not line.startswith("to go on")]


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main([]) == 1
    assert "sees no CUDA device: nothing here can run" in capsys.readouterr().out


def test_without_torch_it_names_the_python(monkeypatch, capsys):
    monkeypatch.setattr(stages, "missing", lambda packages: list(packages.values()))
    assert command.main(["build"]) == 1
    assert f"{sys.executable} has no torch and no triton" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["paint"], "unknown stage 'paint': there are environment, build, test, memcheck"),
        (["--seconds", "0"], "--seconds must be a number of seconds above 0, got 0"),
        (["--stage-seconds", "-3"], "--stage-seconds must be a number of seconds above 0, got -3"),
        (["--seconds", "nan"], "--seconds must be a number of seconds above 0, got nan"),
    ],
)
def test_what_cannot_be_meant_is_an_error(given, told, capsys):
    with pytest.raises(SystemExit):
        command.main(given)
    assert told in capsys.readouterr().err


def test_correctness_of_what_ships_comes_first_and_the_sweep_after_what_is_measured():
    assert list(STAGES) == [
        "environment", "build", "test", "memcheck", "racecheck", "tune", "bench", "sweep", "docs",
    ]  # fmt: skip


def test_a_failure_is_told_and_stops_nothing(own, tmp_path, capsys):
    def broken(_stage: Stage) -> int:
        raise RuntimeError("no such kernel")

    given = []
    own |= {"build": broken, "test": lambda s: given.append(s.more) or 3}
    own |= {"memcheck": lambda s: SKIPPED, "docs": lambda s: given.append(s.more) or 0}
    results = tmp_path / "results"
    assert command.main(["--results", str(results), "--", "-k", "norm"]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: no such kernel" in out
    assert table(out) == [
        ["build", "exit", "1"], ["test", "exit", "3"], ["memcheck", "skipped"], ["docs", "ok"],
    ]  # fmt: skip
    assert given == [["-k", "norm"], []]
    assert "no such kernel" in (results / "logs" / "build.log").read_text()
    own["build"] = lambda s: 0
    assert command.main(["build", "--results", str(results)]) == 0
    kept = json.loads((results / "stages.json").read_text())
    assert [(name, row["status"]) for name, row in kept.items()] == [
        ("build", "ok"), ("test", "exit 3, of a part"), ("memcheck", "skipped"), ("docs", "ok"),
    ]  # fmt: skip
    assert {row["source"] for row in kept.values()} == {source_hash(["setup.py"])}


def test_a_call_ends_in_time_and_the_next_goes_on(own, tmp_path, capsys):
    ran = []

    def slow(s: Stage) -> int:
        ran.append((s.name, s.go_on))
        time.sleep(0.5)
        return 0

    own |= {"build": slow, "test": slow, "docs": slow}
    options = ["--results", str(tmp_path), "--stage-seconds", "0.4"]
    assert command.main([*options, "--seconds", "0.8"]) == 1
    out = capsys.readouterr().out
    assert table(out) == [["build", "ok"], ["test", "not", "begun"], ["docs", "not", "begun"]]
    assert f"to go on: python3 -m tools.gpu --continue --results {tmp_path}" in out
    assert command.main([*options, "--continue"]) == 0
    assert ran == [("build", False), ("test", True), ("docs", True)]
    out = capsys.readouterr().out
    assert "build: passed on this code" in out
    assert "to go on" not in out


def test_what_passed_on_other_code_or_in_part_is_run_again(own, tmp_path, monkeypatch):
    ran = []
    own |= {"test": lambda s: ran.append(s.name) or 0}
    options = ["--results", str(tmp_path), "--continue"]
    command.main([*options, "--", "-k", "norm"])
    command.main(options)
    command.main(options)
    assert len(ran) == 2
    monkeypatch.setattr(command, "source_hash", lambda of: "another")
    command.main(options)
    assert len(ran) == 3


def test_the_hash_follows_sources_and_nothing_else(tmp_path):
    for name in ("csrc/a.h", "fastgan/ops/x.py", "kernels/k.py", "fastgan/ops/conv/tuning.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    names = ("csrc", "fastgan", "kernels")

    def now() -> str:
        return source_hash(names, tmp_path)

    first = now()
    (tmp_path / "fastgan/_build.json").write_text("{}")
    (tmp_path / "fastgan/_native.so").write_text("")
    copied = tmp_path / "fastgan/kernels"
    copied.symlink_to("../kernels")
    assert now() == first
    copied.unlink()
    copied.mkdir()
    (copied / "k.py").write_text("1")
    assert now() == first
    for name in ("csrc/a.h", "fastgan/ops/x.py", "kernels/k.py", "fastgan/ops/conv/tuning.json"):
        before = now()
        (tmp_path / name).write_text("2")
        assert now() != before, name
    before = now()
    (tmp_path / "csrc/a.h").rename(tmp_path / "csrc/b.h")
    assert now() != before


@pytest.fixture(params=["foreground", "background"])
def heard(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGINT as a shell hands it on: ignored by what it starts in the background."""
    ignored = request.param == "background"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_a_stage_out_of_time_is_interrupted_and_keeps_what_it_had(tmp_path, capsys):
    script = (
        "import time\nprint('begun')\ntry:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('kept')\n"
    )
    started = time.monotonic()
    one = stage(tmp_path, seconds=2.0)
    assert one.run([sys.executable, "-c", script]) == OUT_OF_TIME
    assert time.monotonic() - started < 30
    assert "begun\nkept\n" in one.log.read_text()
    assert "begun\nkept\n" in capsys.readouterr().out


def test_one_that_will_not_stop_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "GRACE", 0.2)
    script = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)\n"
    assert stage(tmp_path, 0.1).run([sys.executable, "-c", script]) == OUT_OF_TIME
