"""The CUDA C++ kernels of csrc/cuda, compiled by nvcc with the flags of the build, with no GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from .compare import Row, Select
from .digests import Job, hashed

# Of what the digests know, compiled all the same.
SAMPLE = 1
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120")
SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-DUSE_CUDA")
DEFINES = ("-DTORCH_TARGET_VERSION=0x020b000000000000",)
DTYPES = {"float": "float32", "Bf16": "bfloat16", "Fp16": "float16"}
LAYOUTS = {"0": "channels-last", "1": "contiguous"}

# Such as map_kernel<NormaliseKernel<Bf16, 8, (Layout)0, Act> >, reduce_kernel<RowSumKernel>,
# single_pass_kernel<SinglePassForwardKernel<float, (Layout)1, LeakyRelu> > or, of one layout only,
# staged_kernel<SmallChannelConvKernel<Bf16, 8> >, once namespaces are taken off. The last number is
# that of loads.
_TEMPLATE = re.compile(
    r"(\w+)_kernel<(\w+?)Kernel"
    r"(?:<(\w+)(?:, (\d+))?(?:, \(Layout\)(\d))?(?:, ([A-Z]\w+))?(?:, \d+)?>)?\s*>"
)


def unavailable() -> str | None:
    missing = [name for name in ("nvcc", "cuobjdump", "nvdisasm", "c++filt") if _tool(name) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    return None if _torch_include() else "torch's headers are not installed"


def toolchain() -> str:
    version = re.search(r"\bV([\d.]+)", _output(["nvcc", "--version"]))
    return f"nvcc {version[1] if version else 'of unknown version'}"


def jobs(select: Select) -> list[Job]:
    """One a selected target: every source, of which some share kernels."""
    headers = [*SOURCES.rglob("*.*"), *SOURCES.parent.glob("*.h")]
    read = [
        part
        for path in sorted(headers)
        for part in (path.relative_to(SOURCES.parent), path.read_bytes())
    ]
    made_by = toolchain(), version("torch"), version("triton"), Path(__file__).read_bytes()
    sources = sorted(SOURCES.rglob("*.cu"))
    return [
        Job(
            ("", "", target),
            hashed(*made_by, target, *read),
            tuple((str(source.relative_to(SOURCES)), target) for source in sources),
        )
        for target in TARGETS
        if not select.targets or target in select.targets
    ]


def compile(units: list[tuple[str, str]]) -> list[list[Row]]:
    """The rows of (source, target). A kernel that two share is compiled in both, from one text."""
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(_compile, units))


def _compile(unit: tuple[str, str]) -> list[Row]:
    source, target = unit
    include = [f"-I{_torch_include()}", f"-I{SOURCES.parent}"]
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        arguments = [*FLAGS, *DEFINES, *include, f"-arch={target}", "-cubin", str(SOURCES / source)]
        _output(["nvcc", *arguments, "-o", cubin])
        usage = _output(["cuobjdump", "-res-usage", cubin])
        code = _output(["nvdisasm", "-c", cubin])
    return list(_rows(usage, code, target))


def _rows(usage: str, code: str, target: str) -> Iterable[Row]:
    """One row a kernel, from cuobjdump's resource usage and nvdisasm's listing."""
    section = re.compile(r"^\.text\.(\S+):\n(.*?)(?=^\.text\.|\Z)", re.MULTILINE | re.DOTALL)
    listings = dict(section.findall(code))
    found = re.findall(r"Function (\S+):\s*\n\s*(.*)", usage)
    names = _output(["c++filt"], "\n".join(name for name, _ in found)).splitlines()
    for (mangled, text), name in zip(found, names, strict=True):
        figures = {key: int(n) for key, n in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", text)}
        listing = listings[mangled]
        kernel, variant = _describe(name)
        yield Row(
            kernel,
            variant,
            target,
            registers=figures["REG"],
            spills=figures["STACK"] + figures["LOCAL"],
            shared=figures["SHARED"],
            load=_widest(re.findall(r"\bLDG\.E([.\w]*)", listing)),
            store=_widest(re.findall(r"\bSTG\.E([.\w]*)", listing)),
            entry=_before(r"\bLDG\b", listing),
        )


def _describe(name: str) -> tuple[str, str]:
    """("normalise", "bfloat16 channels-last 16 bytes") for an instance of a kernel.

    Shared memory is the static part; the single-launch kernels add what the tensor needs.
    """
    found = _TEMPLATE.search(name.replace("fastgan::cuda::", ""))
    if found is None:
        raise ValueError(f"expected an instance of a kernel, got {name}")
    kind, own, dtype, vector, layout, activation = found.groups()
    kernel = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", own).lower()
    if dtype is None:
        return kernel, kind
    access = "one element" if vector == "1" else "16 bytes"
    alone = ", leaky relu alone" if activation == "LeakyRelu" else ""
    return kernel, f"{DTYPES[dtype]} {LAYOUTS[layout or '0']} {access}{alone}"


def _before(pattern: str, listing: str) -> int | None:
    """The instructions before the first that matches; None where none does."""
    found = re.search(pattern, listing)
    return len(re.findall(r"/\*[0-9a-f]{4,}\*/", listing[: found.start()])) - 1 if found else None


def _widest(suffixes: list[str]) -> int:
    """Bytes of the widest access: .256, .128, .64, .U16 ..., 32 bits where no width is named."""
    widths = [re.search(r"\.(?:[US])?(256|128|64|16|8)\b", suffix) for suffix in suffixes]
    return max((int(found.group(1)) if found else 32 for found in widths), default=0) // 8


def _tool(name: str) -> str | None:
    """nvcc and c++filt of the machine; the disassemblers also from the triton wheel."""
    if name == "nvcc" and os.environ.get("CUDACXX"):
        return os.environ["CUDACXX"]
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if name == "nvcc" and (path := shutil.which(name) or shutil.which(f"{home}/bin/{name}")):
        return path
    triton = importlib.util.find_spec("triton")
    if name in ("cuobjdump", "nvdisasm") and triton and triton.origin:
        bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
        return str(bundled) if bundled.exists() else shutil.which(name)
    return shutil.which(name)


def _torch_include() -> Path | None:
    spec = importlib.util.find_spec("torch")
    include = Path(spec.origin).parent / "include" if spec and spec.origin else None
    return include if include and (include / "torch/csrc/stable/library.h").is_file() else None


def _output(command: list[str], text: str | None = None) -> str:
    program = _tool(command[0]) or command[0]
    done = subprocess.run(
        [program, *command[1:]], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed on {command[-1]}: {done.stderr.strip()[-2000:]}")
    return done.stdout
