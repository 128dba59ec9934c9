"""`make gpu` where there is no GPU: what it says, and how it goes through its stages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import gpu

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """Stages of the test's own on a machine that seems to have a GPU."""
    chosen: dict[str, object] = {}
    monkeypatch.setattr(gpu, "STAGES", chosen)
    monkeypatch.setattr(gpu, "why_not", lambda: None)
    monkeypatch.setattr(gpu.Stage, "log", property(lambda self: tmp_path / f"{self.name}.log"))
    return chosen


def stage(tmp_path: Path, seconds: float = 60.0) -> gpu.Stage:
    return gpu.Stage("own", tmp_path, ends=time.monotonic() + seconds)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "sees no CUDA device: nothing here can run" in capsys.readouterr().out


def test_without_torch_it_names_the_python(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "missing", lambda packages: list(packages.values()))
    assert gpu.main(["build"]) == 1
    assert f"{sys.executable} has no torch and no triton" in capsys.readouterr().out


def test_an_unknown_stage_is_an_error(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["paint"])
    assert "unknown stage 'paint': there are environment, build, test, sanitize" in (
        capsys.readouterr().err
    )


def test_correctness_comes_first():
    assert list(gpu.STAGES) == ["environment", "build", "test", "sanitize", "tune", "bench", "docs"]


def test_a_failure_is_told_and_stops_nothing(stages, tmp_path, capsys):
    def broken(_stage: gpu.Stage) -> int:
        raise RuntimeError("no such kernel")

    given = []
    stages |= {"build": broken, "test": lambda s: given.append(s.more) or 3}
    stages |= {"sanitize": lambda s: gpu.SKIPPED, "docs": lambda s: given.append(s.more) or 0}
    results = tmp_path / "results"
    assert gpu.main(["--results", str(results), "--", "-k", "norm"]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: no such kernel" in out
    lines = [line.split() for line in out.splitlines()[-4:]]
    assert [line[:-1] for line in lines] == [
        ["build", "exit", "1"], ["test", "exit", "3"], ["sanitize", "skipped"], ["docs", "ok"],
    ]  # fmt: skip
    assert given == [["-k", "norm"], []]
    stages["build"] = lambda s: 0
    assert gpu.main(["build", "--results", str(results)]) == 0
    kept = json.loads((results / "stages.json").read_text())
    assert [(name, row["status"]) for name, row in kept.items()] == [
        ("build", "ok"), ("test", "exit 3"), ("sanitize", "skipped"), ("docs", "ok"),
    ]  # fmt: skip


@pytest.fixture(params=["foreground", "background"])
def heard(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGINT as a shell hands it on: ignored by what it starts in the background."""
    ignored = request.param == "background"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_a_stage_out_of_time_is_interrupted_and_keeps_what_it_had(stages, tmp_path, capsys):
    script = (
        "import time\nprint('begun')\ntry:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('kept')\n"
    )
    started = time.monotonic()
    own = stage(tmp_path, seconds=2.0)
    assert own.run([sys.executable, "-c", script]) == gpu.OUT_OF_TIME
    assert time.monotonic() - started < 30
    assert "begun\nkept\n" in own.log.read_text()
    assert "begun\nkept\n" in capsys.readouterr().out


def test_one_that_will_not_stop_is_ended(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    script = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)\n"
    assert stage(tmp_path, 0.1).run([sys.executable, "-c", script]) == gpu.OUT_OF_TIME


def test_where_a_package_lacks_its_tests_are_left_out_by_name(stages, tmp_path, monkeypatch):
    own = stage(tmp_path)
    everything = gpu.tests(own)
    assert everything[0].startswith(("tests/ops/", "tests/kernels/"))
    monkeypatch.setattr(gpu, "missing", lambda packages: ["pillow"])
    fewer = gpu.tests(own)
    left_out = set(everything) - set(fewer)
    assert left_out
    assert all(name.startswith("tests/engine/") for name in left_out)
    assert f"left out, for want of pillow: {', '.join(sorted(left_out))}" in own.log.read_text()


def test_without_a_sanitizer_the_stage_is_skipped(stages, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(gpu.shutil, "which", lambda *_, **__: None)
    assert gpu.sanitize(stage(tmp_path)) == gpu.SKIPPED


def test_both_tools_of_the_sanitizer_run_and_either_may_fail(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_sanitizer", lambda: "compute-sanitizer")
    ran: list[list[str]] = []

    def run(_self: gpu.Stage, command: list[str], **_settings: str) -> int:
        ran.append(command)
        return 9 if "memcheck" in command else 0

    monkeypatch.setattr(gpu.Stage, "run", run)
    assert gpu.sanitize(stage(tmp_path)) == 9
    assert [command[2] for command in ran] == ["memcheck", "racecheck"]
    assert ran[0][-1] == "tools.gpu_ops"


def collected(*arguments: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--benchmark", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_every_way_to_need_a_gpu_is_selected(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    ways = [
        "@pytest.mark.gpu", "from devices import GPU", "def test_a(\n    device: str\n) -> None:",
        'pytest.mark.parametrize("device", DEVICES)', "def test_b(host_backend: str) -> None:",
    ]  # fmt: skip
    for i, text in enumerate(ways):
        (tmp_path / f"test_{i}.py").write_text(text)
    assert gpu.marked(".") == [f"test_{i}.py" for i in range(4)]


def test_the_selected_benchmarks_are_all_that_need_cuda():
    selected = collected(*gpu.marked("bench"), "-m", "gpu")
    assert selected == {name for name in collected("bench") if "cuda" in name}
    for op in ("norm_act", "dcgan_step", "fuse", "gather_images"):
        assert any(name.startswith(f"bench/test_{op}.py") for name in selected), op


def test_benchmarks_need_no_package_beside_torch_triton_and_numpy():
    """A GPU's machine may have no more: the engine and what reads images stay out."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(sys.argv[1:]); import bench.harness.session as s"
    )
    code += "; import tools.gpu_tune; s.machine.equal_settings()"
    subprocess.run([sys.executable, "-c", code, *gpu.OPTIONAL], cwd=ROOT, check=True)
