"""Where the time of a call on a few thousand values goes: BatchNormAct2d, and the two it replaces.

    python -m bench.small_calls

Each level is timed by the thread's own clock, in turns, the least of many rounds: what others do on
the machine does not count. A row is the difference of two levels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d
from fastgan.ops import norm_act
from fastgan.ops.core import native

SHAPE, SLOPE = (1, 64, 8, 8), 0.2
CALLS, ROUNDS = 100, 40
ROWS = (
    "nn.Module.__call__", "forward of the modules", "the function in Python", "autograd nodes",
    "operators without a gradient", "backward pass",
)  # fmt: skip
Call = Callable[[], object]


def ours(training: bool, x: Tensor) -> tuple[list[Call], nn.Module]:
    """From the whole call to what its operators take, without a gradient."""
    layer = BatchNormAct2d(SHAPE[1], negative_slope=SLOPE).train(training)
    layer(x)  # loads the library
    given = layer.running_mean, layer.running_var, layer.weight, layer.bias
    rest = training, 0.1, 1e-5, 0, SLOPE, 1, False, False, "auto"

    def operator() -> Tensor:
        found: Tensor = native.WITH_AUTOGRAD.norm_act(x, *given, *rest)
        return found

    return [
        lambda: layer(x),
        lambda: layer.forward(x),
        lambda: norm_act(x, *given, training, negative_slope=SLOPE),
        operator,
        without_gradient(operator),
    ], layer


def theirs(training: bool, x: Tensor) -> tuple[list[Call], nn.Module]:
    norm, act = nn.BatchNorm2d(SHAPE[1]).train(training), nn.LeakyReLU(SLOPE, inplace=True)
    given = norm.running_mean, norm.running_var, norm.weight, norm.bias

    def operators() -> Tensor:
        y = torch.batch_norm(
            x, norm.weight, norm.bias, norm.running_mean, norm.running_var, training, 0.1, 1e-5,
            False,
        )  # fmt: skip
        return torch._C._nn.leaky_relu_(y, SLOPE)

    return [
        lambda: act(norm(x)),
        lambda: act.forward(norm.forward(x)),
        lambda: F.leaky_relu(F.batch_norm(x, *given, training), SLOPE, inplace=True),
        operators,
        without_gradient(operators),
    ], nn.Sequential(norm, act)


def without_gradient(call: Callable[[], Tensor]) -> Call:
    def run() -> None:
        with torch.no_grad():
            call()

    return run


def backward(module: nn.Module, gradient: Tensor) -> Call:
    x = torch.randn(SHAPE).to(memory_format=torch.channels_last).requires_grad_()

    def run() -> None:
        module(x).backward(gradient)
        x.grad = None

    return run


def microseconds(calls: list[Call]) -> list[float]:
    """The least of one call of each."""
    least = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            started = time.thread_time()
            for _ in range(CALLS):
                call()
            least[i] = min(least[i], (time.thread_time() - started) / CALLS * 1e6)
    return least


def parts(levels: list[float]) -> list[float]:
    """By ROWS, of the levels and last of all a forward and a backward pass."""
    *inward, both = levels
    between = [a - b for a, b in pairwise(inward)]
    return [*between, inward[-1], both - inward[0]]


def table(training: bool) -> str:
    x = torch.randn(SHAPE).to(memory_format=torch.channels_last)
    gradient = torch.ones_like(x)
    found = [make(training, x) for make in (ours, theirs)]
    calls = [[*levels, backward(module, gradient)] for levels, module in found]
    times = microseconds([call for of_each in calls for call in of_each])
    half = len(times) // 2
    columns = [parts(times[:half]), parts(times[half:])]
    lines = ["| µs | BatchNormAct2d | BatchNorm2d, LeakyReLU |", "|---|---|---|"]
    lines += [f"| {row} | {a:.1f} | {b:.1f} |" for row, a, b in zip(ROWS, *columns, strict=True)]
    own, other = (times[0], times[half - 1]), (times[half], times[-1])
    for name, a, b in zip(("forward", "forward and backward"), own, other, strict=True):
        lines.append(f"| **{name}** | {a:.1f} ({a / b:.2f} of the two) | {b:.1f} |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    for training in (True, False):
        print(f"\n{'Training' if training else 'Evaluation'}, {list(SHAPE)}, float32\n")
        print(table(training))


if __name__ == "__main__":
    main()
