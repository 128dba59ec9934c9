"""Models with Python in their forwards, and whether fused they still do what they did."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastgan

PRELUDE = """
import contextlib, dataclasses, functools, itertools, math, os, random, time, types
from collections import OrderedDict, defaultdict, deque, namedtuple
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""
MODEL = """
class Model({base}):
    {body}
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        {init}

    def forward(self, x):
        y = F.leaky_relu(self.norm(self.conv(x)), 0.2)
        {forward}
        return self.inner(y)
"""
_count = 0


def module_of(source: str) -> types.ModuleType:
    """A Python module of its own, which copies and pickles find again."""
    global _count
    _count += 1
    module = types.ModuleType(f"trap_{_count}")
    sys.modules[module.__name__] = module
    exec(compile(PRELUDE + source, module.__name__, "exec"), vars(module))
    return module


def model_of(
    forward: str, outside: str = "", init: str = "", body: str = "", base: str = "nn.Module"
) -> nn.Module:
    """A model whose forward goes through `forward` with a value y between two fused blocks.

    Args:
        outside, init, body: stand before the class, end its constructor, begin its forward.
    """

    def indented(lines: str, by: int) -> str:
        return lines.strip("\n").replace("\n", "\n" + " " * by)

    model = MODEL.format(
        base=base, body=indented(body, 4), init=indented(init, 8), forward=indented(forward, 8)
    )
    torch.manual_seed(0)
    return module_of(f"{outside}\n{model}").Model().double()


def outcome(model: nn.Module, seed: int, training: bool, size: int = 6) -> list[Any]:
    """The output and the gradients of a call from given random states."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    x = torch.randn(4, 3, size, size, dtype=torch.float64, requires_grad=True)
    model.train(training)
    torch.manual_seed(seed)
    y = model(x)
    if not isinstance(y, Tensor) or not y.requires_grad:
        return [y]
    given = [x, *(p for p in model.parameters() if p.requires_grad)]
    return [y, *torch.autograd.grad(y.square().sum(), given, allow_unused=True)]


@contextmanager
def circumstances(number: int) -> Iterator[None]:
    """Modes in which a call may be made. Autocast leaves float64 alone, but can be asked for."""
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=number == 2)
    with torch.set_grad_enabled(number != 1), autocast:
        yield


def assert_same(fused: nn.Module, original: nn.Module) -> None:
    """Calls of both from the same states: two as they are, and one in each other mode."""
    for call, numbers in enumerate(((0,), (0, 1, 2))):
        for training in (True, False):
            for number in numbers:
                found = []
                for model in (fused, original):
                    with circumstances(number):
                        found.append(outcome(model, call, training, 6 + 2 * call))
                own, theirs = found
                assert len(own) == len(theirs), (own, theirs)
                for a, b in zip(own, theirs, strict=True):
                    if isinstance(b, Tensor):
                        torch.testing.assert_close(a, b)
                    else:
                        assert a is b or a == b


def fused_and_original(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Two that share nothing, not even the globals of their code."""
    original, fused = build(), build()
    fused.load_state_dict(original.state_dict())
    return fastgan.fuse(fused), original


def globals_of(model: nn.Module) -> Any:
    return sys.modules[type(model).__module__]


def is_whole(model: nn.Module) -> bool:
    """Whether the model's own forward was traced."""
    return "_fusion_plan" in vars(model)


def trap(build: Callable[[], nn.Module], *changes: Callable[[nn.Module, Any], None]) -> nn.Module:
    """Fused and original do the same, also after each change of the Python around them.

    A change takes the model and the globals of its code. Returns the fused model.
    """
    fused, original = fused_and_original(build)
    assert_same(fused, original)
    for change in changes:
        for model in (fused, original):
            change(model, globals_of(model))
        assert_same(fused, original)
    return fused
