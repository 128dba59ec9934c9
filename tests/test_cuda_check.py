"""`make cuda-check` where torch has no CUDA: what it expects, and that it tells what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools import cuda_check

ROOT = Path(__file__).resolve().parent.parent


def test_what_is_expected_comes_from_the_sources():
    wanted = cuda_check.declared()
    assert wanted["CUDA"] | wanted["CPU"] <= cuda_check.schemas()
    both = {"fastgan::norm_act_train.kernel", "fastgan::small_channel_conv_weight"}
    assert both <= wanted["CUDA"] & wanted["CPU"]
    assert "fastgan::bf16_conv" in wanted["CPU"] - wanted["CUDA"]
    # Of neither device: it registers one kernel for all.
    assert "fastgan::cached_memory" in cuda_check.schemas() - wanted["CUDA"] - wanted["CPU"]


def test_the_probe_finds_what_this_build_registers(native):
    library = ROOT / "fastgan" / "_native.so"
    found = cuda_check.registered(sys.executable, library, cuda_check.schemas())
    wanted = cuda_check.declared()
    assert {name for name, devices in found.items() if "CPU" in devices} >= wanted["CPU"]


def test_what_differs_is_named_both_ways():
    wanted = {"CPU": {"a", "b"}, "CUDA": {"a"}}
    assert cuda_check.differences(wanted, {"a": ["CPU", "CUDA"], "b": ["CPU"]}) == []
    assert cuda_check.differences(wanted, {"a": ["CPU"], "b": ["CPU", "CUDA"]}) == [
        "no CUDA kernel of a", "an undeclared CUDA kernel of b",
    ]  # fmt: skip


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A build that writes its record and no library; its commands."""
    ran = []

    def run(command: list[str], settings: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
        ran.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        if "setup.py" in command:
            package = Path(command[4].partition("=")[2]) / "fastgan"
            package.mkdir(parents=True)
            archs = (settings or {}).get("FASTGAN_CUDA_ARCHS")
            made = record | {"cuda_archs": archs.split(";")} if archs else record
            (package / "_build.json").write_text(json.dumps(made))
        if cuda_check.PROBE in command:
            return json.dumps({n: [k for k in wanted if n in wanted[k]] for n in command[4:]})
        return ""

    wanted = cuda_check.declared()
    record = {"cuda": True, "torch": "9.9", "cuda_version": "13.0"}
    record |= {"cuda_reason": "", "cuda_archs": ["75", "80", "90", "100", "120"]}
    monkeypatch.setattr(cuda_check, "run", run)
    return record, wanted, ran


def test_an_environment_is_made_once_and_nothing_is_built_in_place(built, tmp_path, capsys):
    _, _, ran = built
    options = ["9.9.0", "--environments", str(tmp_path)]
    assert cuda_check.main(options) == 0
    assert cuda_check.main(options) == 0
    told = capsys.readouterr().out
    assert "torch 9.9.0: 9.9 with nvcc 13.0, sm 75 80 90 100 120: built, loaded, " in told
    assert "all 10 CUDA operators are registered" in told
    installs = [command for command in ran if "torch==9.9.0" in command]
    assert len(installs) == 1
    builds = [command for command in ran if "setup.py" in command]
    assert len(builds) == 2
    assert not any(str(ROOT) in word or "--inplace" in word for c in builds for word in c[1:])


def test_few_architectures_may_be_asked_for(built, tmp_path, capsys):
    assert cuda_check.main(["--environments", str(tmp_path), "--archs", "80;90"]) == 0
    assert "nvcc 13.0, sm 80 90: built, loaded, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cuda": False, "cuda_reason": "nvcc is not on PATH"}, "nvcc is not on PATH"),
        ({"cuda_archs": ["75", "80", "90"]}, "nvcc 13.0 does not know sm 100 120"),
    ],
)
def test_a_build_without_all_of_it_fails(built, tmp_path, change, told, capsys):
    record, _, _ = built
    record.update(change)
    assert cuda_check.main(["--environments", str(tmp_path)]) == 1
    assert told in capsys.readouterr().out


def test_a_kernel_that_is_not_registered_fails(built, tmp_path, capsys):
    _, wanted, _ = built
    wanted["CUDA"].discard("fastgan::bias_act.kernel")
    assert cuda_check.main(["--environments", str(tmp_path)]) == 1
    assert "no CUDA kernel of fastgan::bias_act.kernel" in capsys.readouterr().out


def test_a_command_that_fails_tells_its_last_lines():
    code = "import sys; sys.stderr.write('because'); sys.exit(3)"
    with pytest.raises(cuda_check.Failed, match="exited 3:\nbecause"):
        cuda_check.run([sys.executable, "-c", code])


def test_an_error_is_forgotten_where_it_is_told():
    """By `check_cuda` alone: torch's own macro leaves it in this library's CUDA runtime."""
    files = [p for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    lines = [line for p in files for line in p.read_text().splitlines() if "STD_CUDA_" in line]
    assert [line.strip() for line in lines] == ["STD_CUDA_CHECK(error);"]
