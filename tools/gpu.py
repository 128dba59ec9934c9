"""Everything that needs a GPU, in stages: `make gpu`, or python3 tools/gpu.py [STAGE ...].

Runs in the Python that holds torch and triton, installs nothing and needs no network. A stage that
fails does not keep the next from running; the table at the end tells how each one went. Results go
to bench/results/, or to --results FOLDER.

    environment   versions, GPU, driver, clocks
    build         the extension, in place, for this GPU
    test          every test marked `gpu`, and the parity tests of the ops on the GPU backends
    bench         the benchmarks of the fused ops against eager and compiled PyTorch
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE_SECONDS = 540


def environment(results: Path) -> int:
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
        "nvidia_smi": _output(
            [
                "nvidia-smi",
                "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks_throttle_reasons.active",
                "--format=csv",
            ]
        ).splitlines(),
        "commit": _output(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip(),
    }
    (results / f"environment-{_slug(properties.name)}.json").write_text(
        json.dumps(facts, indent=1) + "\n"
    )
    print(json.dumps(facts, indent=1))
    return 0


def build(_results: Path) -> int:
    """Build fastgan/_native.so in place, for the GPU that is here."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    settings = {"FASTGAN_REQUIRE_NATIVE": "1"}
    settings["FASTGAN_CUDA_ARCHS"] = os.environ.get("FASTGAN_CUDA_ARCHS", f"{major}{minor}")
    return _run([sys.executable, "setup.py", "-q", "build_native", "--inplace"], **settings)


def test(_results: Path) -> int:
    """Run every test that needs a GPU."""
    return _pytest(
        "tests/ops", "tests/nn", "tests/kernels", "tests/engine", "-m", "gpu", "-q", "--maxfail=20"
    )


def bench(results: Path) -> int:
    """Run the benchmarks on the GPU and keep their numbers."""
    import torch

    target = results / f"{_slug(torch.cuda.get_device_name())}.json"
    return _pytest("bench", "--benchmark", "-m", "gpu", f"--benchmark-json={target}", "-q", "-s")


STAGES: dict[str, Callable[[Path], int]] = {
    "environment": environment,
    "build": build,
    "test": test,
    "bench": bench,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.stages if name not in STAGES]:
        parser.error(f"unknown stage {unknown[0]!r}: there are {', '.join(STAGES)}")
    if missing := [name for name in ("torch", "triton") if not importlib.util.find_spec(name)]:
        print(f"{sys.executable} has no {' and no '.join(missing)}: set GPU_PYTHON to one that has")
        return 1
    import torch

    # Without this the tests would all skip, and a run that proved nothing would look like a pass.
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device: nothing here can run")
        return 1
    chosen.results.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in chosen.stages or STAGES:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        try:
            code = STAGES[name](chosen.results)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
            code = 1
        rows.append((name, code, time.monotonic() - started))
    print("\nstage        status  seconds")
    for name, code, seconds in rows:
        print(f"{name:12} {'ok' if code == 0 else f'exit {code}':7} {seconds:7.1f}")
    return max(abs(code) for _, code, _ in rows)


def _pytest(*arguments: str) -> int:
    if importlib.util.find_spec("pytest") is None:
        print(f"{sys.executable} has no pytest: install the packages of fastgan[test]")
        return 1
    return _run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments])


def _run(command: list[str], **settings: str) -> int:
    print("+", " ".join(command), flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **settings}
    try:
        done = subprocess.run(command, cwd=ROOT, env=variables, timeout=STAGE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"ended after {STAGE_SECONDS} s")
        return 124
    return done.returncode


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    raise SystemExit(main())
