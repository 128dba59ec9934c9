"""What each stage of `make gpu` does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench.harness.source import BUILT, MEASURED, TESTED, source_hash

from .selection import OPTIONAL, marked, tests
from .stage import ROOT, SKIPPED, Stage, missing


def environment(stage: Stage) -> int:
    """Write what this machine is beside the results."""
    from bench.harness import machine

    facts = {
        **machine.describe("cuda"),
        "nvcc": _output(["nvcc", "--version"]).splitlines()[-1:],
        "nvidia_smi": _output(["nvidia-smi", "-q", "-d", "CLOCK,POWER,PERFORMANCE"]).splitlines(),
        "missing": missing(OPTIONAL),
        "tests": source_hash(TESTED),
    }
    (stage.results / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
    stage.say(json.dumps({k: v for k, v in facts.items() if k != "nvidia_smi"}, indent=1))
    return 0


def build(stage: Stage) -> int:
    """Build fastgan/_native.so in place, for the GPU that is here.

    With --continue, one that stands here of the same sources and for the same torch is kept.
    """
    import torch

    package, major_minor = ROOT / "fastgan", torch.cuda.get_device_capability()
    archs = os.environ.get("FASTGAN_CUDA_ARCHS", "{}{}".format(*major_minor))
    key = f"{source_hash(BUILT)} torch {torch.__version__} sm {archs}"
    mark = ROOT / "build" / "gpu-built.txt"
    stands = (package / "_native.so").exists() and mark.exists() and mark.read_text() == key
    if stage.go_on and stands:
        stage.say(f"stands: {key}")
        return 0
    mark.unlink(missing_ok=True)
    command = [sys.executable, "setup.py", "-q", "build_native", "--inplace"]
    if code := stage.run(command, FASTGAN_REQUIRE_NATIVE="1", FASTGAN_CUDA_ARCHS=archs):
        return code
    record = json.loads((package / "_build.json").read_text())
    if not record["cuda"]:
        stage.say(f"built without the CUDA kernels: {record['cuda_reason']}")
        return 1
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(key)
    return 0


def test(stage: Stage) -> int:
    """Run every test that needs a GPU, on what ships."""
    options = ["-m", "gpu and not sweep", "-q", "--maxfail=20"]
    return stage.pytest(*tests(stage), *options, of=TESTED)


def sweep(stage: Stage) -> int:
    """Run every configuration of Triton's kernels: compiling them is nearly all of the time, so
    in as many processes as there are cores, where pytest-xdist is there."""
    files = [name for name in tests(stage) if SWEPT in (ROOT / name).read_text(encoding="utf-8")]
    options = ["-m", "gpu and sweep", "-q", "--maxfail=20"]
    if not missing({"xdist": "pytest-xdist"}):
        options += ["-n", str(min(12, os.cpu_count() or 1)), "--dist", "load"]
    return stage.pytest(*files, *options, of=TESTED, seconds=300)


def memcheck(stage: Stage) -> int:
    """Run the CUDA kernels under compute-sanitizer, where there is one."""
    return _sanitize(stage, "memcheck")


def racecheck(stage: Stage) -> int:
    return _sanitize(stage, "racecheck")


def _sanitize(stage: Stage, check: str) -> int:
    tool = sanitizer()
    if tool is None:
        stage.say("skipped: there is no compute-sanitizer on PATH, in CUDA_HOME or /usr/local/cuda")
        return SKIPPED
    command = [tool, "--tool", check, "--error-exitcode", "9", "--print-limit", "20"]
    command += [sys.executable, "-m", "tools.gpu.operators"]
    # Torch's allocator cuts blocks out of larger ones, where nothing is out of bounds.
    return stage.run(command, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def tune(stage: Stage) -> int:
    """Measure the forms of each layer of DCGAN-64, at two batches and in two dtypes."""
    command = [sys.executable, "-m", "tools.gpu.tune", str(stage.results)]
    return stage.run(command + ["--continue"] * stage.go_on)


def bench(stage: Stage) -> int:
    """Run the benchmarks on the GPU; each case is on disk when it is done."""
    # No case is begun in the last tenth of the time: one with a compiling peer takes a minute.
    limit = f"--time-limit={0.85 * stage.left:.0f}"
    options = ["-m", "gpu", "-q", limit, f"--results={stage.results}"]
    options += ["--continue"] * stage.go_on
    return stage.pytest(*marked("bench"), "--benchmark", *options, of=MEASURED, seconds=300)


def docs(stage: Stage) -> int:
    """Write the page of benchmarks."""
    return stage.run([sys.executable, "-m", "bench.harness.page"])


SWEPT = "\n@sweep\n"  # what stands above such a test


@dataclass(frozen=True)
class Kind:
    """A stage's function, and what its result depends on: none where it is run in every call."""

    run: Callable[[Stage], int]
    of: tuple[str, ...] = ()


STAGES: dict[str, Kind] = {
    "environment": Kind(environment),
    "build": Kind(build),
    "test": Kind(test, TESTED),
    "memcheck": Kind(memcheck, (*BUILT, "fastgan", "tools")),
    "racecheck": Kind(racecheck, (*BUILT, "fastgan", "tools")),
    "tune": Kind(tune, (*MEASURED, "tools")),
    "bench": Kind(bench, MEASURED),
    "sweep": Kind(sweep, TESTED),
    "docs": Kind(docs),
}


def sanitizer() -> str | None:
    for folder in (None, os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        path = None if folder is None else f"{folder}/bin:{folder}/compute-sanitizer"
        if (found := shutil.which("compute-sanitizer", path=path)) is not None:
            return found
    return None


def why_not() -> str | None:
    """Why nothing can run here; None where it can."""
    if absent := missing({"torch": "torch", "triton": "triton"}):
        names = " and no ".join(absent)
        return f"{sys.executable} has no {names}: set GPU_PYTHON to a Python that has"
    import torch

    # Without this the tests would all skip, and a run that proved nothing would look like a pass.
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device: nothing here can run"
    return None


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
