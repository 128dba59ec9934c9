"""What this machine is, how PyTorch is set up on it, and the most that it can do."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.harness.clock import clock_of
from bench.harness.source import ROOT, source_hash
from bench.paired import interleave
from fastgan.ops.core.cuda_libraries import set_cuda_libraries

_PACKAGES = ("torch", "triton", "numpy")
_ALLOCATORS = re.compile("GLIBC_TUNABLES$|LD_PRELOAD$|PYTORCH_(CUDA_)?ALLOC_CONF$|MALLOC_")
_VARIABLES = re.compile(
    f"OMP_(NUM_THREADS|WAIT_POLICY)$|FASTGAN_(CPU_ISA|BACKEND)$|{_ALLOCATORS.pattern}"
)
LARGE = 1 << 27  # bytes: beyond any cache


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor or GPU, versions, settings, commit and code: what every result is read with."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git("rev-parse", "HEAD"),
        "source": source_hash(),
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "machine": gpu() if device == "cuda" else processor(),
        "versions": {"python": platform.python_version(), **_versions()},
        "settings": settings(),
    }


def processor() -> dict[str, Any]:
    known = _cpuinfo()
    return {
        "name": known.get("model name") or platform.processor() or platform.machine(),
        # Virtual machines often name no model: the family then tells Zen 4 (25) from Zen 5 (26).
        "family": known.get("cpu family"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "cache_mib": round(last_level_cache("cpu") / 2**20, 1),
    }


def gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "sm": f"{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cache_mib": round(last_level_cache("cuda") / 2**20, 1),
    }


def settings() -> dict[str, Any]:
    """What changes a result beside the code: printed with it."""
    return {
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "cudnn_autotune": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": {k: v for k, v in os.environ.items() if _VARIABLES.match(k)},
    }


def equal_settings() -> None:
    """The same for every implementation, and at their best: no TF32 where float32 is compared,
    convolutions by the fastest algorithm that cuDNN finds, as in training."""
    torch.set_float32_matmul_precision("highest")
    set_cuda_libraries("float32")


def named(known: dict[str, Any]) -> str:
    """A processor or GPU, as `describe` tells of it, by what sets it apart from others."""
    if "sm" in known:
        return f"{known['name']} (sm_{known['sm']})"
    family = f"family {known['family']}, " if known.get("family") else ""
    return f"{known['name']} ({family}{known['cores']} cores, {known['instructions']})"


def in_words(run: dict[str, Any]) -> str:
    """The machine and the settings of a run, as a table is read with them."""
    what = run["settings"]
    tf32 = what["tf32_matmul"] or what["tf32_cudnn"]
    words = [
        named(run["machine"]),
        f"torch {run['versions']['torch']}",
        f"{what['threads']} {'thread' if what['threads'] == 1 else 'threads'}",
        f"TF32 {'on' if tf32 else 'off'}",
    ]
    if "sm" in run["machine"]:
        words.append(f"cuDNN autotune {'on' if what['cudnn_autotune'] else 'off'}")
    kept = [f"{k}={v}" for k, v in what["environment"].items() if _ALLOCATORS.match(k)]
    return ", ".join([*words, f"allocator {' '.join(kept) or 'default'}"])


def slug(device: str = "cpu") -> str:
    """A name for files: the GPU's, or the processor's with its family and instruction set."""
    known = gpu() if device == "cuda" else processor()
    family = f"family {known['family']}" if known.get("family") else ""
    words = f"{known['name']} {family} {known.get('instructions', '')}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def last_level_cache(device: str) -> int:
    """Bytes of the largest cache; 64 MiB where the system does not tell."""
    if device == "cuda":
        return int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 1 << 26))
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KM])", path.read_text().strip())
        if found:
            sizes.append(int(found[1]) << {"K": 10, "M": 20}[found[2]])
    return max(sizes, default=1 << 26)


@cache
def ceilings(device: str) -> dict[str, float]:
    """Measured, once a process: bytes a second of a copy beyond the cache (read and write both
    counted), and operations a second of the fastest of a few matrix products and convolutions, by
    dtype: on some processors the library's convolutions are faster than its products."""
    clock = clock_of(device)

    def best(amount: float, call: Callable[[], object]) -> float:
        return amount / min(interleave({"": call}, 7, 1, clock)[""])

    source, target = (torch.ones(LARGE // 4, device=device) for _ in range(2))
    found = {"bytes": best(2 * LARGE, partial(target.copy_, source))}
    sizes, image = (1024, 2048), (16, 256, 32, 32)
    if device == "cuda":
        sizes, image = (4096, 8192), (256, 512, 32, 32)
    for name in ("float32", "bfloat16"):
        like: dict[str, Any] = {"device": device, "dtype": getattr(torch, name)}
        squares = [torch.randn(n, n, **like) for n in sizes]
        x = torch.randn(image, **like).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(image[1], image[1], 3, 3, **like)
        found[name] = max(
            best(18 * x.numel() * image[1], partial(torch.conv2d, x, weight, padding=1)),
            *(best(2 * len(a) ** 3, partial(torch.mm, a, a)) for a in squares),
        )
    return found


def _versions() -> dict[str, str]:
    found = {"cuda": torch.version.cuda} if torch.version.cuda else {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _cpuinfo() -> dict[str, str]:
    """What Linux tells of the first processor; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    first = file.read_text().partition("\n\n")[0] if file.exists() else ""
    return dict(re.findall(r"^(.+?)\s*:[ \t]*(.*)$", first, re.MULTILINE))


def git(*arguments: str) -> str:
    """What git says of this tree; nothing where there is no git or no repository."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
