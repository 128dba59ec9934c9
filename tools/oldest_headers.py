"""Whether csrc/ compiles against the headers of the oldest torch that is supported.

    python3 -m tools.oldest_headers [--optional]

The stable ABI promises that a build of today loads on the oldest torch, not that the sources build
there: TORCH_TARGET_VERSION hides newer functions of the ABI, and newer headers still offer macros
and files that older ones lack. The headers come out of torch's wheel for macOS, which holds the
same ones and no compiled CUDA: 80 MB, kept in build/. Sources for CPUs are checked and not
compiled; those for CUDA go through nvcc's front end, where there is an nvcc. With --optional it
says so and succeeds where the headers cannot be fetched.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Headers are the same for every Python, platform and processor; this wheel is the smallest.
WHEEL = ("--only-binary=:all:", "--python-version=3.11", "--platform=macosx_11_0_arm64")
# Those of the stable ABI; the others need not be there.
PARTS = ("torch/include/torch/", "torch/include/c10/", "torch/version.py")


def main(arguments: list[str]) -> int:
    if set(arguments) - {"--optional"}:
        raise SystemExit(f"unknown arguments: {' '.join(arguments)}; there is --optional")
    version = ".".join(map(str, (*setting("TORCH_MINIMUM"), 0)))
    try:
        include = headers(version)
    except subprocess.CalledProcessError:  # pip has said why
        print(f"csrc/ was not checked: the headers of torch {version} cannot be fetched")
        return 0 if arguments else 1
    jobs = [*cpu_commands(include), *cuda_commands(include)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        told = list(pool.map(compile_one, jobs))
    failed = [text for text in told if text]
    print("\n".join(failed))
    cuda = "with" if shutil.which("nvcc") else "without nvcc, so without"
    print(f"torch {version}: {len(jobs)} sources, {cuda} CUDA's: {len(failed)} do not compile")
    return int(bool(failed))


def setting(name: str) -> tuple[int, ...] | str:
    """A constant of setup.py, which cannot be imported without building."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    found: tuple[int, ...] | str = ast.literal_eval(re.findall(rf"^{name} = (.*)$", text, re.M)[0])
    return found


def headers(version: str) -> Path:
    """The folder of a version's headers; fetched where it is not there yet."""
    folder = ROOT / "build" / f"torch-{version}-headers"
    include = folder / "torch" / "include"
    if include.exists():
        return include
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", beside, *WHEEL]
        subprocess.run([*fetch, f"torch=={version}"], check=True)
        (wheel,) = Path(beside).glob("*.whl")
        unpack(wheel, Path(beside) / "whole")
        (Path(beside) / "whole").rename(folder)
    return include


def unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.startswith(PARTS)])


def flags(include: Path) -> list[str]:
    target = f"-DTORCH_TARGET_VERSION={setting('TORCH_TARGET_VERSION')}"
    return ["-std=c++17", target, f"-I{ROOT / 'csrc'}", f"-I{include}"]


def cpu_commands(include: Path) -> list[list[str]]:
    """Of every source but the inner loops, which include nothing of torch."""
    files = [ROOT / "csrc" / "ops.cpp", *sorted((ROOT / "csrc" / "cpu").rglob("*.cpp"))]
    command = ["g++", "-fsyntax-only", "-Wno-psabi", *flags(include)]
    return [[*command, str(file)] for file in files if file.name != "kernel.cpp"]


def cuda_commands(include: Path) -> list[list[str]]:
    """Of every CUDA source; unoptimised, for one architecture, and without the host's half, whose
    text the front end reads all the same."""
    if shutil.which("nvcc") is None:
        return []
    command = ["nvcc", "--ptx", "-G", "-w", "-arch=sm_90", "--expt-relaxed-constexpr", "-DUSE_CUDA"]
    files = sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
    return [[*command, *flags(include), str(file), "-o", os.devnull] for file in files]


def compile_one(command: list[str]) -> str:
    """What the compiler says where a source does not compile."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        done.stderr.strip() or f"{command[0]} exited {done.returncode}" if done.returncode else ""
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
