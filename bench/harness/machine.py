"""What this machine is, how PyTorch is set up on it, and the most that it can do."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.harness.clock import clock_of
from bench.harness.source import source_hash
from bench.paired import interleave

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "triton", "numpy")
_ALLOCATORS = ("GLIBC_TUNABLES", "LD_PRELOAD", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "FASTGAN_CPU_ISA", "FASTGAN_BACKEND"),
    *_ALLOCATORS,
)
LARGE = 1 << 27  # bytes: beyond any cache


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor or GPU, versions, settings, commit and code: what every result is read with."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "HEAD"),
        "source": source_hash(),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
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
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name in _VARIABLES or name.startswith("MALLOC_")
        },
    }


def equal_settings() -> None:
    """The same for every implementation, and at their best: no TF32 where float32 is compared,
    convolutions by the fastest algorithm that cuDNN finds, as in training."""
    # Here, for older trees have it elsewhere, and `--compare` imports this file on them.
    from fastgan.ops.core.cuda_libraries import set_cuda_libraries

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
    kept = [f"{k}={v}" for k, v in what["environment"].items() if k in _ALLOCATORS or "MALLOC" in k]
    return ", ".join([*words, f"allocator {' '.join(kept) or 'default'}"])


def slug(device: str = "cpu") -> str:
    """A name for files: the GPU's, or the processor's with its family and instruction set."""
    if device == "cuda":
        words = [gpu()["name"]]
    else:
        known = processor()
        family = [f"family {known['family']}"] if known["family"] else []
        words = [known["name"], *family, known["instructions"]]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


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


def ceilings(
    device: str = "cpu", rounds: int = 7, dtypes: Sequence[str] = ("float32", "bfloat16")
) -> dict[str, float]:
    """Measured: bytes a second of a copy beyond the cache (read and write both counted), and
    operations a second of the fastest of a few matrix products and convolutions, by dtype: on some
    processors the library's convolutions are faster than its products."""
    source, target = (torch.ones(LARGE // 4, device=device) for _ in range(2))
    clock = clock_of(device)
    copies = interleave({"copy": lambda: target.copy_(source)}, rounds, clock=clock)["copy"]
    found = {"bytes": 2 * LARGE / min(copies)}
    sizes = (1024, 2048) if device == "cpu" else (4096, 8192)
    for name in dtypes:
        rates = []
        for n in sizes:
            a = torch.randn(n, n, device=device).to(getattr(torch, name))
            product = partial(torch.mm, a, a)
            times = interleave({"product": product}, rounds, 1, clock)["product"]
            rates.append(2 * n**3 / min(times))
        batch, channels, side = (16, 256, 32) if device == "cpu" else (256, 512, 32)
        x = torch.randn(batch, channels, side, side, device=device).to(getattr(torch, name))
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3, device=device).to(x)
        convolve = partial(torch.conv2d, x, weight, padding=1)
        times = interleave({"convolution": convolve}, rounds, 1, clock)["convolution"]
        rates.append(2 * x.numel() * channels * 9 / min(times))
        found[name] = max(rates)
    return found


def rate(measured: dict[str, float], dtype: str) -> float:
    """Operations a second that work at a dtype may reach: without a faster unit, float32's."""
    return max(measured["float32"], measured.get(dtype, 0.0))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def _cpuinfo() -> dict[str, str]:
    """What Linux tells of the first processor; nothing elsewhere."""
    try:
        first, *_ = Path("/proc/cpuinfo").read_text().split("\n\n")
    except OSError:
        return {}
    return dict(re.findall(r"^(.+?)\s*:[ \t]*(.*)$", first, re.MULTILINE))


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
