"""Small calls of a fused model on a CPU: its layers run by steps, past their modules' calls."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from originals import assert_equal, image, sequential
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.fusion.plan import plan_of
from fastgan.nn import FusedSequential, batches_counted_together
from fastgan.ops.core import native

pytestmark = pytest.mark.skipif(not native.from_python(), reason="csrc/eager is not there")


# Two float32 networks of a few layers: norm_act and torch.nn's norm round apart, later layers pass
# it on, and gradients sum it.
OUTPUTS = {"rtol": 1e-5, "atol": 1e-5}
SUMS = {"rtol": 1e-4, "atol": 1e-5}
GRADIENTS = {"rtol": 1e-3, "atol": 1e-4}
# Activations of size one in bfloat16, whose step is 2^-8: five roundings one way, and eight.
AUTOCAST, BFLOAT16 = {"rtol": 2e-2, "atol": 2e-2}, {"rtol": 3e-2, "atol": 3e-2}


def chain(norm: type[nn.Module] = nn.BatchNorm2d, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8, **options), nn.LeakyReLU(0.2, True),
        nn.ConvTranspose2d(8, 6, 4, 2, 1), norm(6, **options), nn.ReLU(), nn.Conv2d(6, 2, 1),
        nn.Tanh(),
    )  # fmt: skip


def volumes() -> nn.Sequential:
    conv = nn.Conv3d(3, 4, (1, 2, 2), (1, 2, 1), padding=1)
    return nn.Sequential(conv, nn.BatchNorm3d(4), nn.Sigmoid(), nn.Conv3d(4, 1, 1))


def rows() -> nn.Sequential:
    conv = nn.Conv1d(3, 4, 5, dilation=2, padding=4)
    return nn.Sequential(conv, nn.LeakyReLU(0.1), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Tanh())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.norm1(self.conv1(x)))
        return F.leaky_relu(self.norm2(self.conv2(y)) + x, 0.2)


Fuse = Callable[[Any], nn.Module]


def in_sequence(model: nn.Sequential) -> nn.Module:
    """The other way to the same blocks."""
    return FusedSequential(*model, keep_activations=True)


ways = pytest.mark.parametrize("fuse", [fastgan.fuse, in_sequence])


def pair(
    original: nn.Module, *inputs: Tensor, fuse: Fuse = fastgan.fuse
) -> tuple[nn.Module, nn.Module]:
    """A fused copy that has been called, and the original, called as often."""
    fused = fuse(copy.deepcopy(original))
    for model in (fused, original):
        model(*inputs)
    return fused, original


def by_steps(model: nn.Module) -> int:
    """Of how many things in its layers the last kind of call is asked."""
    if isinstance(model, FusedSequential):
        return len(list(model._planned.ready.values())[-1].relies)
    plan = plan_of(model)
    assert plan is not None
    return len(list(plan.forwards.values())[-1].relies)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch": (chain, (2, 3, 6, 6)),
    "batch of averages": (lambda: chain(momentum=None), (2, 3, 6, 6)),
    "batch by itself": (lambda: chain(track_running_stats=False, affine=False), (2, 3, 6, 6)),
    "instance": (lambda: chain(nn.InstanceNorm2d), (2, 3, 6, 6)),
    "instance that tracks": (
        lambda: chain(nn.InstanceNorm2d, affine=True, track_running_stats=True), (2, 3, 6, 6)
    ),
    "one image": (chain, (1, 3, 6, 6)),
    "volumes": (volumes, (2, 3, 4, 6, 5)),
    "rows": (rows, (2, 3, 16)),
    "by hand": (lambda: nn.Sequential(Residual(), Residual()), (2, 3, 8, 8)),
    "activations in place": (sequential, (4, 3, 8, 8)),
}  # fmt: skip


@ways
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_later_call_gives_the_same(name: str, channels_last: bool, fuse: Fuse):
    """Outputs, gradients, statistics and counts, in both modes."""
    make, shape = MODELS[name]
    original, x = make(), torch.randn(shape)
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        original.to(memory_format=torch.channels_last)
    fused = fuse(copy.deepcopy(original))
    for training in (True, False):
        fused.train(training), original.train(training)
        for _ in range(3):
            assert_equal(fused, original, x)
            with torch.no_grad():
                torch.testing.assert_close(fused(x), original(x), **OUTPUTS)
                assert fused(x).stride() == original(x).stride()
        # Of averages no norm runs by a step; in a sequence one by hand is a layer as any other.
        assert by_steps(fused) or name in ("batch of averages", "by hand")
        torch.testing.assert_close(fused.state_dict(), original.state_dict())


def hook(model: nn.Module) -> None:
    model[1].register_forward_hook(lambda module, args, output: output + 1)


def hook_before(model: nn.Module) -> None:
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def hook_after_activation(model: nn.Module) -> None:
    model[2].register_forward_hook(lambda module, args, output: output * 3)


def slope(model: nn.Module) -> None:
    model[2].negative_slope = 0.5


def eps(model: nn.Module) -> None:
    model[4].eps = 0.1


def momentum(model: nn.Module) -> None:
    model[1].momentum = 0.9


def momentum_of_averages(model: nn.Module) -> None:
    model[1].momentum = None


def stride(model: nn.Module) -> None:
    model[6].stride = (2, 2)


def padding(model: nn.Module) -> None:
    model[0].padding_mode = "reflect"
    model[0]._reversed_padding_repeated_twice = (1, 1, 1, 1)


def evaluation_of_one(model: nn.Module) -> None:
    model[1].eval()


def another_weight(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(torch.full_like(model[0].weight, 0.1))


def a_weight_that_is_computed(model: nn.Module) -> None:
    weight = model[0].weight.detach() * 2
    del model[0].weight
    model[0].weight = weight


def a_bias(model: nn.Module) -> None:
    model[0].bias = nn.Parameter(torch.full((8,), 0.5))


def no_affine(model: nn.Module) -> None:
    model[4].weight = model[4].bias = None


def parametrized(model: nn.Module) -> None:
    torch.manual_seed(0)
    spectral_norm(model[0])


def frozen(model: nn.Module) -> None:
    model.requires_grad_(False)
    model[6].weight.requires_grad_()


def own_forward(model: nn.Module) -> None:
    model[4].forward = lambda x: x * 3


def another_layer(model: nn.Module) -> None:
    model[2] = nn.Sigmoid()


def no_running_statistics(model: nn.Module) -> None:
    model[1].running_mean = model[1].running_var = None


def wider(model: nn.Module) -> None:
    model.double()


CHANGES = [
    hook, hook_before, hook_after_activation, slope, eps, momentum, momentum_of_averages, stride,
    padding, evaluation_of_one, another_weight, a_weight_that_is_computed, a_bias, no_affine,
    parametrized, frozen, own_forward, another_layer, no_running_statistics, wider,
]  # fmt: skip


@ways
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_noticed(change: Callable[[nn.Module], None], fuse: Fuse):
    x = torch.randn(2, 3, 6, 6)
    fused, original = pair(chain(), x, fuse=fuse)
    for model in (fused, original):
        change(model)
    x = x.to(next(original.parameters()).dtype)
    for _ in range(3):
        for model in (fused, original):
            model.zero_grad()
            model(x).square().sum().backward()
        torch.testing.assert_close(fused(x), original(x), **SUMS)
        torch.testing.assert_close(fused.state_dict(), original.state_dict())
        for own, theirs in zip(fused.parameters(), original.parameters(), strict=True):
            assert (own.grad is None) == (theirs.grad is None)
            if own.grad is not None:
                torch.testing.assert_close(own.grad, theirs.grad, **GRADIENTS)


def test_a_hook_that_comes_and_goes_finds_the_steps_again():
    x = torch.randn(2, 3, 6, 6)
    fused, _ = pair(chain(), x)
    known = dict(plan_of(fused).specialized)
    seen = []
    for _ in range(3):
        handle = fused[1].register_forward_hook(lambda *_: seen.append(1))
        fused(x)
        handle.remove()
        fused(x)
    assert len(seen) == 3
    assert all(plan_of(fused).specialized[key] is made for key, made in known.items())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_goes_by_its_own_layers(how: Callable[[nn.Module], nn.Module]):
    x = torch.randn(2, 3, 6, 6)
    fused, _ = pair(chain(), x)
    copied = how(fused)
    with torch.no_grad():
        copied[0].weight.mul_(3)
        copied[4].weight.mul_(2)
    plain = fastgan.unfuse(copy.deepcopy(copied))
    for _ in range(3):
        torch.testing.assert_close(copied(x), plain(x), **OUTPUTS)


def test_other_parameters_for_a_call():
    x = torch.randn(2, 3, 6, 6)
    fused, original = pair(chain().eval(), x)
    others = {name: p.detach() * 2 for name, p in original.named_parameters()}
    for _ in range(2):
        found = [torch.func.functional_call(model, others, (x,)) for model in (fused, original)]
        torch.testing.assert_close(*found, **OUTPUTS)
        torch.testing.assert_close(fused(x), original(x), **OUTPUTS)


def test_transforms_see_through():
    x = torch.randn(2, 3, 6, 6)
    fused, original = pair(chain().eval(), x)
    found = []
    for model in (fused, original):
        gradient = torch.func.grad(lambda t, m=model: m(t).square().sum())(x)
        _, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
        each = torch.func.vmap(lambda t, m=model: m(t[None])[0])(x)
        found.append((gradient, tangent, each))
    torch.testing.assert_close(*found, **SUMS)


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def test_modes_see_each_layer():
    x = torch.randn(2, 3, 6, 6)
    fused, _ = pair(chain(), x)
    with Operators() as operators:
        fused(x)
    assert sum("convolution" in name for name in operators.seen) >= 3
    assert sum("norm_act" in name for name in operators.seen) >= 2
    with Functions() as functions:
        fused(x)
    assert "conv2d" in functions.seen
    assert "conv_transpose2d" in functions.seen


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
def test_a_trace_holds_each_layer_as_it_was():
    x = torch.randn(2, 3, 6, 6)
    fused, original = pair(chain().eval(), x)
    traced = torch.jit.trace(fused, x)
    assert "fastgan::" not in str(traced.inlined_graph)
    other = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(traced(other), original(other), **OUTPUTS)


def test_counts_wait_for_the_end_of_a_block():
    x = torch.randn(2, 3, 6, 6)
    fused, _ = pair(chain(), x)
    with batches_counted_together():
        fused(x), fused(x)
        assert fused[1].num_batches_tracked == 1
    assert fused[1].num_batches_tracked == fused[4].num_batches_tracked == 3


def test_one_value_a_channel_is_an_error_that_counts_as_torchs():
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    x = torch.randn(1, 3, 1, 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(x)
    model.eval()
    model(x), model(x)


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpointed_call_is_made_again(first: bool):
    """The first call of a kind, which is planned, and the one in backward save alike."""
    original, x = chain(), torch.randn(2, 3, 6, 6, requires_grad=True)
    fused = fastgan.fuse(copy.deepcopy(original))
    if not first:
        fused(x), original(x)
    gradients = []
    for model in (fused, original):
        y = checkpoint(model, x, use_reentrant=False)
        gradients.append(torch.autograd.grad(y.square().sum(), x)[0])
    torch.testing.assert_close(*gradients, **SUMS)


@pytest.fixture
def half() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


@pytest.mark.usefixtures("half")
def test_autocast_rounds_as_in_the_layers():
    x = torch.randn(2, 3, 6, 6)
    fused, original = pair(chain().eval(), x)
    for _ in range(2):
        found, expected = fused(x), original(x)
        assert found.dtype is expected.dtype
        torch.testing.assert_close(found, expected, **AUTOCAST)
    assert by_steps(fused)


def test_a_network_of_16_bits_runs_in_them():
    x = torch.randn(2, 3, 6, 6, dtype=torch.bfloat16)
    fused, original = pair(chain().eval().bfloat16(), x)
    for _ in range(2):
        torch.testing.assert_close(fused(x), original(x), **BFLOAT16)


def test_what_the_layers_would_answer_to_a_wrong_input():
    model = fastgan.fuse(chain())
    model(image(2, 3, 6, 6))
    for wrong in (torch.randn(2, 5, 6, 6), torch.randn(2, 3, 6, 6).long()):
        for _ in range(2):
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                model(wrong)


def test_saved_tensors_pass_through_hooks():
    x = torch.randn(2, 3, 6, 6)
    fused, _ = pair(chain(), x)
    packed: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        y = fused(x)
    assert any(t is fused[3].weight for t in packed)
    y.sum().backward()


def test_what_was_saved_may_not_be_changed():
    x = torch.randn(2, 3, 6, 6)
    fused, _ = pair(chain(), x)
    y = fused(x)
    with torch.no_grad():
        fused[3].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
