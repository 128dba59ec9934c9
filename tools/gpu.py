"""Everything that needs a GPU, in stages: `make gpu`, or python3 tools/gpu.py [STAGE ...].

Runs in the Python that holds torch and triton, installs nothing and needs no network. Correctness
comes first; a stage that fails does not keep the next from running, and each ends in time, keeping
what it has: the table at the end tells how each one went. Results go to bench/results/GPU, what the
stages print also to bench/results/local/gpu. More arguments for the tests or benchmarks follow
`--`: tools/gpu.py test -- -k norm_act.

    environment   versions, GPU, driver, clocks
    build         the extension, in place, for this GPU
    test          every test marked `gpu`
    sanitize      the CUDA kernels under compute-sanitizer: memcheck, racecheck
    tune          the fastest form of each layer of DCGAN-64
    bench         the suite, its telling cases first; again, to go on where it was cut
    docs          the tables and pictures of docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE_SECONDS = 520.0  # of a stage, so that it ends inside nine minutes
GRACE = 15.0  # seconds to finish what it is writing, once it is told to stop
# Marked, or run on the devices of a helper's list or of the fixture.
MARK = re.compile(
    r"pytest\.mark\.gpu|\b(?:on_devices|DEVICES)\b|from devices import|"
    r"def test_\w+\([^)]*\bdevice\b"
)
SKIPPED = -1
OUT_OF_TIME = 124
# What fastgan imports beside torch, triton and numpy: without them a part of it cannot be tested.
OPTIONAL = {"PIL": "pillow", "rich": "rich", "safetensors": "safetensors", "tyro": "tyro"}


@dataclass
class Stage:
    """One stage as it runs: where its results go, and how long it may take."""

    name: str
    results: Path
    more: list[str] = field(default_factory=list)
    ends: float = field(default_factory=lambda: time.monotonic() + STAGE_SECONDS)

    @property
    def log(self) -> Path:
        return ROOT / "bench" / "results" / "local" / "gpu" / f"{self.name}.log"

    @property
    def left(self) -> float:
        return max(1.0, self.ends - time.monotonic())

    def say(self, text: str) -> None:
        """Print, and keep."""
        print(text, flush=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def run(self, command: list[str], **settings: str) -> int:
        """Run a command in the time that is left; what it prints is shown and kept.

        When time is out it is interrupted, as by Ctrl-C, so that it writes what it has, and ended
        if that takes too long.
        """
        self.say("+ " + " ".join(command))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **settings}
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, text=True, errors="replace", start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_hear_interrupts,
        )  # fmt: skip
        shown = threading.Thread(target=self._show, args=(process.stdout or (),), daemon=True)
        shown.start()
        code = _wait(process, self.left)
        shown.join(GRACE)
        return code

    def _show(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.say(line.rstrip("\n"))

    def pytest(self, *arguments: str) -> int:
        if importlib.util.find_spec("pytest") is None:
            self.say(f"{sys.executable} has no pytest: install pytest")
            return 1
        # A file that cannot be imported is an error, and does not keep the others from running.
        options = ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
        return self.run([sys.executable, "-m", "pytest", *options, *arguments, *self.more])


def environment(stage: Stage) -> int:
    """Write what this machine is beside the results."""
    import torch
    import triton

    properties = torch.cuda.get_device_properties(0)
    facts = {
        "gpu": properties.name,
        "sm": f"{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "nvcc": _output(["nvcc", "--version"]).splitlines()[-1:],
        "nvidia_smi": _output(["nvidia-smi", "-q", "-d", "CLOCK,POWER,PERFORMANCE"]).splitlines(),
        "missing": missing(OPTIONAL),
        "commit": _output(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip(),
    }
    (stage.results / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
    stage.say(json.dumps({k: v for k, v in facts.items() if k != "nvidia_smi"}, indent=1))
    return 0


def build(stage: Stage) -> int:
    """Build fastgan/_native.so in place, for the GPU that is here."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    settings = {"FASTGAN_REQUIRE_NATIVE": "1"}
    settings["FASTGAN_CUDA_ARCHS"] = os.environ.get("FASTGAN_CUDA_ARCHS", f"{major}{minor}")
    command = [sys.executable, "setup.py", "-q", "build_native", "--inplace"]
    if code := stage.run(command, **settings):
        return code
    record = json.loads((ROOT / "fastgan" / "_build.json").read_text())
    if not record["cuda"]:
        stage.say(f"built without the CUDA kernels: {record['cuda_reason']}")
    return int(not record["cuda"])


def test(stage: Stage) -> int:
    """Run every test that needs a GPU."""
    return stage.pytest(*tests(stage), "-m", "gpu", "-q", "--maxfail=20")


def tests(stage: Stage) -> list[str]:
    """The files of tests that need a GPU, but those that cannot be imported here."""
    names = marked("tests")
    # The ops first: where they fail, nothing above them counts.
    names.sort(key=lambda name: name.split("/")[1] not in ("ops", "kernels"))
    absent = missing(OPTIONAL)
    if absent:
        engine = [name for name in names if name.startswith("tests/engine/")]
        names = [name for name in names if name not in engine]
        stage.say(f"left out, for want of {', '.join(absent)}: {', '.join(engine)}")
    return names


def marked(folder: str) -> list[str]:
    """The files under a folder with something marked `gpu`."""
    files = sorted((ROOT / folder).rglob("test_*.py"))
    return [str(p.relative_to(ROOT)) for p in files if MARK.search(p.read_text(encoding="utf-8"))]


def sanitize(stage: Stage) -> int:
    """Run the CUDA kernels under compute-sanitizer, where there is one."""
    tool = _sanitizer()
    if tool is None:
        stage.say("skipped: there is no compute-sanitizer on PATH, in CUDA_HOME or /usr/local/cuda")
        return SKIPPED
    codes = []
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", "--print-limit", "20"]
        command += [sys.executable, "-m", "tools.gpu_ops"]
        # Torch's allocator cuts blocks out of larger ones, where nothing is out of bounds.
        codes.append(stage.run(command, PYTORCH_NO_CUDA_MEMORY_CACHING="1"))
    return max(codes, key=abs)


def tune(stage: Stage) -> int:
    """Measure the forms of each layer of DCGAN-64, at two batches and in two dtypes."""
    return stage.run([sys.executable, "-m", "tools.gpu_tune", str(stage.results)])


def bench(stage: Stage) -> int:
    """Run the benchmarks on the GPU; each case is on disk when it is done."""
    # No case is begun in the last tenth of the time: one with a compiling peer takes a minute.
    limit = f"--time-limit={0.85 * stage.left:.0f}"
    options = ["-m", "gpu", "-q", "--continue", limit, f"--results={stage.results}"]
    return stage.pytest(*marked("bench"), "--benchmark", *options)


def docs(stage: Stage) -> int:
    """Write the page of benchmarks; without matplotlib, its tables alone."""
    command = [sys.executable, "-m", "bench.harness.page"]
    if missing({"matplotlib": "matplotlib"}):
        stage.say("without pictures, for want of matplotlib")
        command.append("--without-plots")
    return stage.run(command)


STAGES: dict[str, Callable[[Stage], int]] = {
    "environment": environment,
    "build": build,
    "test": test,
    "sanitize": sanitize,
    "tune": tune,
    "bench": bench,
    "docs": docs,
}


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="After `--`: further arguments for pytest, in the stages test and bench.",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--results", type=Path, help="default: bench/results/GPU")
    chosen = parser.parse_args(given[:split])
    if unknown := [name for name in chosen.stages if name not in STAGES]:
        parser.error(f"unknown stage {unknown[0]!r}: there are {', '.join(STAGES)}")
    if (reason := why_not()) is not None:
        print(reason)
        return 1
    results = chosen.results or ROOT / "bench" / "results" / gpu_slug()
    results = results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    return run_stages(chosen.stages or list(STAGES), results, given[split + 1 :])


def run_stages(names: list[str], results: Path, more: list[str]) -> int:
    """Every stage, whatever becomes of the ones before; 1 if any failed."""
    rows: list[tuple[str, int, float]] = []
    for name in names:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        stage = Stage(name, results, more if name in ("test", "bench") else [])
        stage.log.unlink(missing_ok=True)
        try:
            code = STAGES[name](stage)
        except Exception as error:  # whatever it is, the next stage is told of and run
            stage.say(f"{type(error).__name__}: {error}")
            code = 1
        rows.append((name, code, time.monotonic() - started))
        _keep(results, rows)
    print("\nstage        status       seconds")
    for name, code, seconds in rows:
        print(f"{name:12} {in_words(code):12} {seconds:7.1f}")
    return int(any(code not in (0, SKIPPED) for _, code, _ in rows))


def in_words(code: int) -> str:
    return {0: "ok", SKIPPED: "skipped", OUT_OF_TIME: "out of time"}.get(code, f"exit {code}")


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


def gpu_slug() -> str:
    import torch

    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def missing(packages: dict[str, str]) -> list[str]:
    """The names, as pip knows them, of what cannot be imported."""
    return [name for module, name in packages.items() if importlib.util.find_spec(module) is None]


def _keep(results: Path, rows: list[tuple[str, int, float]]) -> None:
    """How the stages went, beside the results; those that did not run now keep their line."""
    path = results / "stages.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= {
        name: {"status": in_words(code), "seconds": round(seconds, 1)}
        for name, code, seconds in rows
    }
    path.write_text(json.dumps({k: known[k] for k in STAGES if k in known}, indent=1) + "\n")


def _hear_interrupts() -> None:
    """For a run in the background of a shell, which has its processes ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(process: subprocess.Popen[str], seconds: float) -> int:
    """Its exit status; OUT_OF_TIME where it had to be stopped."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    for sent, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    return OUT_OF_TIME


def _sanitizer() -> str | None:
    for folder in (None, os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        path = None if folder is None else f"{folder}/bin:{folder}/compute-sanitizer"
        if (found := shutil.which("compute-sanitizer", path=path)) is not None:
            return found
    return None


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    raise SystemExit(main())
