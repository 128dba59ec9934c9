"""Forwards that decide by what stand-ins and tensors answer differently, or by a mode."""

from __future__ import annotations

import pytest
from trapping import is_whole, model_of, trap

pytestmark = pytest.mark.usefixtures("form")

# An expression of y, true or false, that tells a tensor from a stand-in or asks for a mode.
QUESTIONS = {
    "isinstance": "isinstance(y, torch.Tensor)",
    "isinstance of several": "isinstance(y, (int, torch.Tensor))",
    "not isinstance": "not isinstance(y, torch.Tensor)",
    "type is": "type(y) is torch.Tensor",
    "type equals": "type(y) == torch.Tensor",
    "type renamed": "(lambda kind: kind(y) is torch.Tensor)(type)",
    "type mapped": "list(map(type, [y]))[0] is torch.Tensor",
    "type name": "type(y).__name__ == 'Tensor'",
    "class": "y.__class__ is torch.Tensor",
    "issubclass": "issubclass(type(y), torch.Tensor)",
    "is_tensor": "torch.is_tensor(y)",
    "hasattr missing": "hasattr(y, 'nothing_of_the_kind')",
    "hasattr": "hasattr(y, 'node')",
    "getattr": "getattr(y, 'tracer', None) is None",
    "getattr missing": "getattr(y, 'missing', 5) == 5",
    "caught": "helped(y)",
    "callable": "callable(y)",
    "grad is None": "y.grad is None",
    "grad_fn": "y.grad_fn is not None",
    "dtype is": "y.dtype is torch.float64",
    "dtype of a parameter is": "self.conv.weight.dtype is torch.float64",
    "dtype in": "y.dtype in {torch.float64}",
    "dtype in a dict": "{torch.float64: True}.get(y.dtype, False)",
    "requires_grad is": "y.requires_grad is True",
    "same": "y.contiguous() is y",
    "text": "'Proxy' in str(y)",
    "format": "'tensor' in f'{y}'",
    "repr": "repr(y.shape).startswith('torch')",
    "percent": "'tensor' in '%s' % (y,)",
    "id": "id(y) == id(y.detach().view_as(y))",
    "hash": "hash(y.dtype) == hash(torch.float64)",
    "in a set": "y.device in {torch.device('cpu')}",
    "match": "matched(y)",
    "dispatch": "dispatched(y)",
    "len caught": "length(y) == 4",
    "suppressed": "suppressed(y)",
    "dir": "'numel' in dir(y)",
    "shape": "y.shape[1] == 4",
    "value": "y.mean().item() > 0",
    "concrete": "bool(self.flag > 0)",
    "concrete item": "self.flag.item() > 0",
    "concrete list": "self.flag.tolist()[0] > 0",
    "concrete shape": "self.flag.shape == (1,)",
    "grad mode": "torch.is_grad_enabled()",
    "inference mode": "torch.is_inference_mode_enabled()",
    "autocast": "torch.is_autocast_enabled()",
    "autocast cpu": "torch.is_autocast_enabled('cpu')",
    "autocast dtype": "torch.get_autocast_dtype('cpu') is torch.bfloat16",
    "default dtype": "torch.get_default_dtype() is torch.float32",
    "threads": "torch.get_num_threads() > 0",
    "deterministic": "torch.are_deterministic_algorithms_enabled()",
    "backends": "torch.backends.cudnn.benchmark",
    "compiling": "torch.compiler.is_compiling()",
    "jit tracing": "torch.jit.is_tracing()",
    "frame": "__import__('sys')._getframe(1).f_code.co_name == 'forward'",
    "locals": "'y' in locals()",
    "evaluated": "eval('isinstance(y, torch.Tensor)')",
    "vars": "'conv' in vars(self)['_modules']",
    "dictionary": "self.__dict__['training']",
    "environment": "os.environ.get('HOME') is not None",
    "cached": "cached(3) == 3",
}
HELPERS = """
def helped(y):
    try: return y.nothing_of_the_kind
    except AttributeError: return True
def matched(y):
    match y:
        case torch.Tensor(): return True
        case _: return False
@functools.singledispatch
def dispatched(y): return False
@dispatched.register
def _(y: torch.Tensor): return True
def length(y):
    try: return len(y)
    except Exception: return 7
def suppressed(y):
    with contextlib.suppress(TypeError, RuntimeError, ValueError):
        return len(y) == 4
    return False
@functools.lru_cache(None)
def cached(n): return n
"""
ROUTES = {
    "inline": {"forward": "y = y * 2 if {question} else y * 3"},
    "helper": {
        "outside": "def helper(y, self): return y * 2 if {question} else y * 3",
        "forward": "y = helper(y, self)",
    },
    "parent": {
        "outside": (
            "class Parent(nn.Module):\n"
            "    def forward(self, y): return y * 2 if {question} else y * 3"
        ),
        "base": "Parent",
        "forward": "y = super().forward(y)",
    },
    "static method": {
        "body": "@staticmethod\ndef ask(y, self): return {question}",
        "forward": "y = y * 2 if self.ask(y, self) else y * 3",
    },
    "lambda": {
        "init": "self.ask = lambda y, self: {question}",
        "forward": "y = y * 2 if self.ask(y, self) else y * 3",
    },
    "comprehension": {"forward": "y = sum([y * 2 if {question} else y * 3 for _ in range(2)])"},
    "generator": {
        "outside": "def answers(y, self): yield {question}",
        "forward": "y = y * 2 if next(answers(y, self)) else y * 3",
    },
    "object": {
        "outside": (
            "class Asking:\n"
            "    def __call__(self, y, other): return self.ask(y, other)\n"
            "    def ask(this, y, self): return {question}"
        ),
        "init": "self.asking = Asking()",
        "forward": "y = y * 2 if self.asking(y, self) else y * 3",
    },
}
# What is asked of a tensor and recorded is right, and so is what the trace itself answers.
ANSWERED = {"concrete shape"}
COMMON = [(q, r) for q in QUESTIONS for r in ("inline", "helper")]
COMMON += [(q, r) for q in ("isinstance", "type is", "grad mode", "hasattr") for r in ROUTES]
ALL = [(q, r) for q in QUESTIONS for r in ROUTES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "route" in metafunc.fixturenames:
        pairs = ALL if metafunc.config.getoption("--long") else list(dict.fromkeys(COMMON))
        metafunc.parametrize(("question", "route"), pairs)


def test_questions_are_asked_of_tensors(question: str, route: str):
    parts = {k: v.replace("{question}", QUESTIONS[question]) for k, v in ROUTES[route].items()}
    parts["outside"] = HELPERS + parts.get("outside", "")
    parts["init"] = "self.flag = torch.ones(1)\n" + parts.get("init", "")
    fused = trap(lambda: model_of(**parts))
    assert not is_whole(fused)
    assert fused.fusion_report.fused == 1


# Regions and effects that no graph holds.
EFFECTS = {
    "no_grad": "with torch.no_grad(): y = y * 2",
    "no_grad by another name": "with OFF(): y = y * 2",
    "no_grad decorator": "y = silent(y)",
    "set_grad_enabled": "torch.set_grad_enabled(True)",
    "autocast": "with torch.autocast('cpu', enabled=False): y = y * 2",
    "checkpoint": "y = CHECKPOINT(lambda a: a * 2, y, use_reentrant=False)",
    "autograd function": "y = Doubling.apply(y)",
    "print": "print('here', end='')",
    "warning": "import warnings; warnings.warn('here')",
    "seed": "torch.manual_seed(3)",
    "module mode": "self.norm.eval()",
    "module gradients": "self.conv.requires_grad_(True)",
    "global": "global SEEN; SEEN = 1",
    "reset": "torch.set_num_threads(torch.get_num_threads())",
    "open": "open(os.devnull).close()",
}
EFFECTS_OUTSIDE = """
from torch import no_grad as OFF
from torch.utils.checkpoint import checkpoint as CHECKPOINT
@torch.no_grad()
def silent(y): return y * 2
class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y): return y * 2
    @staticmethod
    def backward(ctx, g): return g * 5
"""


@pytest.mark.filterwarnings("ignore:here")
@pytest.mark.parametrize("effect", EFFECTS)
def test_effects_are_kept(effect: str):
    fused = trap(lambda: model_of(EFFECTS[effect], EFFECTS_OUTSIDE))
    assert not is_whole(fused)
    assert fused.fusion_report.fused == 1
