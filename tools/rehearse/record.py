"""The launches of code that runs on a virtual GPU, in their order.

How each is counted, as nodes of a CUDA graph:

- a Triton kernel: one, seen where it would be launched;
- an operator of the C++ library: one, though a norm of more than one pass takes two or three;
- an operator of ATen: one, but none for views and for allocations, and more for those that
  `_nodes` knows to be several kernels. cuDNN's own helpers (layout, workspace) are not known here.
"""

from __future__ import annotations

import importlib
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan.kernels.core.precision import float32_precision
from fastgan.ops.core import dispatch, native
from fastgan.ops.norm_act_conv import fused

Kind = Literal["triton", "cuda", "aten"]


@dataclass(frozen=True)
class Spec:
    """A tensor argument without its values. offset: of its address, to 16 bytes."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int


@dataclass(frozen=True)
class Launch:
    """What goes to the device: a Triton kernel, an operator of the C++ library or one of ATen.

    Attributes:
        nodes: of a CUDA graph.
        captured: whether a graph was being recorded.
        where: the line of fastgan that asked for it.
        waits: why the host would wait for the device here, or what a capture would refuse.
        function, arguments, options, grid: of Triton kernels; arguments of C++ operators, too.
    """

    kind: Kind
    name: str
    nodes: int
    captured: bool
    where: str = ""
    waits: str = ""
    function: Any = None
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class Call:
    """Raw kernels called by name, with arguments as `described`, before they launch anything.

    module: the op ("norm_act"), or "fused": `fastgan.ops.norm_act_conv.fused`, whose argument
    beside the tensors (companions, rows) comes last. precision: of products of float32 at the time,
    "tf32" or "ieee".
    """

    op: str
    module: str
    arguments: tuple[Any, ...]
    precision: str = "ieee"


def _call(op: str, module: str, *arguments: Any) -> Call:
    return Call(op, module, tuple(map(described, arguments)), float32_precision(_CUDA))


_CUDA = torch.device("cuda")


class Recorder(TorchDispatchMode):
    """Records what runs within it, on the threads of autograd too.

    Args:
        capturing: whether a graph is being recorded.
    """

    def __init__(self, capturing: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.calls: list[Call] = []
        self._capturing = capturing
        self._silent = threading.local()
        self._pinned: list[Tensor] = []

    def add(self, kind: Kind, name: str, nodes: int = 1, **rest: Any) -> None:
        if not getattr(self._silent, "value", False):
            self.launches.append(Launch(kind, name, nodes, self._capturing(), _where(), **rest))

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Within, this thread's launches are not recorded."""
        before, self._silent.value = getattr(self._silent, "value", False), True
        try:
            yield
        finally:
            self._silent.value = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.partition("::")[2]
        if name == "_pin_memory":  # of fake tensors torch knows no such thing
            self._pinned.append(torch.empty_like(args[0]))
            return self._pinned[-1]
        made = None
        if func._schema.returns:  # else it changes values alone, of which there are none
            # Generators are the CPU's: fake tensors need none.
            kwargs = {k: None if k == "generator" else v for k, v in kwargs.items()}
            made = func(*args, **kwargs)
            if name in ("convolution", "convolution_backward"):
                made = _as_cudnn_lays_out(name, args, made)
        tensors = [*_tensors(args), *_tensors(tuple(kwargs.values())), *_tensors((made,))]
        if any(t.is_cuda for t in tensors):
            nodes = _nodes(func, name, args, made)
            if nodes:
                self.add("aten", name, nodes, waits=self._waits(name, args, made))
        return made

    def _waits(self, name: str, args: Any, made: Any) -> str:
        """Why a copy between host and device makes the host wait, or breaks a capture."""
        if name not in ("_to_copy", "copy_"):
            return ""
        source = args[1] if name == "copy_" else args[0]
        target = args[0] if name == "copy_" else made
        if source.device.type == target.device.type:
            return ""
        if source.is_cuda:
            return "the device's values are read on the host"
        pinned = any(source is t for t in self._pinned)
        return "" if pinned else "pageable memory of the host is copied"


_PACKAGE = f"{Path(fastgan.__file__).parent}/"


def _where() -> str:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE):
            return f"{path.removeprefix(_PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _as_cudnn_lays_out(name: str, args: Any, made: Any) -> Any:
    """The outputs of a convolution, channels-last where cuDNN makes them so.

    Fake tensors have the memory of the kernels that the CPU build would run.
    """
    x, weight = args[:2] if name == "convolution" else args[1:3]
    if x.dim() != 4 or torch.channels_last not in map(suggest_memory_format, (x, weight)):
        return made
    outputs = made if isinstance(made, tuple) else (made,)
    laid_out = tuple(
        t if t is None or t.dim() != 4 else torch.empty_like(t, memory_format=torch.channels_last)
        for t in outputs
    )
    return laid_out if isinstance(made, tuple) else laid_out[0]


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


_ALLOCATES = (
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "device",
    "_unsafe_view", "lift_fresh", "detach", "alias", "set_", "resize_",
)  # fmt: skip

# Operators that are compositions on CUDA: kernels of each.
_COMPOSED = {
    "binary_cross_entropy_with_logits": 5,  # log_sigmoid, 1 - t, times, minus, mean
    "native_dropout": 1,
    "var_mean": 1,
    "linalg_vector_norm": 1,
    "clamp_min": 1,
}


def _nodes(func: Any, name: str, args: Any, made: Any) -> int:
    """Nodes of a graph that an operator of ATen becomes."""
    if name in _ALLOCATES:
        return 0
    returns = func._schema.returns
    if returns and all(r.alias_info and not r.alias_info.is_write for r in returns):
        return 0  # views
    if not any(t.numel() for t in (*_tensors((made,)), *_tensors(args))):
        return 0
    if name == "_to_copy" and made is args[0]:
        return 0
    if name == "convolution_backward":  # one library call a gradient; the bias's is a sum
        return sum(map(bool, args[-1]))
    if name == "convolution":  # cuDNN's, and the bias is added by a kernel of its own
        return 1 + (args[2] is not None)
    if name.startswith(("_foreach_", "_amp_foreach_", "_fused_")):
        return _multi_tensor(args)
    return _COMPOSED.get(name, 1)


# ATen/native/cuda/MultiTensorApply.cuh: tensors and blocks that one launch takes, by the number of
# lists; a block is so many values.
_LISTS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS, _BLOCK = 320, 65536


def _multi_tensor(args: Any) -> int:
    lists = [a for a in args if isinstance(a, (list, tuple)) and list(_tensors(a))]
    depth = min(max(1, sum(len(a) == len(lists[0]) for a in lists)), 5)
    sizes = [t.numel() for t in lists[0]]
    blocks = sum(math.ceil(n / _BLOCK) for n in sizes)
    return max(math.ceil(len(sizes) / _LISTS[depth]), math.ceil(blocks / _BLOCKS), 1)


@contextmanager
def recording(backend: str, capturing: Callable[[], bool]) -> Iterator[Recorder]:
    """Within, fastgan's operators run on fake tensors as they run on a GPU, and are recorded.

    Args:
        backend: "cuda", as where the C++ kernels are built for the GPU, or "triton", as where they
            are not.
        capturing: whether a graph is being recorded.
    """
    from triton.runtime.jit import JITFunction

    recorder = Recorder(capturing)
    losses, adam = (importlib.import_module(f"fastgan.kernels.{k}") for k in ("mean_loss", "adam"))
    of_losses = _Watched(recorder, "mean_loss", SimpleNamespace(**vars(losses)))
    of_adam = _Watched(recorder, "adam", SimpleNamespace(**vars(adam)))

    def launch(function: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        del warmup
        if callable(grid):
            grid = grid(dict(zip(function.arg_names, args, strict=False)) | kwargs)
        # Aliases: a gradient that something else refers to is copied where it is accumulated.
        args = tuple(map(_aliases, args))
        recorder.add(
            "triton", function.__name__, function=function, arguments=args, options=kwargs,
            grid=tuple(grid),
        )  # fmt: skip

    missing = None if backend == "cuda" else "not built, in this rehearsal"
    kernels = dispatch.kernels

    def watched(name: str, op: str, x: Tensor) -> Any:
        return _Watched(recorder, op, kernels(name, op, x))

    with (
        patch.object(JITFunction, "run", launch),
        patch.object(dispatch, "is_eager", _is_eager),
        patch("fastgan.ops.norm_act_conv.is_eager", _is_eager),
        patch.object(dispatch, "kernels", watched),
        patch.object(losses, "mean_loss", of_losses.mean_loss),
        patch.object(losses, "mean_loss_backward", of_losses.mean_loss_backward),
        patch.object(adam, "adam_", of_adam.adam_),
        patch.object(fused, "forward", _watched_fused(recorder, "forward", "companions")),
        patch.object(fused, "backward", _watched_fused(recorder, "backward", "rows")),
        patch.object(native, "why_no_cuda", lambda device=None: missing),
        patch.object(native, "KERNELS", _CudaKernels(recorder)),
        recorder,
    ):
        yield recorder


def _aliases(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_aliases, value))
    return value.detach() if isinstance(value, Tensor) else value


def _is_eager(*tensors: Tensor | None) -> bool:
    """`dispatch.is_eager`, but that neither fake tensors nor the recorder count."""
    del tensors
    return not (torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def _watched_fused(recorder: Recorder, op: str, beside: str) -> Callable[..., Any]:
    """A function of `fused` that notes each call; beside: its keyword argument."""
    function = getattr(fused, op)

    def call(a: Any, backend: str, **given: Any) -> Any:
        recorder.calls.append(_call(op, "fused", a, given[beside]))
        return function(a, backend, **given)

    return call


class _Watched:
    """The raw kernels of an op: notes each call before it runs."""

    def __init__(self, recorder: Recorder, op: str, kernels: Any) -> None:
        self._recorder, self._op, self._kernels = recorder, op, kernels

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._kernels, name)

        def call(*args: Any) -> Any:
            self._recorder.calls.append(_call(name, self._op, *args))
            return kernel(*args)

        return call


_MODULES = {
    "norm_act_train": "norm_act", "norm_act_eval": "norm_act", "norm_act_backward": "norm_act",
    "update_running_stats_": "norm_act", "bias_act": "bias_act",
    "bias_act_backward": "bias_act", "gather_images": "gather_images",
}  # fmt: skip


class _CudaKernels:
    """In place of the C++ library's: outputs as Triton's launchers allocate them."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(f"fastgan.kernels.{_MODULES[name]}")

        def call(*args: Any) -> Any:
            self._recorder.add("cuda", name, arguments=tuple(map(described, args)))
            with self._recorder.silent():
                return getattr(module, name)(*args)

        return call


def described(value: Any) -> Any:
    """A tensor as its `Spec`, those in tuples too; anything else as it is."""
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple):
        held = map(described, value)
        return type(value)(*held) if hasattr(value, "_fields") else tuple(held)
    if not isinstance(value, Tensor):
        return value
    return Spec(tuple(value.shape), value.stride(), value.dtype, value.data_ptr() % 16)
