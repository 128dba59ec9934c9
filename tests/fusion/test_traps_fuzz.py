"""Random models with Python in their forwards; their state changes at random between calls."""

from __future__ import annotations

import random
from typing import Any

import pytest
from torch import nn
from trapping import assert_same, fused_and_original, globals_of, is_whole, model_of

pytestmark = pytest.mark.usefixtures("form")

CHUNK = 10  # models a test
# A factor that a forward reads, and what changes it; `{g}` is a number of its own.
FACTORS = {
    "SCALE": "names.SCALE = {g}",
    "LIST[0]": "names.LIST[0] = {g}",
    "len(LIST)": "names.LIST.append({g})",
    "TABLE['a']": "names.TABLE['a'] = {g}",
    "TABLE.get('b', 1.5)": "names.TABLE['b'] = {g}",
    "CONFIG.gain": "names.CONFIG.gain = {g}",
    "CONFIG.more[1]": "names.CONFIG.more[1] = {g}",
    "float(ARRAY[1])": "names.ARRAY[1] = {g}",
    "self.gain": "model.gain = {g}",
    "self.gains['x']": "model.gains['x'] = {g}",
    "self.common": "type(model).common = {g}",
    "self.twice": "model.gain = {g}",
    "self.fixed()": "type(model).fixed = staticmethod(lambda: {g})",
    "self.act(1.5)": "model.act = lambda a: a * {g}",
    "closed()": "names.change({g})",
    "defaulted()": "names.defaulted.__defaults__ = ([{g}],)",
    "(2.0 if self.flag else 3.0)": "model.flag = not model.flag",
    "(2.0 if self.training else 3.0)": "model.training = not model.training",
    "(2.0 if 'up' in MODES else 3.0)": "names.MODES.discard('up')",
    "math.sqrt(self.gain + 9)": "model.gain = {g}",
    "sum(k for k in self.steps)": "model.steps = (1, 2, {g})",
    "(k := self.gain)": "model.gain = {g}",
}
IMPURE = [
    "random.random()",
    "gauss(1, 0.1)",
    "float(np.random.rand())",
    "torch.rand(1).item()",
    "(2.0 if isinstance(y, torch.Tensor) else 3.0)",
    "(2.0 if type(y) is torch.Tensor else 3.0)",
    "(2.0 if torch.is_grad_enabled() else 3.0)",
    "(2.0 if torch.is_autocast_enabled('cpu') else 3.0)",
    "(2.0 if hasattr(y, 'node') else 3.0)",
    "(2.0 if y.dtype is torch.float64 else 3.0)",
    "counted()",
    "(2.0 if y.shape[1] == 4 else 3.0)",
]
OUTSIDE = """
from random import gauss
SCALE, LIST, TABLE, MODES, COUNT = 2.0, [2.0, 3.0], {'a': 2.0}, {'up', 'down'}, []
CONFIG, ARRAY = types.SimpleNamespace(gain=2.0, more=[1.0, 2.0]), np.array([1.0, 2.0])
def closing():
    k = 2.0
    def closed(): return k
    def change(by):
        nonlocal k
        k = by
    return closed, change
closed, change = closing()
def defaulted(a=[2.0]): return a[0]
def counted():
    COUNT.append(1)
    return 1.0 + len(COUNT) % 3
def times(f):
    @functools.wraps(f)
    def wrapper(y, k): return f(y, k)
    return wrapper
"""
INIT = """
self.gain, self.gains, self.flag, self.steps = 2.0, {'x': 2.0}, True, (1, 2)
self.act = lambda a: a * 2
self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(2))
"""
BODY = """
common = 2.0
@property
def twice(self): return 2 * self.gain
@staticmethod
def fixed(): return 2.0
def scaled(self, y, k): return y * k
"""
# How a forward uses a factor; `{n}` tells helpers apart.
USES = [
    ("", "y = y * {k}"),
    ("", "y = y + {k} if self.training or {k} > 0 else y"),
    ("", "y = self.scaled(y, {k})"),
    ("", "for layer in self.layers: y = layer(y) * {k}"),
    ("", "y = sum([y * {k} for _ in range(2)])"),
    ("", "parts = {{'a': y, 'b': y * {k}}}; y = torch.cat(list(parts.values()), 1)[:, 2:6]"),
    ("def use{n}(y, self): return y * {k}", "y = use{n}(y, self)"),
    ("@times\ndef use{n}(y, k): return y * k", "y = use{n}(y, {k})"),
    ("def use{n}(y, self):\n    yield y\n    yield y * {k}", "y = sum(use{n}(y, self))"),
    (
        "class Use{n}:\n    def __call__(self, y, model): return y * {of_model}",
        "y = Use{n}()(y, self)",
    ),
    ("", "y = (lambda a: F.leaky_relu(a, 0.1) * {k})(y)"),
    ("", "y, (n, c, h, w) = y * {k}, y.shape; y = y.reshape(n, c, w, h)"),
]


def random_model(number: int) -> tuple[dict[str, str], list[str]]:
    """(its parts, as of `model_of`, what changes the state that it reads)."""
    draw = random.Random(number)
    outside, forward, changes = [OUTSIDE], [], []
    for n in range(draw.randint(1, 4)):
        impure = draw.random() < 0.12
        factor = draw.choice(IMPURE if impure else list(FACTORS))
        if not impure:
            changes.append(FACTORS[factor].format(g=round(draw.uniform(0.5, 4), 2)))
        helper, line = draw.choice(USES)
        words = {"k": factor, "n": n, "of_model": factor.replace("self.", "model.")}
        outside.append(helper.format(**words))
        forward.append(line.format(**words))
    draw.shuffle(changes)
    parts = {"forward": "\n".join(forward), "outside": "\n".join(outside)}
    return {**parts, "init": INIT, "body": BODY}, changes


def check(number: int) -> bool:
    """Whether the random model was traced as a whole; AssertionError if it does other things."""
    parts, changes = random_model(number)
    fused, original = fused_and_original(lambda: model_of(**parts))
    whole = is_whole(fused)
    try:
        assert_same(fused, original)
        for change in changes:
            for model in (fused, original):
                names: dict[str, Any] = {"model": model, "names": globals_of(model)}
                exec(change, names)
            assert_same(fused, original)
    except AssertionError as error:
        raise AssertionError(f"model {number}: {parts['forward']}\n{changes}\n{error}") from error
    assert isinstance(fused, nn.Module)
    return whole


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    count = 3000 if metafunc.config.getoption("--long") else 40
    metafunc.parametrize("first", range(0, count, CHUNK))


def test_random_models_do_what_they_did(first: int):
    whole = sum(check(number) for number in range(first, first + CHUNK))
    assert whole > 0  # else the tests of the others say nothing
