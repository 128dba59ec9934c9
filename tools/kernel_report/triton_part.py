"""The Triton kernels, compiled exactly as the launchers launch them, with no GPU.

The launchers run on meta tensors while `JITFunction.run` is replaced by a recorder, so the report
holds the specialisations, tiles and options that are shipped, not a second list of them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from . import conv_part
from .compare import Row, Section, Select
from .loop import matrix_loop

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "sm_120": ("cuda", 120, 32),
    "gfx942": ("hip", "gfx942", 64),
}
# The matrix units' instructions, as PTX or AMD's assembly has them.
MATRIX = {
    "sm_80": r"\bmma\.sync\.",
    "sm_90": r"\bwgmma\.mma_async\.",
    "sm_100": r"\btcgen05\.mma\.",
    "sm_120": r"\bmma\.sync\.",
    "gfx942": r"\bv_mfma_",
}
POINTERS = {
    "float32": "*fp32",
    "bfloat16": "*bf16",
    "float16": "*fp16",
    "uint8": "*u8",
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


@dataclass(frozen=True)
class Launch:
    """One recorded launch, in the terms of triton.compiler.ASTSource."""

    kernel: str
    variant: str
    function: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    attributes: dict[tuple[int], list[list[Any]]]
    options: dict[str, int]
    targets: tuple[str, ...] = ()  # none: all


def unavailable() -> str | None:
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 replaces the compiler"
    return None if _tool("cuobjdump").exists() else f"triton {triton.__version__} has no cuobjdump"


def collect(select: Select) -> Section:
    """Compiles every selected launch for every selected target, in two processes."""
    import triton

    jobs = [
        (index, target)
        for index, launch in enumerate(launches())
        for target in launch.targets or TARGETS
        if select.wants(launch.kernel, launch.variant, target)
    ]
    # Not fork: torch has started threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=context) as pool:
        rows = tuple(pool.map(_compile, jobs, chunksize=8))
    return Section(f"triton {triton.__version__}", rows)


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
        _gather_images()
        _mean_loss()
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


def describe(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    """What the compiler would be asked for, as triton's own specialisation does it: whether a
    pointer is 16 bytes aligned (all that torch allocates are), sizes are not specialised on.
    """
    import torch
    from triton.tools.tensor_descriptor import TensorDescriptor

    names = function.arg_names
    options = {name: value for name, value in kwargs.items() if name not in names}
    bound = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    signature: dict[str, str] = {}
    constexprs: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, parameter in enumerate(function.params):
        value = bound[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constexprs[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[str(value.dtype).removeprefix("torch.")]
            if value.data_ptr() % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
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


def _variant(signature: dict[str, str], constexprs: dict[str, Any], options: dict[str, int]) -> str:
    """A name that is the same wherever the compiled code is, and only there."""
    pointers = [t.strip("*") for t in signature.values() if t.startswith("*")]
    boxes = [t[len("tensordesc<") : t.index("[")] for t in signature.values() if "[" in t]
    # Where there are but two, or boxes, nothing else says to what type the second converts.
    converts = boxes or len(pointers) == 2
    dtype = ">".join(dict.fromkeys(boxes + pointers)) if converts else pointers[0]
    values = {
        k: v if isinstance(v, str) else int(v) for k, v in constexprs.items() if v is not None
    }
    words = [dtype, *(f"{k}={v}" for k, v in values.items())]
    absent = [k.removesuffix("_ptr") for k, v in constexprs.items() if v is None]
    words += [f"no-{name}" for name in absent]
    words += [f"{k}={v}" for k, v in options.items()]
    return " ".join(words)


def _compile(job: tuple[int, str]) -> Row:
    index, target = job
    return compile_launch(launches()[index], target)


def compile_launch(launch: Launch, target: str) -> Row:
    """Compiles one launch for one target and reads the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=launch.function,
        signature=launch.signature,
        constexprs=launch.constexprs,
        attrs=launch.attributes,
    )
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=launch.options)
    nvidia = TARGETS[target][0] == "cuda"
    figures = (_read_nvidia if nvidia else _read_amd)(compiled)
    if conv_part.is_matrix(launch.kernel, launch.variant, nvidia):
        code = compiled.asm["ptx" if nvidia else "amdgcn"]
        figures["matrix"] = len(re.findall(MATRIX[target], code))
    if conv_part.is_lean(launch.kernel, launch.variant) and target == "sm_90":
        figures |= _read_loop(compiled)
    return Row(launch.kernel, launch.variant, target, **figures)


def _tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def _read_nvidia(compiled: Any) -> dict[str, int]:
    """Registers and stack from the machine code; widths from the PTX, which ptxas keeps (one of the
    tests disassembles to see it): a disassembly takes longer than the compilation.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(_tool("cuobjdump")), "-res-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = {name: int(n) for name, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    return {
        "registers": figures["REG"],
        "spills": figures["STACK"] + figures["LOCAL"],
        "shared": compiled.metadata.shared,
        "load": _widest_ptx(ptx, "ld"),
        "store": _widest_ptx(ptx, "st"),
    }


def _read_loop(compiled: Any) -> dict[str, int]:
    """Figures of the main loop; ValueError where there is none."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(_tool("nvdisasm")), "-c", file.name]
        code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = matrix_loop(code, compiled.metadata.num_warps)
    if found is None:
        raise ValueError(f"{compiled.metadata.name}: no loop with matrix instructions")
    return found._asdict()


def _widest_ptx(ptx: str, access: str) -> int:
    """Bytes of the widest ld.global or st.global, such as .v4.b32; 0 where there is none."""
    found = re.findall(rf"\b{access}\.global[.\w:]*?(?:\.v(\d))?\.[bfsu](\d+)\s", ptx)
    widths = [int(count or 1) * int(bits) // 8 for count, bits in found]
    if access == "ld":
        widths += [int(n, 0) for n in re.findall(r"cp\.async\.c[ag]\S* .*?, (0x\w+|\d+)", ptx)]
    return max(widths, default=0)


def _read_amd(compiled: Any) -> dict[str, int]:
    text = compiled.asm["amdgcn"]
    return {
        "registers": _amd_figure(text, "vgpr_count"),
        "spills": _amd_figure(text, "vgpr_spill_count")
        + _amd_figure(text, "sgpr_spill_count")
        + _amd_figure(text, "private_segment_fixed_size"),
        "shared": compiled.metadata.shared,
        "load": _widest_amd(text, "load"),
        "store": _widest_amd(text, "store"),
    }


def _amd_figure(text: str, name: str) -> int:
    found = re.search(rf"^\s*\.{name}:\s+(\d+)", text, re.MULTILINE)
    if not found:
        raise ValueError(f"no .{name} in the AMD metadata")
    return int(found.group(1))


def _widest_amd(text: str, access: str) -> int:
    sizes = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "ushort": 2}
    found = re.findall(rf"\b(?:global|buffer|flat)_{access}_(dwordx\d|dword|u?short)", text)
    return max((sizes[kind] for kind in found), default=0)
