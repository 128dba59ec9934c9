"""The table of docs/fusion.md: what `fuse` does to the architectures of tests/zoo on this CPU.

    python -m bench.zoo_table            # measures, and writes the table into docs/fusion.md
    python -m bench.zoo_table patchgan   # these rows alone

Each training pass (forward and backward, float32) runs as it is and fused, in turn within one run,
in both layouts; the ratio is the median of the paired ratios, with its 95 % interval. Errors are
those of outputs, gradients and running statistics against float64, over PyTorch's own.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.paired import interleave, ratio_interval
from bench.test_fuse import SIZES
from fastgan import fuse
from fastgan.ops import convolution_form

ROOT = Path(__file__).resolve().parent.parent
for room in ("ops", "zoo"):
    sys.path.insert(0, str(ROOT / "tests" / room))
from test_zoo import inputs, relative_errors, results  # noqa: E402
from zoo import ZOO, Model  # noqa: E402

BEGIN, END = "<!-- table: python -m bench.zoo_table -->\n", "<!-- end of table -->\n"
SECONDS = 1.2  # of timed rounds, for each model and layout
ROUNDS = 9, 41  # at least, at most
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def training_pass(model: nn.Module, arguments: list[Tensor]) -> Callable[[], object]:
    parameters = list(model.parameters())

    def run() -> None:
        for p in parameters:
            p.grad = None
        sum(y.square().mean() for y in tree_leaves(model(*arguments))).backward()

    return run


def speed(name: str, channels_last: bool) -> str:
    """original over fused, with its interval; empty where the layout does not exist."""
    width, batch = SIZES[name]
    original = ZOO[name].build(width=width)
    layout = LAYOUTS.get(max(p.dim() for p in original.parameters()))
    arguments = [torch.randn(batch, *shape) for shape in ZOO[name].inputs]
    if channels_last:
        if layout is None:
            return ""
        original.to(memory_format=layout)
        of_layout = {dims: f for dims, f in LAYOUTS.items() if f is layout}
        arguments = [
            x.to(memory_format=of_layout.get(x.dim(), torch.preserve_format)) for x in arguments
        ]
    models = {"original": original, "fused": fuse(copy.deepcopy(original))}
    runs = {key: training_pass(model, arguments) for key, model in models.items()}
    start = time.perf_counter()
    for run in runs.values():
        run()
    took = time.perf_counter() - start
    rounds = max(ROUNDS[0], min(ROUNDS[1], int(SECONDS / took)))
    times = interleave(runs, rounds)
    found = ratio_interval(times["original"], times["fused"])
    return f"{found.value:.2f} ({found.low:.2f}–{found.high:.2f})"


def parity(model: Model) -> str:
    """The largest error of the fused blocks over PyTorch's own of the same kind."""
    original = model.build(width=model.narrow)
    exact = copy.deepcopy(original).double()
    arguments = inputs(model)
    with convolution_form("composed"):
        own = results(fuse(copy.deepcopy(original)), arguments)
    theirs, wide = results(original, arguments), results(exact, arguments)
    pairs = relative_errors(own, theirs, wide)
    return f"{max(a / max(b, 1e-7) for _, a, b in pairs):.1f}"


def row(name: str) -> str:
    torch.manual_seed(0)
    report = fuse(ZOO[name].build(width=ZOO[name].narrow)).fusion_report
    blocks = f"{report.fused} of {len(report)}"
    cells = [name, blocks, parity(ZOO[name]), speed(name, False), speed(name, True)]
    line = f"| {' | '.join(cells)} |"
    print(line, flush=True)
    return line


HEADING = [
    "| architecture | blocks fused | error over PyTorch's | speed, contiguous | channels-last |",
    "|---|---|---|---|---|",
]


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in ZOO]
    if unknown:
        raise SystemExit(f"no architecture {', '.join(unknown)}; there are {', '.join(ZOO)}")
    for name in names or ZOO:
        put(name, row(name))


def put(name: str, line: str) -> None:
    """Puts a row into the table, in the order of the zoo."""
    path = ROOT / "docs" / "fusion.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {known.split("|")[1].strip(): known for known in table.strip().splitlines()[2:]}
    rows[name] = line
    lines = [*HEADING, *(rows[known] for known in ZOO if known in rows)]
    path.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
