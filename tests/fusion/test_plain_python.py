"""Forwards with ordinary Python in them, which are fused as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trapping import is_whole, model_of, trap

pytestmark = pytest.mark.usefixtures("form")

# What stands outside of the class, ends its constructor, begins its body, and its forward's own.
PLAIN = {
    "shape arithmetic": ("", "", "", "n, c, h, w = y.shape\ny = y.view(n, c, h * w).view(y.shape)"),
    "size": ("", "", "", "y = y.reshape(y.size(0), -1).reshape(y.size())"),
    "constants": ("GAIN = 2.0", "", "", "y = y * GAIN + math.pi"),
    "constants of a class": ("", "", "GAIN = 2.0", "y = y * self.GAIN"),
    "constants of types": ("SIZES = (1, 2, 3)", "", "", "for s in SIZES: y = y * s"),
    "module list": (
        "",
        "self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))",
        "",
        "for i, layer in enumerate(self.layers): y = layer(y) * (i + 1)",
    ),
    "slice of a module list": (
        "",
        "self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))",
        "",
        "for layer in self.layers[:-1]: y = layer(y)",
    ),
    "module dict": (
        "",
        "self.layers = nn.ModuleDict({'a': nn.Conv2d(4, 4, 1)})",
        "",
        "for name, layer in self.layers.items(): y = layer(y)",
    ),
    "zip": (
        "",
        "self.a, self.b = (nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2)) for _ in 'ab')",
        "",
        "for a, b in zip(self.a, self.b): y = a(y) + b(y)",
    ),
    "getattr by name": (
        "",
        "for i in range(2): setattr(self, f'conv{i}', nn.Conv2d(4, 4, 1))",
        "",
        "for i in range(2): y = getattr(self, f'conv{i}')(y)",
    ),
    "flag": ("", "self.flag = True", "", "y = y * 2 if self.flag else y"),
    "training": ("", "", "", "y = y * 2 if self.training else y * 3"),
    "None": ("", "self.extra = None", "", "if self.extra is not None: y = self.extra(y)"),
    "string mode": ("", "self.mode = 'up'", "", "if self.mode == 'up': y = y * 2"),
    "mode in": ("", "self.mode = 'up'", "", "if self.mode in ('up', 'down'): y = y * 2"),
    "unknown mode": (
        "",
        "self.mode = 'up'",
        "",
        "if self.mode == 'up': y = y * 2\nelse: raise ValueError(f'mode: {self.mode!r}')",
    ),
    "match a string": (
        "",
        "self.mode = 'up'",
        "",
        "match self.mode:\n    case 'up': y = y * 2\n    case _: y = y * 3",
    ),
    "enumeration": (
        "import enum\nclass Mode(enum.Enum):\n    UP, DOWN = 1, 2",
        "self.mode = Mode.UP",
        "",
        "if self.mode is Mode.UP: y = y * 2",
    ),
    "helper": ("def act(x, slope=0.2): return F.leaky_relu(x, slope)", "", "", "y = act(y, 0.1)"),
    "helper of keywords": (
        "def act(x, *, slope: float = 0.2, **rest): return F.leaky_relu(x, slope, **rest)",
        "",
        "",
        "y = act(y, slope=0.3, inplace=False)",
    ),
    "helper with a None": (
        "def scaled(x, gain=None):\n    return x if gain is None else x * gain",
        "",
        "",
        "y = scaled(scaled(y), 2)",
    ),
    "sqrt": ("", "", "", "y = y / math.sqrt(2)"),
    "sqrt imported": ("from math import sqrt", "", "", "y = y / sqrt(2)"),
    "numpy constant": ("", "", "", "y = y * float(np.sqrt(2.0)) + float(np.prod([2, 3]))"),
    "operators": ("import operator", "", "", "y = functools.reduce(operator.add, [y, y, y])"),
    "dictionary of layers": (
        "ACTS = {'relu': F.relu, 'tanh': torch.tanh}",
        "self.name = 'tanh'",
        "",
        "y = ACTS[self.name](y)",
    ),
    "function attribute": ("", "self.act = F.relu", "", "y = self.act(y)"),
    "partial attribute": (
        "",
        "self.act = functools.partial(F.leaky_relu, negative_slope=0.3)",
        "",
        "y = self.act(y)",
    ),
    "skips": (
        "",
        "self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))",
        "",
        "skips = []\nfor layer in self.layers:\n    y = layer(y)\n    skips.append(y)\n"
        "while skips: y = y + skips.pop()",
    ),
    "dictionary of values": (
        "",
        "",
        "",
        "found = {'a': y}\nfound['b'] = y * 2\ny = torch.cat([*found.values()], 1)[:, :4]",
    ),
    "data class": (
        "@dataclasses.dataclass\nclass Config:\n    gain: float = 2\n    steps: int = 2",
        "self.config = Config()",
        "",
        "for _ in range(self.config.steps): y = y * self.config.gain",
    ),
    "method": ("", "", "def scaled(self, x, by): return x * by", "y = self.scaled(y, 2)"),
    "static method": ("", "", "@staticmethod\ndef scaled(x): return x * 2", "y = self.scaled(y)"),
    "class method": ("", "", "gain = 2\n@classmethod\ndef scaled(cls, x): return x * cls.gain",
                     "y = self.scaled(y)"),
    "property": ("", "self.k = 2", "@property\ndef gain(self): return self.k * 2",
                 "y = y * self.gain"),
    "comprehension": ("", "", "", "y = sum([y * k for k in range(3)])"),
    "generator": ("", "", "", "y = sum(y * k for k in range(3) if k != 1)"),
    "lambda": ("", "", "", "double = lambda a: a * 2\ny = double(y)"),
    "inner function": ("", "", "", "k = 3\ndef times(a): return a * k\ny = times(y)"),
    "walrus": ("", "self.k = 3", "", "if (k := self.k) > 2: y = y * k"),
    "star": ("", "", "", "a, *rest = (y, y * 2, y * 3)\ny = torch.cat([a, *rest], 1)[:, 4:8]"),
    "type of self": ("", "", "", "y = y * len(type(self).__name__)"),
    "isinstance of a layer": (
        "",
        "self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.ReLU()])",
        "",
        "for a in self.layers: y = a(y) * 2 if isinstance(a, nn.Conv2d) else a(y)",
    ),
    "parameters": (
        "",
        "self.scale, self.shift = nn.Parameter(torch.ones(4, 1, 1)), None\n"
        "self.register_buffer('table', torch.ones(4, 1, 1))",
        "",
        "y = y * self.scale + self.table\nif self.shift is not None: y = y + self.shift",
    ),
    "shape of a parameter": (
        "",
        "self.scale = nn.Parameter(torch.ones(4))",
        "",
        "y = y * self.scale.view(1, self.scale.shape[0], 1, 1)",
    ),
    "interpolate": ("", "", "", "y = F.interpolate(y, scale_factor=2, mode='nearest')"),
    "interpolate to a size": ("", "", "", "y = F.interpolate(y, size=y.shape[2:])"),
    "pad": ("", "", "", "y = F.pad(y, (1, 1, 1, 1), mode='reflect')"),
    "max pool": ("", "", "", "y = F.max_pool2d(y, 2)"),
    "chunk": ("", "", "", "a, b = y.chunk(2, dim=1)\ny = torch.cat([a * torch.sigmoid(b), b], 1)"),
    "einsum": (
        "",
        "self.register_buffer('table', torch.ones(4, 4))",
        "",
        "y = torch.einsum('nchw,ck->nkhw', y, self.table)",
    ),
    "scripting": ("", "", "", "if not torch.jit.is_scripting(): y = y * 2"),
    "unused print": ("", "self.verbose = False", "", "if self.verbose: print(y.shape)"),
    "unused logger": (
        "import logging\nLOGGER = logging.getLogger('x')",
        "self.verbose = False",
        "",
        "if self.verbose: LOGGER.info('here')",
    ),
    "unused warning": (
        "import warnings",
        "self.old = False",
        "",
        "if self.old: warnings.warn('old')",
    ),
    "wrapper": (
        "def scaled(by):\n    def wrap(f):\n        @functools.wraps(f)\n"
        "        def inner(*a, **k): return f(*a, **k) * by\n        return inner\n"
        "    return wrap\n"
        "@scaled(2)\ndef act(x): return F.relu(x)",
        "",
        "",
        "y = act(y)",
    ),
    "callable object": (
        "class Scale:\n    def __init__(self, by): self.by = by\n"
        "    def __call__(self, x): return x * self.by",
        "self.scale = Scale(3)",
        "",
        "y = self.scale(y)",
    ),
    "context": ("", "", "", "with contextlib.nullcontext(): y = y * 2"),
    "channels": ("", "", "", "y = y * self.conv.out_channels / self.conv.kernel_size[0]"),
    "annotated": ("import typing", "", "", "k: typing.Optional[int] = 2\ny: Tensor = y * k"),
    "docstring": ("def f(x):\n    'doubles'\n    return x * 2", "", "", "'here'\ny = f(y)"),
    "assertion": ("", "self.k = 2", "", "assert self.k == 2, f'k is {self.k}'\ny = y * self.k"),
    "slots": ("", "", "", "s = slice(0, 4)\ny = y[:, s]\ny = y[..., None].squeeze(-1)"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _after_torch_compile() -> None:
    """From its first use on, torch.compile follows all modules that begin and end."""
    torch.compile(nn.Identity(), backend="eager")(torch.zeros(1))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_python_is_fused(name: str):
    outside, init, body, forward = PLAIN[name]
    fused = trap(lambda: model_of(forward, outside, init, body))
    assert is_whole(fused), str(fused.fusion_report)
    assert fused.fusion_report.fused == 2
