"""Forwards that draw numbers, or ask for the time: from every source, by every route."""

from __future__ import annotations

import pytest
from trapping import is_whole, model_of, trap

pytestmark = pytest.mark.usefixtures("form")

# An expression that gives another float at each call.
SOURCES = {
    "random": "random.random()",
    "gauss": "random.gauss(0, 1)",
    "randint": "random.randint(1, 100)",
    "choice": "random.choice([0.5, 1.5, 2.5, 3.5, 4.5])",
    "shuffle": "(lambda a: random.shuffle(a) or a[0])([0.5, 1.5, 2.5, 3.5, 4.5])",
    "own generator": "GENERATOR.random()",
    "from import": "gauss(0, 1)",
    "local import": "__import__('random').random()",
    "numpy": "float(np.random.rand())",
    "numpy normal": "float(np.random.normal())",
    "numpy generator": "float(NUMPY.normal())",
    "numpy new generator": "float(np.random.default_rng(random.randrange(9)).normal())",
    "torch item": "torch.rand(1).item()",
    "torch float": "float(torch.randn(()))",
    "torch list": "torch.randperm(7).tolist()[0] + 1.0",
    "torch generator": "torch.rand(1, generator=TORCH).item()",
    "torch in place": "torch.empty(1).uniform_().item()",
    "multinomial": "torch.multinomial(torch.ones(9), 1).item() + 1.0",
    "reduced": "functools.reduce(lambda a, b: a + random.random(), range(3))",
    "mapped": "list(map(random.uniform, [0], [5]))[0]",
    "mapped C": "functools.partial(random.random)()",
    "comprehension": "sum(random.random() for _ in range(2))",
    "uuid": "(__import__('uuid').uuid4().int % 7 * 0 + random.random())",
}
GENERATORS = """
from random import gauss
GENERATOR, NUMPY = random.Random(1), np.random.default_rng(1)
TORCH = torch.Generator().manual_seed(1)
"""
# How a forward comes by it.
ROUTES = {
    "inline": {"forward": "y = y * {source}"},
    "helper": {
        "outside": "def helper(): return {source}",
        "forward": "y = y * helper()",
    },
    "helper of a helper": {
        "outside": "def deep(): return {source}\ndef helper(y): return y * deep()",
        "forward": "y = helper(y)",
    },
    "parent": {
        "outside": ("class Parent(nn.Module):\n    def forward(self, x): return x * {source}"),
        "base": "Parent",
        "forward": "y = super().forward(y)",
    },
    "parent by name": {
        "outside": ("class Parent(nn.Module):\n    def forward(self, x): return x * {source}"),
        "base": "Parent",
        "forward": "y = Parent.forward(self, y)",
    },
    "method": {"body": "def factor(self): return {source}", "forward": "y = y * self.factor()"},
    "static method": {
        "body": "@staticmethod\ndef factor(): return {source}",
        "forward": "y = y * self.factor()",
    },
    "class method": {
        "body": "@classmethod\ndef factor(cls): return {source}",
        "forward": "y = y * self.factor()",
    },
    "property": {
        "body": "@property\ndef factor(self): return {source}",
        "forward": "y = y * self.factor",
    },
    "lambda": {"init": "self.factor = lambda: {source}", "forward": "y = y * self.factor()"},
    "partial": {
        "outside": "def scaled(a, b): return a * {source} * b",
        "init": "self.scaled = functools.partial(scaled, b=2)",
        "forward": "y = self.scaled(y)",
    },
    "closure": {
        "outside": "def make(k):\n    def helper(y): return y * {source} * k\n    return helper",
        "init": "self.helper = make(2)",
        "forward": "y = self.helper(y)",
    },
    "callable object": {
        "outside": "class Factor:\n    def __call__(self): return {source}",
        "init": "self.factor = Factor()",
        "forward": "y = y * self.factor()",
    },
    "descriptor": {
        "outside": "class Factor:\n    def __get__(self, model, kind=None): return {source}",
        "body": "factor = Factor()",
        "forward": "y = y * self.factor",
    },
    "getattr": {
        "body": (
            "def __getattr__(self, name):\n"
            "    return {source} if name == 'factor' else super().__getattr__(name)"
        ),
        "forward": "y = y * self.factor",
    },
    "decorator": {
        "outside": (
            "def noisy(f):\n"
            "    @functools.wraps(f)\n"
            "    def wrapper(*a): return f(*a) * {source}\n"
            "    return wrapper\n"
            "@noisy\n"
            "def helper(y): return y"
        ),
        "forward": "y = helper(y)",
    },
    "generator": {
        "outside": "def numbers():\n    while True: yield {source}",
        "forward": "y = y * next(numbers())",
    },
    "kept generator": {
        "outside": "def numbers():\n    while True: yield {source}",
        "init": "self.numbers = numbers()",
        "forward": "y = y * next(self.numbers)",
    },
    "in a list": {"outside": "TABLE = [lambda: {source}]", "forward": "y = y * TABLE[0]()"},
    "in a dict": {
        "outside": "TABLE = dict(a=dict(b=lambda: {source}))",
        "forward": "y = y * TABLE['a']['b']()",
    },
    "default": {
        "outside": "def draw(): return {source}\ndef helper(y, f=draw): return y * f()",
        "forward": "y = helper(y)",
    },
    "walrus": {"forward": "if (k := {source}) is not None: y = y * k"},
    "condition": {"forward": "y = y * 2 if {source} > 0.7 else y * 3"},
    "index": {"forward": "y = y[:, [int(abs({source}) * 9) % 4, 1, 2, 3]]"},
    "caught": {"forward": "try: y = y * {source}\nexcept Exception: y = y * 2"},
    "context": {
        "outside": "@contextlib.contextmanager\ndef factor(): yield {source}",
        "forward": "with factor() as k: y = y * k",
    },
    "child": {
        "outside": "class Child(nn.Module):\n    def forward(self, x): return x * {source}",
        "init": "self.child = Child()",
        "forward": "y = self.child(y)",
    },
    "call": {
        "outside": (
            "class Child(nn.Module):\n"
            "    def __call__(self, x): return super().__call__(x) * {source}\n"
            "    def forward(self, x): return x * 3"
        ),
        "init": "self.child = Child()",
        "forward": "y = self.child(y)",
    },
}
# Every source by two routes, every route for two sources; --long, all of them.
COMMON = [(s, r) for s in SOURCES for r in ("inline", "helper")]
COMMON += [(s, r) for s in ("random", "numpy") for r in ROUTES if r not in ("inline", "helper")]
ALL = [(s, r) for s in SOURCES for r in ROUTES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "route" in metafunc.fixturenames:
        pairs = ALL if metafunc.config.getoption("--long") else COMMON
        metafunc.parametrize(("source", "route"), pairs)


def test_numbers_are_drawn_in_each_call(source: str, route: str):
    parts = {k: v.replace("{source}", SOURCES[source]) for k, v in ROUTES[route].items()}
    parts["outside"] = GENERATORS + parts.get("outside", "")
    fused = trap(lambda: model_of(**parts))
    if route == "child":
        assert is_whole(fused)
        assert fused.fusion_report.untraced
        assert fused.fusion_report.fused == 2
    else:
        assert not is_whole(fused)
        assert fused.fusion_report.fused == 1


@pytest.mark.parametrize(
    "draw",
    [
        "y = F.dropout(y, 0.5, self.training)",
        "y = y + torch.randn_like(y)",
        "y = y * torch.bernoulli(torch.sigmoid(y))",
        "y = F.dropout2d(y)",
        "y = F.rrelu(y, 0.1, 0.4, self.training)",
    ],
)
def test_what_the_graph_draws_itself_is_traced(draw: str):
    fused = trap(lambda: model_of(draw))
    assert is_whole(fused)
    assert fused.fusion_report.fused == 2


@pytest.mark.parametrize("clock", ["time.time()", "time.perf_counter_ns()", "time.monotonic()"])
def test_clocks_are_not_traced(clock: str):
    fused = trap(lambda: model_of(f"y = y * (1 + 0 * {clock})"))
    assert not is_whole(fused)
    assert "asks for the time" in str(fused.fusion_report)
