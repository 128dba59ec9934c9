"""The extension against a CUDA build of torch, where there is no GPU: `make cuda-check`.

    python3 -m tools.cuda_check            the newest torch that pip installs here
    python3 -m tools.cuda_check 2.11.0     that version; several may be named
    python3 -m tools.cuda_check --archs 90 one architecture alone

Each version has an environment of its own outside the tree, made when first needed (5 GB). There
the sources of csrc/ are compiled for every architecture into a temporary folder, linked and loaded,
and every operator that csrc/ declares for CUDA must have a CUDA kernel. It needs nvcc of torch's
CUDA; it sees compiler, linker and loader, and nothing of what kernels compute.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST = "newest"
DEVICES = ("CPU", "CUDA")

# Run where nothing but torch is imported: what is registered comes from the library alone.
PROBE = """
import json, sys, torch
torch.ops.load_library(sys.argv[1])
has = torch._C._dispatch_has_kernel_for_dispatch_key
print(json.dumps({n: [k for k in ("CPU", "CUDA") if has(n, k)] for n in sys.argv[2:]}))
"""


class Failed(Exception):
    """What is wrong with a version, in words."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.cuda_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="of torch, such as 2.11.0")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument(
        "--environments", type=Path, default=cache / "fastgan" / "cuda-check", metavar="DIR",
        help="where they are kept; default: %(default)s",
    )  # fmt: skip
    told = "of environments that are made; default: this one"
    parser.add_argument("--python", default=sys.executable, help=told)
    told = "semicolon-separated architectures to compile for; default: every one of setup.py"
    parser.add_argument("--archs", default="", help=told)
    chosen = parser.parse_args(arguments)
    failed = False
    for version in chosen.versions or [NEWEST]:
        started = time.monotonic()
        try:
            line = check(version, chosen.environments.resolve(), chosen.python, chosen.archs)
        except Failed as error:
            failed, line = True, f"FAILED: {error}"
        print(f"torch {version}: {line} ({time.monotonic() - started:.0f} s)", flush=True)
    return int(failed)


def check(version: str, environments: Path, base: str, archs: str = "") -> str:
    """Build and load with one version; what was found, in a line. Raises Failed."""
    python = environment(version, environments, base)
    with tempfile.TemporaryDirectory(prefix="fastgan-cuda-check-") as folder:
        library, record = build(python, Path(folder), archs)
        wanted = declared()
        found = registered(python, library, schemas().union(*wanted.values()))
    if problems := differences(wanted, found):
        raise Failed("; ".join(problems))
    archs = " ".join(record["cuda_archs"])
    return (
        f"{record['torch']} with nvcc {record['cuda_version']}, sm {archs}: built, loaded, "
        f"all {len(wanted['CUDA'])} CUDA operators are registered"
    )


def environment(version: str, environments: Path, base: str) -> str:
    """The Python of a version's environment, which is made where it is not there yet."""
    folder = environments / f"torch-{version}"
    python, whole = folder / "bin" / "python", folder / "installed"
    if not whole.exists():
        requirement = "torch" if version == NEWEST else f"torch=={version}"
        run([base, "-m", "venv", str(folder)])
        run([str(python), "-m", "pip", "install", "-q", requirement, "setuptools>=77", "numpy"])
        whole.touch()
    return str(python)


def build(python: str, folder: Path, archs: str = "") -> tuple[Path, dict[str, str]]:
    """The library and its record, built into a folder; without archs for all of setup.py's."""
    library = folder / "lib" / "fastgan" / "_native.so"
    command = [python, "setup.py", "-q", "build_native", f"--build-lib={folder / 'lib'}"]
    settings = {k: v for k, v in os.environ.items() if not k.startswith("FASTGAN_")}
    settings["FASTGAN_REQUIRE_NATIVE"] = "1"
    # What the CPU runs is only linked here; optimising it would take most of the time.
    settings["CXXFLAGS"] = "-O0"
    if archs:
        settings["FASTGAN_CUDA_ARCHS"] = archs
    run([*command, f"--build-temp={folder / 'temp'}"], settings)
    record = json.loads(library.with_name("_build.json").read_text())
    if not record["cuda"]:
        raise Failed(f"built without the CUDA kernels: {record['cuda_reason']}")
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    every = ast.literal_eval(re.findall(r"^CUDA_ARCHS = (.*)$", text, re.M)[0])
    if not archs and (lacking := sorted(set(every) - set(record["cuda_archs"]))):
        raise Failed(f"nvcc {record['cuda_version']} does not know sm {' '.join(lacking)}")
    return library, record


def schemas() -> set[str]:
    """Every operator that csrc/ops.cpp defines, with its overload."""
    text = (ROOT / "csrc" / "ops.cpp").read_text(encoding="utf-8")
    return {f"fastgan::{name}" for name in re.findall(r'm\.def\(\s*"([\w.]+)\(', text)}


def declared() -> dict[str, set[str]]:
    """The operators that must have a kernel on each device.

    Those that a source of the device registers, and every `kernel`: the overload of an operator
    that chooses a backend is compiled for all devices.
    """
    chosen = {name for name in schemas() if name.endswith(".kernel")}
    found = {device: set(chosen) for device in DEVICES}
    for path in sorted((ROOT / "csrc").rglob("*.c*")):
        block = r"LIBRARY_IMPL\(fastgan, (CPU|CUDA), m\) \{(.*?)^\}"
        for device, text in re.findall(block, path.read_text(encoding="utf-8"), re.M | re.S):
            names = re.findall(r'm\.impl\(\s*"([\w.]+)"', text)
            found[device] |= {f"fastgan::{name}" for name in names}
    return found


def registered(python: str, library: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """The devices of every operator that has a kernel there, in a process that loaded a library."""
    # No path of this tree: a fastgan that is imported would register more.
    told = run([python, "-c", PROBE, str(library), *sorted(names)], cwd=library.parent)
    return dict(json.loads(told.splitlines()[-1]))


def differences(wanted: dict[str, set[str]], found: dict[str, list[str]]) -> list[str]:
    """What is declared and not registered, and the other way round, in words."""
    problems = []
    for device in DEVICES:
        there = {name for name, devices in found.items() if device in devices}
        if lacking := sorted(wanted[device] - there):
            problems.append(f"no {device} kernel of {', '.join(lacking)}")
        if more := sorted(there - wanted[device]):
            problems.append(f"an undeclared {device} kernel of {', '.join(more)}")
    return problems


def run(command: list[str], settings: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What a command prints. Raises Failed with its last lines where it fails."""
    shown = [word for word in command[:6] if "\n" not in word]
    print("+ " + " ".join(shown), flush=True)
    done = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-12:]
        raise Failed(f"{Path(command[0]).name} exited {done.returncode}:\n" + "\n".join(last))
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
