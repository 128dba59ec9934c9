"""The table of docs/zoo.md: what `fuse` does to the architectures of tests/zoo on this CPU.

    python -m bench.zoo_table            # measures, and writes the table into docs/zoo.md
    python -m bench.zoo_table patchgan   # these rows alone
    python -m bench.zoo_table --held-out # the second table: sizes that no choice was made on

Each training pass (forward and backward, float32) runs as it is and fused, in turn within a
process, in both layouts. Where tensors happen to lie moves a process' ratio by several percent, so
several processes are asked: the median of their medians, and the least and the greatest. A model in
which no fused step pays runs its own forward, and is not timed. Errors are those of outputs,
gradients and running statistics against float64, over PyTorch's own.
"""

from __future__ import annotations

import copy
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.paired import interleave, ratio_interval
from fastgan import fuse
from fastgan.nn.planner import Form
from fastgan.ops import convolution_form

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "zoo")]
from test_zoo import inputs, relative_errors, results  # noqa: E402
from zoo import ZOO, Model  # noqa: E402

from bench.test_fuse import SIZES  # noqa: E402

BEGIN, END = "<!-- table: python -m bench.zoo_table -->\n", "<!-- end of table -->\n"
BEGIN_HELD_OUT = "<!-- table: python -m bench.zoo_table --held-out -->\n"
HELD_OUT = {  # width, batch
    "dcgan-generator": (48, 24), "dcgan-discriminator": (48, 24),
    "torchgan-discriminator": (16, 96), "patchgan": (48, 8), "cyclegan-generator": (16, 16),
    "srgan-discriminator": (16, 32), "esrgan-discriminator": (16, 16), "dac-bands": (24, 4),
    "darknet-53": (16, 4), "nnunet-2d": (24, 8), "nnunet-3d": (8, 8),
}  # fmt: skip
OWN = "its own forward"
PROCESSES = 5
SECONDS = 1.2  # of timed rounds in each, for a model and layout
ROUNDS = 9, 41  # at least, at most
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def training_pass(model: nn.Module, arguments: list[Tensor]) -> Callable[[], object]:
    parameters = list(model.parameters())

    def run() -> None:
        for p in parameters:
            p.grad = None
        sum(y.square().mean() for y in tree_leaves(model(*arguments))).backward()

    return run


def speed(name: str, size: tuple[int, int], channels_last: bool) -> str:
    """original over fused, with its range; empty where the layout does not exist."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=fresh, max_tasks_per_child=1) as pool:
        first = pool.submit(ratio_here, name, size, channels_last).result()
        if isinstance(first, str):
            return first
        rest = [pool.submit(ratio_here, name, size, channels_last) for _ in range(PROCESSES - 1)]
        found = [first, *(float(task.result()) for task in rest)]
    return f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


def ratio_here(name: str, size: tuple[int, int], channels_last: bool) -> float | str:
    """original over fused in this process: the median of paired rounds. A text where none is."""
    width, batch = size
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
    if all(Form(run.form).plain for run in models["fused"].fusion_report.runs):
        return OWN
    took = time.perf_counter() - start
    rounds = max(ROUNDS[0], min(ROUNDS[1], int(SECONDS / took)))
    times = interleave(runs, rounds)
    return ratio_interval(times["original"], times["fused"]).value


def parity(model: Model) -> str:
    """The largest error of the fused blocks over PyTorch's own of the same kind."""
    original = model.build(width=model.narrow)
    exact = copy.deepcopy(original).double()
    arguments = inputs(model)
    with convolution_form("recompute"):
        own = results(fuse(copy.deepcopy(original)), arguments)
    theirs, wide = results(original, arguments), results(exact, arguments)
    pairs = relative_errors(own, theirs, wide)
    return f"{max(a / max(b, 1e-7) for _, a, b in pairs):.1f}"


def speeds(name: str, size: tuple[int, int]) -> list[str]:
    return [speed(name, size, False), speed(name, size, True)]


def row(name: str) -> str:
    torch.manual_seed(0)
    report = fuse(ZOO[name].build(width=ZOO[name].narrow)).fusion_report
    blocks = f"{report.fused} of {len(report)}"
    return line([name, blocks, parity(ZOO[name]), *speeds(name, SIZES[name])])


def held_out_row(name: str) -> str:
    torch.manual_seed(0)
    return line([name, *map(str, HELD_OUT[name]), *speeds(name, HELD_OUT[name])])


def line(cells: list[str]) -> str:
    text = f"| {' | '.join(cells)} |"
    print(text, flush=True)
    return text


HEADING = [
    "| architecture | blocks fused | error over PyTorch's | speed, contiguous | channels-last |",
    "|---|---|---|---|---|",
]
HELD_OUT_HEADING = [
    "| architecture | width | batch | speed, contiguous | channels-last |",
    "|---|---|---|---|---|",
]


def main(arguments: list[str]) -> None:
    held_out = "--held-out" in arguments
    names = [name for name in arguments if name != "--held-out"]
    known = HELD_OUT if held_out else ZOO
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no architecture {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        if held_out:
            put(name, held_out_row(name), BEGIN_HELD_OUT, HELD_OUT_HEADING)
        else:
            put(name, row(name), BEGIN, HEADING)


def put(name: str, text: str, begin: str, heading: list[str]) -> None:
    """Puts a row into a table of the page, in the order of the zoo."""
    path = ROOT / "docs" / "zoo.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    table, _, after = rest.partition(END)
    rows = {known.split("|")[1].strip(): known for known in table.strip().splitlines()[2:]}
    rows[name] = text
    lines = [*heading, *(rows[known] for known in ZOO if known in rows)]
    path.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
