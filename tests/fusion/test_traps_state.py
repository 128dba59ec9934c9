"""Forwards that read Python's state, which changes between calls, or by themselves."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trapping import assert_same, fused_and_original, globals_of, is_whole, model_of, trap

from fastgan.fusion.plan import plan_of

pytestmark = pytest.mark.usefixtures("form")

# What stands somewhere, how a float is read of it, and what changes it in place.
STATES = {
    "float": ("2.0", "{s}", None),
    "tuple": ("(2.0, 3)", "{s}[0]", None),
    "list": ("[2.0, 3]", "{s}[0]", "{s}[0] = 5.0"),
    "list length": ("[2.0, 3]", "len({s})", "{s}.append(1)"),
    "list order": ("[2.0, 3]", "{s}[0]", "{s}.reverse()"),
    "nested list": ("[[2.0], [3]]", "{s}[0][0]", "{s}[0][0] = 5.0"),
    "list in a tuple": ("([2.0], 3)", "{s}[0][0]", "{s}[0].insert(0, 5.0)"),
    "dict": ("{{'a': 2.0}}", "{s}['a']", "{s}['a'] = 5.0"),
    "dict key": ("{{'a': 2.0}}", "{s}.get('b', 3)", "{s}['b'] = 7.0"),
    "dict order": ("{{'a': 2.0, 'b': 3.0}}", "next(iter({s}.values()))", "{s}['a'] = {s}.pop('a')"),
    "nested dict": ("{{'a': {{'b': 2.0}}}}", "{s}['a']['b']", "{s}['a']['b'] = 5.0"),
    "default dict": ("defaultdict(float, a=2.0)", "{s}['a']", "{s}['a'] += 3"),
    "ordered dict": ("OrderedDict(a=2.0)", "{s}['a']", "{s}.update(a=5.0)"),
    "set": ("{{2.0, 3.0}}", "sum({s})", "{s}.add(7.0)"),
    "set member": ("{{'half'}}", "(0.5 if 'half' in {s} else 2.0)", "{s}.discard('half')"),
    "deque": ("deque([2.0, 3.0])", "{s}[0]", "{s}.rotate(1)"),
    "array": ("np.array([2.0, 3.0])", "float({s}[0])", "{s}[0] = 5.0"),
    "array sum": ("np.ones(3)", "float({s}.sum())", "{s} *= 3"),
    "array in a list": ("[np.ones(3)]", "float({s}[0].max())", "{s}[0].fill(4)"),
    "large array": ("np.ones(5000)", "float({s}.mean())", "{s} *= 3"),
    "array scalar": ("np.float64(2)", "float({s})", None),
    "object": ("types.SimpleNamespace(a=2.0)", "{s}.a", "{s}.a = 5.0"),
    "own object": ("Holding()", "{s}.value", "{s}.value = 5.0"),
    "own object's class": ("Holding()", "{s}.common", "Holding.common = {s}.common + 3"),
    "own object's method": ("Holding()", "{s}.get()", "{s}.value = 7.0"),
    "own object's property": ("Holding()", "{s}.double", "{s}.value = 7.0"),
    "own object's list": ("Holding()", "{s}.items[0]", "{s}.items[0] = 7.0"),
    "slots": ("Slotted()", "{s}.value", "{s}.value = 5.0"),
    "dataclass": ("Config()", "{s}.scale", "{s}.scale = 5.0"),
    "dict of objects": ("{{'a': Config()}}", "{s}['a'].scale", "{s}['a'].scale = 5.0"),
    "named tuple": ("Pair(2.0, [3.0])", "{s}.b[0]", "{s}.b[0] = 5.0"),
    "attribute dict": ("AttributeDict(a=2.0)", "{s}.a", "{s}.a = 5.0"),
    "function": ("double", "{s}()", None),
    "function attribute": ("counting", "{s}.value", "{s}.value = 5.0"),
    "function default": ("defaulted", "{s}()", "{s}.__defaults__ = (5.0,)"),
    "function default list": ("listed", "{s}()", "{s}.__defaults__[0].insert(0, 5.0)"),
    "closure": ("COUNTER[0]", "{s}()", "COUNTER[1]()"),
    "partial": ("functools.partial(identity, LIST)", "{s}()[0]", "LIST[0] += 3.0"),
    "bound method": ("HOLDING.get", "{s}()", "HOLDING.value += 3.0"),
    "class": ("Holding", "{s}.common", "{s}.common += 3.0"),
    "class list": ("Holding", "{s}.shared[0]", "{s}.shared[0] += 3.0"),
    "cycle": ("CYCLE", "{s}[1][1][0]", "{s}[0] = 5.0"),
    "iterator": ("itertools.count(2)", "next({s})", None),
    "bool or int": ("[True]", "(2.0 if type({s}[0]) is bool else 3.0)", "{s}[0] = 1"),
}
OUTSIDE = """
class Holding:
    common, shared = 2.0, [2.0]
    def __init__(self): self.value, self.items = 2.0, [2.0]
    def get(self): return self.value
    @property
    def double(self): return 2 * self.value
class Slotted:
    __slots__ = ("value",)
    def __init__(self): self.value = 2.0
class AttributeDict(dict):
    def __getattr__(self, name): return self[name]
    def __setattr__(self, name, value): self[name] = value
@dataclasses.dataclass
class Config:
    scale: float = 2.0
Pair = namedtuple("Pair", "a b")
def double(): return 2.0
def counting(): pass
counting.value = 2.0
def defaulted(a=2.0): return a
def listed(a=[2.0]): return a[0]
def identity(a): return a
LIST, HOLDING = [2.0], Holding()
CYCLE = [2.0, []]
CYCLE[1].extend([CYCLE, CYCLE])
def counter():
    n = 2.0
    def get(): return n
    def more():
        nonlocal n
        n += 3
    return get, more
COUNTER = counter()
"""
PLACES = {
    "attribute": {"init": "self.held = {value}", "s": "self.held", "of": "model.held"},
    "class attribute": {
        "body": "held = staticmethod({value}) if isinstance({value}, types.FunctionType)"
        " else {value}",
        "s": "self.held",
        "of": "type(model).held",
    },
    "global": {"after": "HELD = {value}", "s": "HELD", "of": "HELD"},
    "global of a helper": {
        "after": "HELD = {value}\ndef helper(y): return y * {read}",
        "s": "HELD",
        "of": "HELD",
        "forward": "y = helper(y)",
    },
    "closure": {
        "after": (
            "def make(held):\n"
            "    def helper(y): return y * {read}\n"
            "    return helper, held\n"
            "helper, HELD = make({value})"
        ),
        "s": "held",
        "of": "HELD",
        "forward": "y = helper(y)",
    },
    "default": {
        "after": "HELD = {value}\ndef helper(y, held=HELD): return y * {read}",
        "s": "held",
        "of": "HELD",
        "forward": "y = helper(y)",
    },
    "object": {
        "after": "HOLDER = types.SimpleNamespace(held={value})",
        "s": "HOLDER.held",
        "of": "HOLDER.held",
    },
    "parent class": {
        "after": "class Parent(nn.Module):\n    held = {value}",
        "base": "Parent",
        "s": "super().held",
        "of": "Parent.held",
    },
}
FUNCTIONS = {"function", "function attribute", "function default", "function default list"}
FUNCTIONS |= {"closure", "bound method"}
COMMON = [(s, ("attribute", "global")[i % 2]) for i, s in enumerate(STATES)]
COMMON += [(s, p) for s in ("list", "own object", "array") for p in PLACES]
ALL = [(s, p) for s in STATES for p in PLACES]
ALL = [(s, p) for s, p in ALL if p != "parent class" or s not in FUNCTIONS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_changes_are_noticed:
        pairs = ALL if metafunc.config.getoption("--long") else list(dict.fromkeys(COMMON))
        metafunc.parametrize(("state", "place"), pairs)


def model_with(state: str, place: str) -> nn.Module:
    value, read, _ = STATES[state]
    parts = dict(PLACES[place])
    s = parts.pop("s")
    parts.pop("of")
    words = {"value": value.format(), "read": read.format(s=s)}
    parts.setdefault("forward", "y = y * {read}")
    for name, text in parts.items():
        for word, replacement in words.items():
            text = text.replace("{" + word + "}", replacement)
        parts[name] = text
    parts["outside"] = OUTSIDE + parts.pop("after", "")
    return model_of(**parts)


def changes_of(state: str, place: str) -> list[Any]:
    """In place, and another value in the same place."""
    _, _, change = STATES[state]
    of = PLACES[place]["of"]

    def run(code: str) -> Any:
        return lambda model, names: exec(code, {**vars(names), "model": model, "names": names})

    found = [] if change is None else [run(change.format(s=of))]
    if place not in ("closure", "default"):
        value = STATES[state][0].format().replace("2", "4")
        found.append(run(f"{'names.' * of.isupper()}{of} = {value}"))
    return found


def test_changes_are_noticed(state: str, place: str):
    trap(lambda: model_with(state, place), *changes_of(state, place))


def test_other_changes_are_noticed():
    def method(model: nn.Module, names: Any) -> None:
        type(model).scaled = lambda self, y: y * 5

    def helper(model: nn.Module, names: Any) -> None:
        names.helper = lambda y: y * 7

    def shadow(model: nn.Module, names: Any) -> None:
        model.scaled = lambda y: y * 9

    def appears(model: nn.Module, names: Any) -> None:
        model.extra = 3.0

    def layer(model: nn.Module, names: Any) -> None:
        model.layers[1] = nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64)
        nn.init.constant_(model.layers[1].weight, 0.1)
        nn.init.zeros_(model.layers[1].bias)

    def mode(model: nn.Module, names: Any) -> None:
        model.act.slope = 0.5

    def parameter(model: nn.Module, names: Any) -> None:
        model.shift = nn.Parameter(torch.ones(1, dtype=torch.float64))

    fused = trap(
        lambda: model_of(
            "y = self.scaled(y)\n"
            "y = helper(y)\n"
            "for layer in self.layers: y = layer(y)\n"
            "if hasattr(self, 'extra'): y = y * self.extra\n"
            "if self.shift is not None: y = y + self.shift\n"
            "y = y * self.act.slope",
            "def helper(y): return y * 3\nclass Act(nn.ReLU): slope = 0.1",
            "self.act = Act()\n"
            "self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))\n"
            "self.shift = None",
            "def scaled(self, y): return y * 2",
        ),
        method, helper, shadow, appears, layer, mode, parameter,
    )  # fmt: skip
    assert is_whole(fused)


# A forward that changes what it, or the next call, reads.
COUNTERS = {
    "attribute": ("self.calls += 1; y = y * self.calls", "self.calls = 0"),
    "list": ("self.calls.append(1); y = y * len(self.calls)", "self.calls = []"),
    "dict": ("self.calls['n'] = self.calls.get('n', 0) + 1; y = y * self.calls['n']",
             "self.calls = {}"),
    "object": ("self.calls.n += 1; y = y * self.calls.n",
               "self.calls = types.SimpleNamespace(n=0)"),
    "array": ("self.calls += 1; y = y * float(self.calls[0])", "self.calls = np.zeros(1)"),
    "array of an object": ("self.calls.n[0] += 1; y = y * float(self.calls.n[0])",
                           "self.calls = types.SimpleNamespace(n=np.zeros(1))"),
    "global": ("global N; N += 1; y = y * N", "pass"),
    "global list": ("CALLS.append(1); y = y * len(CALLS)", "pass"),
    "global helper": ("y = counted(y)", "pass"),
    "class attribute": ("Model.n += 1; y = y * self.n", "Model.n = 0"),
    "class attribute by type": ("type(self).n += 1; y = y * self.n", "Model.n = 0"),
    "class list": ("self.shared.append(1); y = y * len(self.shared)", "Model.shared = []"),
    "closure": ("y = y * COUNT()", "pass"),
    "default": ("y = remembering(y)", "pass"),
    "function attribute": ("y = attributed(y)", "pass"),
    "iterator": ("y = y * next(self.numbers)", "self.numbers = iter(range(1, 99))"),
    "cycle": ("y = y * next(NUMBERS)", "pass"),
    "child": ("self.act.n = getattr(self.act, 'n', 0) + 1; y = y * self.act.n",
              "self.act = nn.ReLU()"),
    "setattr": ("setattr(self, 'n', getattr(self, 'n', 0) + 1); y = y * self.n", "pass"),
}  # fmt: skip
COUNTERS_OUTSIDE = """
N, CALLS, NUMBERS = 0, [], itertools.cycle([1.0, 2.0, 3.0])
def counted(y):
    CALLS.append(1)
    return y * len(CALLS)
def counter():
    n = 0
    def count():
        nonlocal n
        n += 1
        return n
    return count
COUNT = counter()
def remembering(y, seen=[]):
    seen.append(1)
    return y * len(seen)
def attributed(y):
    attributed.n += 1
    return y * attributed.n
attributed.n = 0
"""


@pytest.mark.parametrize("counter", COUNTERS)
def test_counters_count(counter: str):
    forward, init = COUNTERS[counter]
    build = lambda: model_of(forward, COUNTERS_OUTSIDE, init)  # noqa: E731
    fused = trap(build)
    assert not is_whole(fused)


@pytest.mark.parametrize("counter", [c for c in COUNTERS if c not in ("iterator", "cycle")])
def test_tracing_itself_counts_nothing(counter: str):
    forward, init = COUNTERS[counter]
    fused, original = fused_and_original(lambda: model_of(forward, COUNTERS_OUTSIDE, init))
    for name in ("N", "CALLS"):
        assert getattr(globals_of(fused), name) == getattr(globals_of(original), name)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(fused.eval()(x), original.eval()(x))


@pytest.mark.parametrize("state", ["list", "array", "own object", "closure", "set"])
@pytest.mark.parametrize("place", ["attribute", "global"])
def test_copies_and_pickles_notice_changes_of_their_own(state: str, place: str):
    fused, original = fused_and_original(lambda: model_with(state, place))
    others = [(copy.deepcopy(fused), copy.deepcopy(original))]
    if (state, place) != ("closure", "attribute"):
        others.append(tuple(pickle.loads(pickle.dumps(m)) for m in (fused, original)))
    for own, theirs in others:
        assert_same(own, theirs)
    for change in changes_of(state, place):
        for number, (own, theirs) in enumerate(others):
            for model in (own, theirs) if number == 0 or place == "attribute" else ():
                change(model, globals_of(model))
            assert_same(own, theirs)


@pytest.mark.parametrize("read", ["os.environ['TRAP']", "os.getenv('TRAP')"])
def test_the_environment_is_asked_in_each_call(read: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRAP", "2")
    trap(
        lambda: model_of(f"y = y * float({read})"),
        lambda model, names: monkeypatch.setenv("TRAP", "5"),
    )


def test_values_that_are_set_anew_keep_the_plan():
    fused, original = fused_and_original(lambda: model_of("y = y * self.k", init="self.k = 2.5"))
    for model in (fused, original):
        model.k = float(np.float64(2.5))
    assert plan_of(fused)._holds()
    assert_same(fused, original)
    fused.k = original.k = 3.5
    assert not plan_of(fused)._holds()
