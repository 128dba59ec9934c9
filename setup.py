"""Builds `fastgan/_native.so` where a compiler and torch are there; installs without it otherwise.

The library has no Python in it: it registers operators with torch when it is loaded, by torch's
stable ABI, so one build serves every Python and every torch from 2.11 on. `fastgan/_autograd.so`,
the derivatives of two ops in C++, serves the torch it was built with; elsewhere Python has them.
Where Python's headers are, it is a module of every Python with a GIL, too.
torch is never imported, fetched or replaced here: its headers are found in the environment that
runs this file.

Environment variables
  FASTGAN_NATIVE=0          skip the native build: a wheel is then for any platform
  FASTGAN_REQUIRE_NATIVE=1  fail where it cannot be built, instead of installing without it
  FASTGAN_CUDA_ARCHS        e.g. "90;120": the CUDA architectures to compile for
  CXX, CUDACXX              the compilers
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import setuptools
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
SETUPTOOLS_MINIMUM = 77  # the first that reads a licence given by its SPDX name
TORCH_MINIMUM = (2, 11)
TORCH_TARGET_VERSION = "0x020b000000000000"
CUDA_ARCHS = ("75", "80", "90", "100", "120")

# The inner loops, csrc/cpu/**/kernel.cpp, are compiled once for each instruction set; the
# processor's is chosen when the library is used.
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
X86_SETS = {
    "avx2": [*_AVX2],
    "avx512": [*_AVX512, "-mprefer-vector-width=512"],
    "avx512bf16": [*_AVX512, "-mavx512bf16", "-mprefer-vector-width=512"],
}


class NotBuildable(Exception):
    """The native library cannot be built here; the text says what is missing."""


@dataclass(frozen=True)
class Torch:
    """What the installed torch says of itself, read without importing it."""

    root: Path
    version: str
    cuda: str | None


def site_directories() -> Iterator[Path]:
    """The target environment's site-packages. Under build isolation sys.path does not hold them."""
    for prefix in dict.fromkeys([sys.prefix, sys.base_prefix]):
        for name in ("platlib", "purelib"):
            yield Path(sysconfig.get_path(name, vars={"base": prefix, "platbase": prefix}))
    # Debian's patched base Python keeps its packages elsewhere; a plain sys.path still lists them.
    yield from (Path(entry) for entry in sys.path if entry)


def find_torch(directories: Iterator[Path] | None = None) -> Torch:
    for directory in directories or site_directories():
        root = directory / "torch"
        if not (root / "version.py").is_file():
            continue
        text = (root / "version.py").read_text(encoding="utf-8")
        version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.M)
        cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)", text, re.M)
        if version is None:
            raise NotBuildable(f"{root}/version.py names no version")
        if tuple(map(int, re.findall(r"\d+", version[1])[:2])) < TORCH_MINIMUM:
            wanted = ".".join(map(str, TORCH_MINIMUM))
            raise NotBuildable(f"torch {version[1]} is older than {wanted}")
        if not (root / "include/torch/csrc/stable/library.h").is_file():
            raise NotBuildable(f"torch {version[1]} has no C++ headers")
        return Torch(root, version[1], cuda[1] if cuda else None)
    raise NotBuildable("torch is not installed in this environment (install it first)")


def find_compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX") or "g++")
    if shutil.which(command[0]) is None:
        raise NotBuildable(f"no C++ compiler ({command[0]} is not on PATH)")
    return command


def find_nvcc(torch: Torch) -> tuple[str | None, str]:
    """nvcc, or None and why the CUDA sources are left out."""
    if not sorted((ROOT / "csrc" / "cuda").rglob("*.cu")):
        return None, "no CUDA sources"
    if torch.cuda is None:
        return None, f"torch {torch.version} is a CPU build"
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")
    if nvcc is None:
        return None, "nvcc is not on PATH"
    version = nvcc_version(nvcc)
    if version.partition(".")[0] != torch.cuda.partition(".")[0]:
        return None, f"{nvcc} is of CUDA {version}, torch {torch.version} of CUDA {torch.cuda}"
    return nvcc, ""


def nvcc_version(nvcc: str) -> str:
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"release (\d+\.\d+)", told.stdout)
    return release[1] if release else "unknown"


def cuda_archs(nvcc: str) -> list[str]:
    """The architectures to compile for: those asked for, or of CUDA_ARCHS what this nvcc knows."""
    asked = os.environ.get("FASTGAN_CUDA_ARCHS")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = set(re.findall(r"compute_(\w+)", listed.stdout))
    archs = re.split(r"[;,\s]+", asked.strip()) if asked else [a for a in CUDA_ARCHS if a in known]
    unknown = [a for a in archs if a not in known]
    if unknown or not archs:
        raise NotBuildable(f"nvcc does not know the architectures {unknown or asked!r}")
    return archs


def newest_plain(archs: list[str]) -> str:
    """The one whose PTX later GPUs can run; empty where all are of one GPU's own features."""
    return max((a for a in archs if a.isdigit()), key=int, default="")


def cuda_arch_flags(archs: list[str]) -> list[str]:
    """Machine code for each architecture, and PTX of the newest for later ones."""
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    if newest := newest_plain(archs):
        flags.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    return flags


def compile_commands(
    torch: Torch, cxx: list[str], nvcc: str | None, archs: list[str], objects: Path
) -> list[tuple[Path, list[str]]]:
    """(object, command) of every translation unit."""
    csrc = ROOT / "csrc"
    host = [*cxx, "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
    host += ["-Wno-maybe-uninitialized", f"-I{csrc}", *shlex.split(os.environ.get("CXXFLAGS", ""))]
    of_torch = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-I{torch.root / 'include'}"]
    commands = []

    def add(compiler: list[str], source: Path, flags: list[str], suffix: str = "") -> None:
        name = "_".join(source.relative_to(csrc).with_suffix("").parts)
        target = objects / f"{name}{suffix}.o"
        commands.append((target, [*compiler, *flags, "-c", str(source), "-o", str(target)]))

    loops = sorted((csrc / "cpu").rglob("kernel.cpp"))
    sets = X86_SETS if platform.machine() in ("x86_64", "AMD64") else {}
    for source, (isa, flags) in product(loops, {"baseline": [], **sets}.items()):
        add(host, source, [f"-DFASTGAN_ISA={isa}", *flags], f"_{isa}")
    for source in [csrc / "ops.cpp", *sorted((csrc / "cpu").rglob("*.cpp"))]:
        if source not in loops:
            add(host, source, of_torch)
    if nvcc is not None:
        device = [nvcc, "-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", f"-I{csrc}"]
        device += ["--expt-relaxed-constexpr", "-DUSE_CUDA", "-ccbin", cxx[0]]
        for source in sorted((csrc / "cuda").rglob("*.cu")):
            add(device, source, [*cuda_arch_flags(archs), *of_torch])
    return commands


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        error = next((line for line in lines if "error" in line.lower()), "".join(lines[-1:]))
        sys.stderr.write(done.stderr)
        raise NotBuildable(f"{Path(command[0]).name} failed: {error.strip()[:300]}")


def link(command: list[str], output: Path) -> None:
    """Beside, then moved: a process that has the old library mapped keeps it."""
    beside = output.with_suffix(".so.new")
    run([*command, "-o", str(beside)])
    os.replace(beside, output)


def build_native(output: Path, objects: Path) -> dict[str, object]:
    """Compiles and links the library; what it was built with. Raises NotBuildable."""
    if os.environ.get("FASTGAN_NATIVE", "1") == "0":
        raise NotBuildable("FASTGAN_NATIVE=0 was set")
    if sys.platform != "linux":
        raise NotBuildable(f"the native library is built on Linux only (this is {sys.platform})")
    cxx = find_compiler()
    torch = find_torch()
    nvcc, cuda_reason = find_nvcc(torch)
    archs = cuda_archs(nvcc) if nvcc else []
    objects.mkdir(parents=True, exist_ok=True)
    commands = compile_commands(torch, cxx, nvcc, archs, objects)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, (command for _, command in commands)))
    output.parent.mkdir(parents=True, exist_ok=True)
    # torch's libraries are in the process when this one is loaded: they are named so that their
    # symbols resolve, with no path of the machine that built it.
    libraries = [f"-L{torch.root / 'lib'}", "-ltorch_cpu"]
    linker = [*cxx, "-shared", "-Wl,--as-needed", "-Wl,--exclude-libs,ALL"]
    if nvcc is not None:
        # nvcc knows where its runtime lies; static, so that no libcudart of another version is
        # looked for when the library is loaded.
        linker = [nvcc, "-shared", "-cudart=static", "-ccbin", cxx[0]]
        linker.append("-Xlinker=--as-needed,--exclude-libs,ALL")
        libraries.append("-ltorch_cuda")
    link([*linker, *(str(target) for target, _ in commands), *libraries], output)
    record = {"cuda": nvcc is not None, "cuda_reason": cuda_reason, "torch": torch.version}
    if nvcc is not None:
        record |= {"cuda_version": nvcc_version(nvcc), "cuda_archs": archs}
        record["cuda_ptx"] = newest_plain(archs)
    return record | build_autograd(torch, cxx, output.with_name("_autograd.so"), objects)


def autograd_commands(
    torch: Torch, cxx: list[str], objects: Path
) -> tuple[list[tuple[Path, list[str]]], bool]:
    """(object, command) of csrc/eager, and whether the way in from Python is among them."""
    python = Path(sysconfig.get_path("include"))
    with_python = (
        (python / "Python.h").is_file()
        and (torch.root / "lib" / "libtorch_python.so").is_file()
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
    )
    headers = [torch.root / "include", torch.root / "include/torch/csrc/api/include", python]
    flags = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-array-bounds"]
    flags += [f"-I{ROOT / 'csrc'}", *(f"-isystem{path}" for path in headers)]
    commands = []
    for source in sorted((ROOT / "csrc" / "eager").glob("*.cpp")):
        if not source.stem.startswith("python") or with_python:
            target = objects / f"eager_{source.stem}.o"
            commands.append((target, [*cxx, *flags, "-c", str(source), "-o", str(target)]))
    return commands, with_python


def autograd_link(torch: Torch, cxx: list[str], parts: list[Path], with_python: bool) -> list[str]:
    libraries = ["-ltorch_cpu", "-lc10", *(["-ltorch_python"] if with_python else [])]
    return [*cxx, "-shared", *map(str, parts), f"-L{torch.root / 'lib'}", *libraries]


def build_autograd(torch: Torch, cxx: list[str], output: Path, objects: Path) -> dict[str, object]:
    """Compiles csrc/eager, which fastgan can do without; what came of it, or why nothing."""
    commands, with_python = autograd_commands(torch, cxx, objects)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, (command for _, command in commands)))
        link(autograd_link(torch, cxx, [target for target, _ in commands], with_python), output)
    except NotBuildable as error:
        output.unlink(missing_ok=True)
        return {"autograd": False, "autograd_reason": str(error), "python": False}
    return {"autograd": True, "autograd_reason": "", "python": with_python}


class BuildNative(build_ext):
    """The library and the record of what was built, `_build.json`, which `fastgan doctor` reads."""

    def folder(self) -> Path:
        in_place = self.editable_mode or self.inplace
        return (ROOT if in_place else Path(self.build_lib)) / "fastgan"

    def run(self) -> None:
        package = self.folder()
        library = package / "_native.so"
        record: dict[str, object] = {"native": False, "cuda": False, "reason": ""}
        self.built = False
        try:
            record.update(build_native(library, Path(self.build_temp) / "native"), native=True)
            self.built = True
        except NotBuildable as error:
            if os.environ.get("FASTGAN_REQUIRE_NATIVE") == "1":
                raise SystemExit(f"fastgan: the native library cannot be built: {error}") from error
            record["reason"] = str(error)
            for made in (library, library.with_name("_autograd.so")):
                made.unlink(missing_ok=True)
            print(f"fastgan: installing without the native library: {error}", file=sys.stderr)
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def get_source_files(self) -> list[str]:
        files = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")]
        return sorted(str(p.relative_to(ROOT)) for p in files)

    def get_outputs(self) -> list[str]:
        made = (self.folder() / name for name in ("_native.so", "_autograd.so", "_build.json"))
        return [str(p) for p in made if p.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildPython(build_py):
    """Copies `kernels/`, which has no `__init__.py`, to the place of the symlink."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "fastgan" / "kernels"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "kernels", target, ignore=ignored, dirs_exist_ok=True)


class PlatformWheel(bdist_wheel):
    """Any Python 3, for only the stable part of its C API is used; any platform where no library
    was built.
    """

    def run(self) -> None:
        self.run_command("build")
        if not self.get_finalized_command("build_ext").built:
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def require_setuptools(version: str) -> None:
    """What an older one says of pyproject.toml names neither itself nor the remedy."""
    if int(version.partition(".")[0]) < SETUPTOOLS_MINIMUM:
        raise SystemExit(
            f"fastgan: setuptools {version} is older than {SETUPTOOLS_MINIMUM}: pip install -U "
            "setuptools, or leave out --no-build-isolation"
        )


require_setuptools(setuptools.__version__)
setup(
    # kernels/ is no package (see BuildPython); everything else under fastgan/ is.
    packages=find_packages(include=["fastgan", "fastgan.*"]),
    ext_modules=[Extension("fastgan._native", [])],
    cmdclass={
        "bdist_wheel": PlatformWheel,
        "build_ext": BuildNative,
        "build_native": BuildNative,  # by hand: setup.py build_native --inplace
        "build_py": BuildPython,
    },
)
