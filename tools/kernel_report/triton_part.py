"""The Triton kernels, compiled exactly as the launchers launch them, with no GPU.

The launchers run on meta tensors while `JITFunction.run` is replaced by a recorder, so the report
holds the specialisations, tiles and options that are shipped, not a second list of them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

from . import conv_part
from .compare import Row, Select
from .digests import Job, hashed
from .machine_code import TARGETS, Launch, compile_launch, inputs, tool

# Of what the digests know, compiled all the same.
SAMPLE = 24

POINTERS = {
    "float32": "*fp32",
    "bfloat16": "*bf16",
    "float16": "*fp16",
    "uint8": "*u8",
    "int32": "*i32",
    "int64": "*i64",
}
# (name, N, C, spatial side): large and tiled; small enough for one launch, resident and looped;
# widths that are no multiple of 16, folded and not.
SHAPES = (
    ("large", 64, 64, 32),
    ("narrow", 64, 3, 64),
    ("odd", 64, 129, 33),
    ("planes", 512, 256, 4),
    ("resident-s", 4, 64, 4),
    ("resident-m", 64, 64, 8),
    ("resident-l", 64, 512, 4),
    ("looped", 64, 2048, 8),
)


def unavailable() -> str | None:
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 replaces the compiler"
    exists = tool("cuobjdump").exists()
    return None if exists else f"triton {triton.__version__} has no cuobjdump"


def toolchain() -> str:
    import triton

    return f"triton {triton.__version__}"


def jobs(select: Select) -> list[Job]:
    """Every selected launch on every selected target."""
    return [
        Job(key, hashed(toolchain(), inputs(launch, target)), ((index, target),))
        for index, launch in enumerate(launches())
        for target in launch.targets or TARGETS
        if select.wants(*(key := (launch.kernel, launch.variant, target)))
    ]


def compile(units: list[tuple[int, str]]) -> list[list[Row]]:
    """The rows of (index of a launch, target); many in two processes."""
    if len(units) < 50:  # a process takes as long to start
        return [_compile(unit) for unit in units]
    # Not fork: torch has started threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=context) as pool:
        return list(pool.map(_compile, units, chunksize=8))


def _compile(unit: tuple[int, str]) -> list[Row]:
    index, target = unit
    return [compile_launch(launches()[index], target)]


@cache
def launches() -> tuple[Launch, ...]:
    """Every distinct launch of the shipped configurations, in a fixed order."""
    import torch
    from triton.runtime.jit import JITFunction

    recorded: dict[tuple[str, str], Launch] = {}
    target: tuple[str, ...] = ()

    def record(function: Any, *args: Any, grid: Any, warmup: Any, **kwargs: Any) -> None:
        launch = describe(function, args, kwargs)
        known = recorded.setdefault((launch.kernel, launch.variant), launch)
        targets = tuple(dict.fromkeys(known.targets + target))
        recorded[launch.kernel, launch.variant] = replace(known, targets=targets)

    run = JITFunction.run
    JITFunction.run = record
    try:
        for dtype, channels_last, shape in product(
            (torch.float32, torch.bfloat16, torch.float16), (True, False), SHAPES
        ):
            _run_shape(dtype, channels_last, *shape)
        _largest_resident()
        _gather_images()
        _mean_loss()
        _adam()
        for name in TARGETS:
            target = (name,)
            conv_part.run(name)
    finally:
        JITFunction.run = run
    return tuple(sorted(recorded.values(), key=lambda launch: (launch.kernel, launch.variant)))


def _run_shape(dtype: Any, channels_last: bool, name: str, n: int, c: int, side: int) -> None:
    import torch

    norm_act: Any = importlib.import_module("fastgan.kernels.norm_act")
    bias_act: Any = importlib.import_module("fastgan.kernels.bias_act")
    x = torch.empty((n, c, side, side), dtype=dtype, device="meta")
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    affine = torch.empty(c, device="meta")
    # tanh, sigmoid, the order act_norm and the choice of gradients change arithmetic between the
    # same loads and stores; float16 is to the compiler what bfloat16 is. So their product with the
    # shapes is compiled only where it says something new: on the tiled path.
    large = name == "large" and channels_last
    orders = [(0, False)]
    if large and dtype != torch.float16:
        orders += [(1, False), (2, False), (0, True)]
    elif dtype == torch.float16 and not large:
        return
    stats = (affine.view(1, c), affine.view(1, c), affine, affine)
    for act, act_first in orders:
        common = (1e-5, act, 0.2, 1, act_first)
        norm_act.norm_act_train(x, affine, affine, *common)
        norm_act.norm_act_eval(x, *stats, *common)
        norm_act.norm_act_backward(x, x, *stats, *common, True, True, True)
        if not act_first:
            bias_act.bias_act(x, affine, act, 0.2)
            bias_act.bias_act_backward(x, x, act, 0.2, True)
    if large:
        common = (1e-5, 0, 0.2, 1, False)
        for training, need_dx, need_dparams in product((True, False), repeat=3):
            norm_act.norm_act_backward(x, x, *stats, *common, training, need_dx, need_dparams)
        bias_act.bias_act(x, None, 0, 0.2)
        bias_act.bias_act_backward(x, x, 0, 0.2, False)
        for average in (False, True):
            norm_act.update_running_stats_(affine, affine, *stats[:2], 0.1, n, average)


def _largest_resident() -> None:
    """A norm of 2048 values a channel in 16 bits: the most that stays in registers."""
    import torch

    norm_act: Any = importlib.import_module("fastgan.kernels.norm_act")
    affine = torch.empty(512, device="meta")
    stats = (affine.view(1, 512), affine.view(1, 512), affine, affine)
    x = torch.empty((128, 512, 4, 4), dtype=torch.bfloat16, device="meta")
    for given in (x, x.to(memory_format=torch.channels_last)):
        common = (1e-5, 0, 0.2, 1, False)
        norm_act.norm_act_train(given, affine, affine, *common)
        norm_act.norm_act_backward(given, given, *stats, *common, True, True, True)


def _gather_images() -> None:
    """Every output type with and without flips; images of 3, 1 and many channels."""
    import torch

    kernels: Any = importlib.import_module("fastgan.kernels.gather_images")
    index = torch.empty(64, dtype=torch.int64, device="meta")
    flips = torch.empty(64, dtype=torch.bool, device="meta")
    for dtype, shape in product(
        (torch.float32, torch.bfloat16, torch.float16), ((64, 64, 3), (28, 28, 1), (33, 33, 13))
    ):
        images = torch.empty((1024, *shape), dtype=torch.uint8, device="meta")
        for given in (flips, None):
            kernels.gather_images(images, index, given, dtype)


def _mean_loss() -> None:
    """Every kind of term, alone and in a pair."""
    import torch

    kernels: Any = importlib.import_module("fastgan.kernels.mean_loss")
    loss = torch.empty((), device="meta")
    for dtype, kind in product((torch.float32, torch.bfloat16), range(5)):
        x = torch.empty(128, dtype=dtype, device="meta")
        for parts in (1, 2):
            terms = [(kind, 1.0)] * parts
            kernels.mean_loss([x] * parts, terms)
            kernels.mean_loss_backward(loss, [x] * parts, terms)


def _adam() -> None:
    """Few tensors and many, with averages and copies and without."""
    import torch

    kernels: Any = importlib.import_module("fastgan.kernels.adam")
    one, none = torch.empty((), device="meta"), (None,) * 20
    for count, dtype in ((20, torch.bfloat16), (20, None), (100, torch.float16)):
        tensors = (torch.empty(4096, device="meta"),) * count
        copies = none if dtype is None else tuple(t.to(dtype) for t in tensors)
        averages, rate = (tensors, one) if dtype is torch.bfloat16 else ((None,) * count, None)
        found = one if dtype is torch.float16 else None
        scalars = one, rate, found, one, (0.5, 0.999, 1e-8, 0.0)
        kernels.adam_(*(tensors,) * 5, averages, copies, *scalars)


def describe(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    """What the compiler would be asked for, as triton's own specialisation does it: whether a
    pointer is 16 bytes aligned (all that torch allocates are), sizes are not specialised on.
    """
    import torch
    from triton.tools.tensor_descriptor import TensorDescriptor

    names = function.arg_names
    options = {name: value for name, value in kwargs.items() if name not in names}
    bound = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    signature: dict[str, Any] = {}
    constexprs: dict[str, Any] = {}
    attributes: dict[Any, list[list[Any]]] = {}
    for index, parameter in enumerate(function.params):
        value = bound[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constexprs[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[str(value.dtype).removeprefix("torch.")]
            if value.data_ptr() % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, tuple):
            signature[parameter.name] = tuple(POINTERS[str(t.dtype)[6:]] for t in value)
            aligned = [i for i, t in enumerate(value) if t.data_ptr() % 16 == 0]
            attributes |= {(index, i): [["tt.divisibility", 16]] for i in aligned}
        elif isinstance(value, TensorDescriptor):
            pointer = POINTERS[str(value.base.dtype).removeprefix("torch.")]
            signature[parameter.name] = f"tensordesc<{pointer.strip('*')}{value.block_shape}>"
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        elif parameter.do_not_specialize:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        else:
            raise ValueError(f"{function.__name__}: {parameter.name} would specialise on its value")
    variant = _variant(signature, constexprs, options)
    kernel = function.__name__.strip("_")
    return Launch(kernel, variant, function, signature, constexprs, attributes, options)


def _variant(signature: dict[str, Any], constexprs: dict[str, Any], options: dict[str, int]) -> str:
    """A name that is the same wherever the compiled code is, and only there."""
    tuples = {k: t for k, t in signature.items() if isinstance(t, tuple)}
    signature = {k: t[0] if k in tuples else t for k, t in signature.items()}
    pointers = [t.strip("*") for t in signature.values() if t.startswith("*")]
    boxes = [t[len("tensordesc<") : t.index("[")] for t in signature.values() if "[" in t]
    # Where there are but two, or boxes, nothing else says to what type the second converts.
    converts = boxes or len(pointers) == 2
    dtype = ">".join(dict.fromkeys(boxes + pointers)) if converts else pointers[0]
    values = {
        k: v if isinstance(v, str) else int(v) for k, v in constexprs.items() if v is not None
    }
    words = [dtype, *(f"{k}={len(t)}" for k, t in tuples.items())]
    words += [f"{k}={v}" for k, v in values.items()]
    absent = [k.removesuffix("_ptr") for k, v in constexprs.items() if v is None]
    words += [f"no-{name}" for name in absent]
    words += [f"{k}={v}" for k, v in options.items()]
    return " ".join(words)
