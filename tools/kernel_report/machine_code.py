"""Compiles a launch of a Triton kernel with no GPU, and reads the machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import conv_part
from .compare import Row
from .digests import hashed
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


def inputs(launch: Launch, target: str) -> str:
    """A digest of all that the row of a launch follows from, but for Triton itself."""
    _forget_lines(launch.function)
    here = Path(__file__)
    return hashed(
        here.read_bytes(),
        here.with_name("loop.py").read_bytes(),
        launch.function.cache_key,
        sorted(launch.options.items()),
        TARGETS[target],
        [getattr(launch, name) for name in ("signature", "constexprs", "attributes")],
        _is_matrix(launch, target),
        _is_lean(launch, target),
    )


def _forget_lines(function: Any) -> None:
    """Takes the line on which it stands out of a function's `cache_key`, and of those it calls."""
    from triton.runtime.jit import JITCallable

    if function.starting_line_number != 1:
        function.starting_line_number, function.hash = 1, None
        for name in function.fn.__code__.co_names:
            if isinstance(called := function.fn.__globals__.get(name), JITCallable):
                _forget_lines(called)


def _is_matrix(launch: Launch, target: str) -> bool:
    return conv_part.is_matrix(launch.kernel, launch.variant, TARGETS[target][0] == "cuda")


def _is_lean(launch: Launch, target: str) -> bool:
    return conv_part.is_lean(launch.kernel, launch.variant) and target == "sm_90"


def compiled_launch(launch: Launch, target: str) -> Any:
    """What Triton's compiler makes of one launch for one target."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=launch.function,
        signature=launch.signature,
        constexprs=launch.constexprs,
        attrs=launch.attributes,
    )
    return triton.compile(source, target=GPUTarget(*TARGETS[target]), options=launch.options)


def compile_launch(launch: Launch, target: str) -> Row:
    """Compiles one launch for one target and reads the machine code."""
    compiled = compiled_launch(launch, target)
    nvidia = TARGETS[target][0] == "cuda"
    figures = (_read_nvidia if nvidia else _read_amd)(compiled)
    if _is_matrix(launch, target):
        code = compiled.asm["ptx" if nvidia else "amdgcn"]
        figures["matrix"] = len(re.findall(MATRIX[target], code))
    if _is_lean(launch, target):
        figures |= _read_loop(compiled)
    return Row(launch.kernel, launch.variant, target, **figures)


def tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def told(compiled: Any, by: str, *options: str) -> str:
    """What one of NVIDIA's tools, which come with Triton, tells of the machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool(by)), *options, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _read_nvidia(compiled: Any) -> dict[str, int]:
    """Registers and stack from the machine code; widths from the PTX, which ptxas keeps (one of the
    tests disassembles to see it): a disassembly takes longer than the compilation.
    """
    usage = told(compiled, "cuobjdump", "-res-usage")
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
    found = matrix_loop(told(compiled, "nvdisasm", "-c"), compiled.metadata.num_warps)
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
