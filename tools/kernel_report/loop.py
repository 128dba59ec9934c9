"""What a matrix product's loop costs, read off the machine code: no GPU.

A matrix unit waits where the instructions around its own take longer to issue than it takes to
multiply. A step of Hopper's loop, for a whole block: an HGMMA of 64 x N x 16 (x 8 of TF32) keeps
the four matrix units of a multiprocessor busy for N / 2 cycles, since they make 2,048 multiply-adds
of 16 bits a cycle (989 TFLOP/s are those of 132 multiprocessors at 1.83 GHz), and its four
schedulers issue one instruction a cycle each, every warp's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LABEL = re.compile(r"^(\.L\w+):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S.*?)\s*;")
_BRANCH = re.compile(r"^BRA\b.*`\((\.L\w+)\)")
_MATRIX = re.compile(r"^HGMMA\.64x(\d+)x\d+")


class Loop(NamedTuple):
    """One turn of a loop: a warp's instructions, and cycles of a block of warps."""

    instructions: int
    issue_cycles: int
    matrix_cycles: int


def matrix_loop(assembly: str, warps: int) -> Loop | None:
    """The innermost loop that multiplies on Hopper's matrix unit, of `nvdisasm -c`; None where
    there is none.
    """
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif instruction := _INSTRUCTION.match(line):
            code.append(instruction[1])
    found = []
    for end, text in enumerate(code):
        branch = _BRANCH.match(text)
        start = labels.get(branch[1], end + 1) if branch else end + 1
        body = code[start : end + 1]
        columns = sum(int(m[1]) for m in map(_MATRIX.match, body) if m)
        if columns:
            found.append((len(body), columns))
    if not found:
        return None
    length, columns = min(found)
    groups = warps // 4
    return Loop(length, length * groups, columns // 2 * groups)
