"""What this machine has, and which backends can run on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata

import torch

import fastgan
from fastgan.ops import available
from fastgan.ops.core import native


def report() -> str:
    """Versions, devices and backends; for each backend that cannot run, why."""
    sections = {
        "versions": _versions(),
        "devices": _devices(),
        "compilers": _compilers(),
        "backends": {name: reason or "available" for name, reason in available().items()},
        "extras": _extras(),
    }
    lines = []
    for title, rows in sections.items():
        lines.append(title)
        lines += [f"  {name:12} {value}" for name, value in rows.items()]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    found = {"fastgan": fastgan.__version__, "python": platform.python_version()}
    for package in ("torch", "triton", "numpy", "safetensors", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["cuda"] = f"torch is built for {torch.version.cuda or 'no CUDA'}"
    record = native.build_record()
    if "cuda_archs" in record:
        archs = ", sm_".join(record["cuda_archs"])
        found["cuda"] += f", the kernels with {record['cuda_version']} for sm_{archs}"
    return found


def _devices() -> dict[str, str]:
    cpu = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    devices = {"cpu": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = (
            f"{properties.name}, sm_{properties.major}{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB, "
            f"CUDA kernels: {native.why_no_cuda(index) or 'built for it'}"
        )
    return devices


def _compilers() -> dict[str, str]:
    return {
        "C++": shutil.which(os.environ.get("CXX", "g++")) or "not found",
        "nvcc": shutil.which("nvcc") or "not found",
    }


def _extras() -> dict[str, str]:
    missing = "not installed: pip install 'fastgan[tensorboard]'"
    return {
        "tensorboard": missing if importlib.util.find_spec("tensorboard") is None else "installed"
    }
