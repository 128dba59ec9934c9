"""What the stages of `make gpu` run, where there is no GPU: tests, sweep, sanitizers, tuning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu_stage import stage

from tools.gpu import selection, stages
from tools.gpu.outcomes import Outcomes, read
from tools.gpu.stage import OUT_OF_TIME, SKIPPED, Stage

ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import os, pathlib, time
import pytest
HERE = pathlib.Path(__file__).parent
def test_good(): pass
def test_skips(): pytest.skip("no such thing here")
def test_fails_once():
    if not (HERE / "seen").exists():
        (HERE / "seen").touch()
        assert False
def test_takes_the_process_with_it():
    if not (HERE / "died").exists():
        (HERE / "died").touch()
        os._exit(7)
def test_last(): pass
"""


def suite(tmp_path: Path, text: str) -> str:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    file = tmp_path / "test_suite.py"
    file.write_text(text)
    return str(file)


def outcomes(one: Stage) -> dict[str, str]:
    found = read(one.results / f"{one.name}.txt")
    return {test.partition("::test_")[2]: outcome for test, outcome in found.items()}


def test_every_outcome_is_kept_and_a_lost_process_is_followed_by_another(tmp_path, capfd):
    file = suite(tmp_path, SUITE)
    first = stage(tmp_path)
    assert first.pytest(file, "-q", of=["setup.py"]) == 0
    assert outcomes(first) == {
        "good": "passed", "skips": "skipped", "fails_once": "passed",
        "takes_the_process_with_it": "passed", "last": "passed",
    }  # fmt: skip
    # The first process ran three and died in the fourth; the next ran what had not passed, what
    # had failed at its end, and what had died after that.
    begun = [line.split("::test_")[1] for line in (tmp_path / "own.txt").read_text().splitlines()
             if line.startswith("begun")]  # fmt: skip
    assert begun == [
        "good", "skips", "fails_once", "takes_the_process_with_it",
        "skips", "last", "fails_once", "takes_the_process_with_it",
    ]  # fmt: skip


def test_what_passed_is_not_run_again_unless_the_code_is_another(tmp_path, capfd):
    file = suite(tmp_path, "def test_a(): pass\ndef test_b(): assert False\n")
    assert stage(tmp_path).pytest(file, of=["setup.py"]) == 1
    again = stage(tmp_path, go_on=True)
    capfd.readouterr()
    assert again.pytest(file, of=["setup.py"]) == 1
    assert "1 failed, 1 deselected" in capfd.readouterr().out
    other = stage(tmp_path, go_on=True)
    assert other.pytest(file, of=["Makefile", "conftest.py"]) == 1
    assert "1 failed, 1 passed" in capfd.readouterr().out


def test_all_passed_before_is_a_pass(tmp_path, capfd):
    file = suite(tmp_path, "def test_a(): pass\n")
    assert stage(tmp_path).pytest(file, of=["setup.py"]) == 0
    assert stage(tmp_path, go_on=True).pytest(file, of=["setup.py"]) == 0


def test_what_was_skipped_alone_is_no_pass(tmp_path, capfd):
    file = suite(tmp_path, "import pytest\ndef test_a(): pytest.skip('no such thing here')\n")
    assert stage(tmp_path).pytest(file, of=["setup.py"]) == 5


def test_the_sweep_runs_the_files_that_hold_one(tmp_path, monkeypatch):
    given: list[str] = []
    monkeypatch.setattr(Stage, "pytest", lambda self, *words, **_: given.extend(words) or 0)
    stages.sweep(stage(tmp_path))
    files = [word for word in given if word.endswith(".py")]
    assert files == [
        f"tests/kernels/compiled/test_{n}.py" for n in ("conv_forward", "conv_weight", "norm_act")
    ]
    assert "gpu and sweep" in given


def test_what_there_was_no_time_for_is_left_and_said(tmp_path, capfd):
    file = suite(tmp_path, "def test_a(): pass\ndef test_b(): pass\n")
    assert stage(tmp_path).pytest(file, "-k", "test_a", of=["setup.py"]) == 0
    late = stage(tmp_path, go_on=True)
    assert late.pytest(file, "-rs", "--until=1", of=["setup.py"]) == OUT_OF_TIME
    assert outcomes(late) == {"a": "passed", "b": "left"}
    assert "out of time" in capfd.readouterr().out


@pytest.mark.parametrize("lost", [True, False])
def test_a_test_that_spoils_the_gpu_is_the_last_of_its_process(lost, monkeypatch):
    from tools.gpu import record

    def synchronize() -> None:
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", synchronize)
    session = SimpleNamespace(shouldstop=False)
    item = SimpleNamespace(session=session, config=SimpleNamespace())
    record.pytest_runtest_makereport(item, SimpleNamespace(when="call", excinfo=None))
    assert session.shouldstop is False
    record.pytest_runtest_makereport(item, SimpleNamespace(when="call", excinfo="an error"))
    told = "the GPU's context is lost: CUDA error: an illegal memory access was encountered"
    assert session.shouldstop == (told if lost else False)


def test_the_c_kernels_are_tested_first_and_a_sweep_samples(tmp_path):
    from tools.gpu.record import rank

    class Item:
        def __init__(self, nodeid: str, **params: int) -> None:
            self.nodeid = nodeid
            self.callspec = type("Callspec", (), {"params": params})

    items = [
        Item("tests/engine/test_capture.py::test_graph[cuda]"),
        Item("tests/kernels/compiled/test_norm_act.py::test_every[a-1]", part=1),
        Item("tests/kernels/compiled/test_norm_act.py::test_every[a-0]", part=0),
        Item("tests/kernels/compiled/test_norm_act.py::test_every[b-0]", part=0),
        Item("tests/ops/test_norm_act.py::test_equals_pytorch[triton-1]"),
        Item("tests/ops/test_norm_act.py::test_equals_pytorch[cuda-1]"),
    ]
    names = [item.nodeid.partition("::")[2] for item in sorted(items, key=rank)]
    assert names == [
        "test_equals_pytorch[cuda-1]", "test_equals_pytorch[triton-1]", "test_every[a-0]",
        "test_every[b-0]", "test_graph[cuda]", "test_every[a-1]",
    ]  # fmt: skip


def test_a_line_cut_while_it_was_written_counts_for_nothing(tmp_path):
    kept = Outcomes(tmp_path / "a.txt", "0123")
    kept.begin(go_on=True)
    with kept.path.open("a") as file:
        file.write("passed 0.10 a.py::test_a[x 1]\nbegun 0.00 a.py::test_b\npass")
    assert kept.read() == {"a.py::test_a[x 1]": "passed", "a.py::test_b": "begun"}


def test_a_file_is_left_out_only_for_want_of_a_package_of_its_own(tmp_path, monkeypatch):
    one = stage(tmp_path)
    everything = selection.tests(one)
    monkeypatch.setattr(selection, "missing", lambda packages: ["tyro"])
    assert selection.tests(one) == everything, "captured steps need no tyro"
    monkeypatch.setattr(selection, "missing", lambda packages: ["pillow", "rich", "tyro"])
    left_out = set(everything) - set(selection.tests(one))
    assert "tests/engine/test_capture.py" in left_out
    assert all(name.startswith("tests/engine/") for name in left_out)
    told = "left out, for want of pillow, rich: tests/engine/test_capture.py"
    assert told in one.log.read_text()


def test_needs_are_those_of_what_is_imported_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "ROOT", tmp_path)
    files = {
        "tests/a/test_x.py": "from .conftest import y\ndef test_a():\n    import tyro",
        "tests/a/conftest.py": "from pkg.sub import thing",
        "tests/conftest.py": "if TYPE_CHECKING:\n    import scipy",
        "pkg/__init__.py": "from pkg import other",
        "pkg/sub.py": "import hypothesis.strategies",
        "pkg/other.py": "try:\n    from PIL import Image\nexcept ImportError:\n    pass",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert selection.needs(tmp_path / "tests/a/test_x.py") == {"hypothesis", "pillow"}


def test_a_library_of_the_same_sources_is_built_once(tmp_path, monkeypatch):
    package = tmp_path / "fastgan"
    package.mkdir()
    built = []

    def run(_self: Stage, command: list[str], **settings: str) -> int:
        built.append(settings["FASTGAN_CUDA_ARCHS"])
        (package / "_native.so").touch()
        (package / "_build.json").write_text(json.dumps({"cuda": True}))
        return 0

    monkeypatch.setattr(Stage, "run", run)
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    assert stages.build(stage(tmp_path)) == 0
    assert stages.build(stage(tmp_path, go_on=True)) == 0
    assert built == ["90"]
    assert stages.build(stage(tmp_path)) == 0
    monkeypatch.setattr(stages, "source_hash", lambda of: "another")
    assert stages.build(stage(tmp_path, go_on=True)) == 0
    (package / "_native.so").unlink()
    assert stages.build(stage(tmp_path, go_on=True)) == 0
    assert built == ["90"] * 4


def test_without_a_sanitizer_the_stage_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(stages.shutil, "which", lambda *_, **__: None)
    assert stages.memcheck(stage(tmp_path)) == SKIPPED


def test_both_tools_of_the_sanitizer_run_each_as_a_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "sanitizer", lambda: "compute-sanitizer")
    ran: list[list[str]] = []

    def run(_self: Stage, command: list[str], **_settings: str) -> int:
        ran.append(command)
        return 9 if "memcheck" in command else 0

    monkeypatch.setattr(Stage, "run", run)
    assert (stages.memcheck(stage(tmp_path)), stages.racecheck(stage(tmp_path))) == (9, 0)
    assert [command[2] for command in ran] == ["memcheck", "racecheck"]
    assert {command[-1] for command in ran} == {"tools.gpu.operators"}


def test_what_was_tuned_on_this_code_is_not_tuned_again(tmp_path, monkeypatch):
    from tools.gpu import tune

    cache = tmp_path / "cache" / "tuning.json"
    done = []

    def report(_model: object, shape: tuple[int, ...], *_: object) -> None:
        done.append(shape)
        cache.parent.mkdir(exist_ok=True)
        cache.write_text(f"{len(done)}")
        if len(done) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(tune, "report", report)
    monkeypatch.setattr(tune, "user_table", lambda: cache)
    with pytest.raises(KeyboardInterrupt):
        tune.main(tmp_path, go_on=False)
    cache.unlink()
    tune.main(tmp_path, go_on=True)
    assert len(done) == 3 + 6
    assert (tmp_path / "tuning.json").read_text() == "9"
    monkeypatch.setattr(tune, "source_hash", lambda: "another")
    tune.main(tmp_path, go_on=True)
    assert len(done) == 3 + 6 + 8


def test_every_way_to_need_a_gpu_is_selected(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "ROOT", tmp_path)
    ways = [
        "@pytest.mark.gpu", "from devices import GPU", "def test_a(\n    device: str\n) -> None:",
        'pytest.mark.parametrize("device", DEVICES)', "def test_b(host_backend: str) -> None:",
    ]  # fmt: skip
    for i, text in enumerate(ways):
        (tmp_path / f"test_{i}.py").write_text(text)
    assert selection.marked(".") == [f"test_{i}.py" for i in range(4)]


def test_the_selected_benchmarks_are_all_that_need_cuda(tmp_path, monkeypatch):
    (tmp_path / "telling.py").write_text(
        "def pytest_collection_finish(session):\n"
        "    for item in session.items:\n"
        "        print(bool(item.get_closest_marker('gpu')), item.nodeid)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "--benchmark", "bench"]
    done = subprocess.run(
        [*command, "-p", "telling"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    lines = [line.partition(" ") for line in done.stdout.splitlines() if "::" in line]
    names = {name for marked, _, name in lines if marked in ("True", "False")}
    files = selection.marked("bench")
    selected = {n for marked, _, n in lines if marked == "True" and n.partition("::")[0] in files}
    assert selected == {name for name in names if "cuda" in name}
    for op in ("norm_act", "dcgan_step", "fuse", "gather_images"):
        assert any(name.startswith(f"bench/test_{op}.py") for name in selected), op


def test_benchmarks_need_no_package_beside_torch_triton_and_numpy():
    """A GPU's machine may have no more: the engine and what reads images stay out."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(sys.argv[1:]); import bench.harness.session as s"
    )
    code += "; import tools.gpu.tune; s.machine.equal_settings()"
    subprocess.run([sys.executable, "-c", code, *selection.OPTIONAL], cwd=ROOT, check=True)
