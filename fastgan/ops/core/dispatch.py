"""Which backend runs an op, and why.

`reference` is plain PyTorch and runs anywhere; `cpu` and `cuda` are the compiled library; `triton`
runs on GPUs, and on CPU tensors in Triton's interpreter. The automatic choice takes the first of
`_PREFERENCE` that can run and records why the others could not (`in_torch` says when it runs as
PyTorch's own layers instead of as the reference); an explicit one never falls back.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from functools import cache
from types import NoneType
from typing import Any

import torch
from torch.autograd import forward_ad

from fastgan.ops.core import native
from fastgan.ops.core.setting import Setting

_LOG = logging.getLogger(__name__)
BACKENDS = ("reference", "cpu", "triton", "cuda")
_PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_TENSORS = frozenset((torch.Tensor, torch.nn.Parameter))
_PLAIN = _TENSORS | {NoneType}
# Names of this module: looking them up by torch's takes as long as calling them.
_is_compiling = torch.compiler.is_compiling
_watching_modes = torch._C._len_torch_dispatch_stack
_are_transforms_active = torch._C._are_functorch_transforms_active
_tracing_state = torch._C._get_tracing_state

# (device type, dtype) -> (backend, {backend passed over: why}) of every automatic choice so far.
choices: dict[tuple[str, torch.dtype], tuple[str, dict[str, str]]] = {}


class backend(Setting):
    """Chooses the backend of every fastgan op: at once, and until the `with` block ends if in one.

    >>> fastgan.backend("reference")            # from here on
    >>> with fastgan.backend("cpu"): ...        # in this block

    The setting belongs to the process, like `torch.backends`. name: "auto", "reference", "cpu",
    "triton" or "cuda"; ValueError for another. One that cannot run raises when an op is called.
    """

    names = BACKENDS


def setting() -> str:
    """The name last given to `backend`."""
    return backend.value


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def why_not(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Why a backend cannot run on tensors of a device type and dtype; None where it can."""
    if name == "reference":
        return None
    if name in ("cpu", "cuda"):
        if device != name:
            return f"the tensors are on {device}"
        reason = native.load() if name == "cpu" else native.why_no_cuda()
    else:
        if not _triton_installed():
            return "triton is not installed"
        if device == "cpu" and not _interpreting():
            return "triton runs on CPU tensors only with TRITON_INTERPRET=1"
        reason = None if device in ("cpu", "cuda") else f"the tensors are on {device}"
    if reason is None and dtype is torch.float64 and name != "cpu":
        reason = "float64 runs on reference and cpu only"
    return reason


def resolve(name: str, x: torch.Tensor) -> str:
    """The backend for x. RuntimeError where the one asked for by name cannot run."""
    device = x.device.type
    if name != "auto":
        reason = why_not(name, device, x.dtype)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} cannot run: {reason}")
        return name
    known = choices.get((device, x.dtype))
    if known is None:
        passed: dict[str, str] = {}
        for candidate in _PREFERENCE.get(device, ("reference",)):
            reason = why_not(candidate, device, x.dtype)
            if reason is None:
                break
            passed[candidate] = reason
        known = choices[device, x.dtype] = (candidate, passed)
        if not _is_compiling():
            _LOG.debug(
                "backend %s for %s on %s; passed over: %s", candidate, x.dtype, device, passed
            )
    return known[0]


def is_eager(*tensors: torch.Tensor | None) -> bool:
    """Whether a call on these tensors may pass by the dispatcher, straight to the raw kernels.

    Not while something may want to see the operator: the compiler, a trace, a function transform,
    forward mode, a dispatch mode (fake tensors among them), a tensor of another class or without
    memory.
    """
    if (
        _is_compiling()
        or _watching_modes()
        or _are_transforms_active()
        or forward_ad._current_level >= 0
        or _tracing_state() is not None
    ):
        return False
    first = tensors[0]  # in a right call all are on one device
    return _PLAIN.issuperset(map(type, tensors)) and not (first is not None and first.is_meta)


def is_transformed() -> bool:
    """Whether a transform of torch.func is active, or a level of forward-mode differentiation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_composite(name: str) -> bool:
    """Whether ops run as compositions of PyTorch's own, which every transform can see through.

    A backend asked for by name stays what runs, where the transform allows it (see library). A
    file knows nothing of backends.
    """
    return (name in ("auto", "reference") and is_transformed()) or in_plain_export()


def in_plain_export() -> bool:
    """Whether a program of PyTorch's own operators is being recorded: an ONNX file, or a trace of
    torch.jit, which runs where fastgan is not.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
    return _tracing_state() is not None


def in_cpp(name: str, x: torch.Tensor) -> bool:
    """Whether norm_act and bias_act of x are to be tried in C++, with their derivatives
    (`csrc/eager`): there is looked for the rest of what `is_eager` and the checks look for.
    """
    if (
        _is_compiling() or _watching_modes() or _are_transforms_active()
        or type(x) not in _TENSORS or not x.is_cpu
    ):  # fmt: skip
        return False
    known = choices.get(("cpu", x.dtype)) if name == "auto" else None
    chosen = known[0] if known else resolve(name, x)
    return chosen == "cpu" and native.why_no_autograd() is None


def in_torch(name: str, device: str) -> bool:
    """Whether plain eager calls run as PyTorch's own operators, under its own autograd.

    So they do on CPUs without the compiled library: the reference, which remains what is asked for
    by name and what the compiler and transforms see, takes several times as long.
    """
    return name == "auto" and device == "cpu" and native.load() is not None


def available() -> dict[str, str | None]:
    """Every backend, with None where it can run on this machine or the reason why it cannot."""
    gpu = None if torch.cuda.is_available() else "torch sees no CUDA device"
    triton = why_not("triton", "cpu" if _interpreting() else "cuda", torch.float32)
    return {
        "reference": None,
        "cpu": why_not("cpu", "cpu", torch.float32),
        "triton": triton or (None if _interpreting() else gpu),
        "cuda": why_not("cuda", "cuda", torch.float32) or gpu,
    }


def kernels(name: str, op: str, x: torch.Tensor) -> Any:
    """What holds the raw kernels of `op` ("norm_act", "bias_act") for x, as attributes."""
    chosen = resolve(name, x)
    if chosen in ("cpu", "cuda"):
        return native.KERNELS
    return module(
        f"fastgan.ops.{op}.reference" if chosen == "reference" else f"fastgan.kernels.{op}"
    )


@cache
def module(name: str) -> Any:
    """A module that is imported where it is first used, as those that need triton are."""
    return importlib.import_module(name)
