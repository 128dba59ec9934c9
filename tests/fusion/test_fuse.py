"""fuse: what it finds, what it leaves and why, and that the model stays the model it was."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_as_exact
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastgan
from fastgan.fusion.plan import Plan
from fastgan.nn import BatchNormAct2d
from fastgan.ops import convolution_form


@pytest.fixture(autouse=True)
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small tensors would run in the layers' own steps: blocks are made to run as such, instead."""
    with convolution_form(getattr(request, "param", "composed")):
        yield


as_chosen = pytest.mark.parametrize("form", ["composed", "auto"], indirect=True)


class Skipping(nn.Module):
    """A hand-written forward: calls, in-place steps, a residual, a skip, a default argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm2 = nn.InstanceNorm2d(6, affine=True)
        self.out = nn.Conv2d(12, 2, 1)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.doubled = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = F.leaky_relu(self.norm1(self.conv1(x)), 0.2, True)
        g = self.norm2(self.conv2(h)).relu_()
        if mask is not None:
            g = g * mask
        if self.doubled:
            g = g * 2
        joined = torch.cat([g, h], 1)
        joined += 0.5
        joined = F.dropout(joined, 0.5, self.training)
        return torch.tanh(self.out(joined) * self.scale)


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6),
        nn.ReLU(), nn.ConvTranspose2d(6, 2, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def image(*shape: int) -> Tensor:
    return torch.randn(shape or (4, 3, 8, 8))


def reasons(model: nn.Module) -> list[str]:
    return [block.reason for block in model.fusion_report.blocks if not block.fused]


def assert_equal(fused: nn.Module, original: nn.Module, *inputs: Tensor, **options: Any) -> None:
    """Outputs and every gradient, by the tolerance rule."""
    found = []
    for model in (fused, original, copy.deepcopy(original).double()):
        given = [x.to(next(model.parameters()).dtype, copy=True) for x in inputs]
        torch.manual_seed(3)
        out = model(*given, **options)
        loss = out.square().sum() + 0 * sum(p.sum() for p in model.parameters())
        found.append([out, *torch.autograd.grad(loss, list(model.parameters()))])
    # Some gradients (of a bias before a norm) are zero but for rounding.
    size = max(float(g.abs().max()) for g in found[2][1:])
    for i, values in enumerate(zip(*found, strict=True)):
        assert_as_exact(str(i), *values, size=size if i else 0.0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("build", [sequential, Skipping])
def test_results_and_keys_are_the_originals(build: Callable[[], nn.Module], training: bool):
    original = build().train(training)
    fused = copy.deepcopy(original)
    parameters = list(fused.parameters())
    assert fastgan.fuse(fused) is fused
    assert fused.fusion_report.fused == len(fused.fusion_report) > 1
    assert list(fused.state_dict()) == list(original.state_dict())
    assert all(a is b for a, b in zip(fused.parameters(), parameters, strict=True))
    assert type(fused) is type(original)
    assert_equal(fused, original, image())


def test_blocks_of_a_hand_written_forward_are_named():
    report = fastgan.fuse(Skipping()).fusion_report
    assert [block.layers for block in report.blocks] == [
        ("conv1", "norm1", "leaky_relu()"),
        ("conv2", "norm2", "relu_()"),
    ]
    assert str(report).splitlines()[0] == "2 of 2 blocks fused"
    assert "conv1, norm1, leaky_relu(): Conv2d → BatchNorm2d → LeakyReLU: fused" in str(report)


def test_unfuse_gives_the_original_back():
    model = nn.ModuleDict({"a": Skipping(), "b": sequential()})
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    fastgan.fuse(model)
    assert isinstance(model["a"].forward, Plan)
    assert fastgan.unfuse(model) is model
    for name, m in model.named_modules():
        assert vars(m) == before[name]


def test_a_copy_shares_parameters_and_buffers():
    model = sequential()
    fused = fastgan.fuse(model, inplace=False)
    assert "forward" not in vars(model)
    assert fused is not model
    own, theirs = ([*m.parameters(), *m.buffers()] for m in (fused, model))
    assert all(a is b for a, b in zip(own, theirs, strict=True))
    fused(image())
    assert model[3].num_batches_tracked == 1


@as_chosen
def test_the_forward_falls_back_where_the_trace_does_not_hold():
    """Arguments with a default, changed attributes, mixed modes, exchanged children, new hooks."""
    original = Skipping().eval()
    fused = fastgan.fuse(copy.deepcopy(original))
    x, mask = image(), torch.rand(4, 6, 8, 8)

    def check(**options: Any) -> None:
        torch.testing.assert_close(fused(x, **options), original(x, **options))

    check(mask=mask)
    for model in (fused, original):
        model.doubled = True
    check()
    for model in (fused, original):
        model.norm1 = nn.Identity()
    check()
    assert not torch.allclose(fused(x), fastgan.fuse(Skipping())(x))


@as_chosen
@pytest.mark.parametrize("late", [False, True])
def test_hooks_are_respected(late: bool):
    """A hook sees its layer run, whether it was there before or came after."""
    model, seen = sequential(), []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(module)

    if not late:
        model[3].register_forward_hook(hook)
    fastgan.fuse(model)
    if late:
        model[3].register_forward_hook(hook)
    else:
        assert reasons(model) == ["BatchNorm2d has hooks"] * 2
    model(image())
    assert seen == [model[3]]


def test_a_hook_on_a_part_that_was_traced_through_is_respected():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    fastgan.fuse(model)
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    model(image())
    assert seen == [1]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return F.relu(self.norm(self.conv(x)))


def test_a_norm_that_is_used_twice_is_left():
    original = Shared()
    fused = fastgan.fuse(copy.deepcopy(original))
    assert fused.fusion_report.fused == 0
    assert set(reasons(fused)) == {"Conv2d is used 2 times", "BatchNorm2d is used 2 times"}
    assert_equal(fused, original, image())


class Branching(nn.Module):
    """What must not be swallowed, or moved past a change in place."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "kept":  # the value before the norm is used elsewhere
            return F.relu(self.norm(y)) + y
        if self.kind == "aliased":  # two names for one tensor that then changes
            z = y
            y += 1.0
            return F.relu(self.norm(y)) + z
        if self.kind == "written to":  # after a fused activation, which would keep its output
            z = F.leaky_relu(y, 0.2)
            z += x
            return z
        if self.kind == "activated input":  # the caller's own tensor changes
            return self.norm(self.conv(F.relu_(y.view_as(y)))) + y
        view = y.view(-1)
        return self.norm(F.relu_(y)) + view.view_as(y)  # a view made before sees the change


@pytest.mark.parametrize("kind", ["kept", "aliased", "written to", "activated input", "viewed"])
def test_values_used_elsewhere_are_not_swallowed(kind: str):
    original = Branching(kind)
    fused = fastgan.fuse(copy.deepcopy(original))
    assert_equal(fused, original, image())


class Untraceable(nn.Module):
    """A forward that asks for values, around a part that can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = sequential()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


class Switching(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.inner(x)
        return y + x.mean()


class Storing(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.inner(x)
        return self.last


class Making(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.ones(1)


class Asking(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if isinstance(x, Tensor) else x


class Gathering(Untraceable):
    def forward(self, *parts: Tensor) -> Tensor:
        return self.inner(torch.cat(parts))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Untraceable, "cannot be traced"),
        (Switching, "switches gradients"),
        (Storing, "stores last on the module"),
        (Making, "makes a tensor that does not come from its input"),
        (Asking, "asks for the type of a value"),
        (Gathering, "takes *parts"),
    ],
)
def test_what_cannot_be_traced_is_left_and_its_parts_are_fused(kind: type, reason: str):
    original = kind()
    before = dict(vars(original))
    fused = fastgan.fuse(copy.deepcopy(original))
    ((name, why),) = fused.fusion_report.untraced
    assert name == ""
    assert reason in why
    assert reason in str(fused.fusion_report)
    assert set(vars(fused)) - set(before) == {"fusion_report"}
    assert fused.fusion_report.fused == 3
    x = image()
    torch.testing.assert_close(fused(x), original(x))
    fused.eval(), original.eval()
    torch.testing.assert_close(fused(x), original(x))


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm"])
def test_parametrised_convolutions_stay_so(wrap: str):
    def build() -> nn.Sequential:
        model = sequential()
        getattr(parametrizations, wrap)(model[2])
        return model

    original = build()
    fused = fastgan.fuse(build())
    fused.load_state_dict(original.state_dict())
    assert fused.fusion_report.fused == 3
    assert "parametrizations" in dict(fused[2].named_children())
    assert_equal(fused, original, image())  # spectral norm takes one step a call, as unfused


@pytest.mark.parametrize(
    ("layers", "fused"),
    [
        ([nn.Linear(3, 5), nn.BatchNorm1d(5), nn.LeakyReLU(0.1)], 1),
        ([nn.Conv2d(3, 4, 3, groups=1, dilation=2), nn.BatchNorm2d(4), nn.ReLU()], 1),
        ([nn.Conv2d(3, 4, 3, dilation=2), nn.ReLU()], 0),
        ([nn.LeakyReLU(0.2), nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Sigmoid()], 1),
        ([nn.ReLU(), nn.BatchNorm2d(3)], 1),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False)], 1),
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Identity(), nn.Tanh()], 1),
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ELU()], 0),
        ([nn.Conv2d(3, 4, 3), nn.LeakyReLU(-0.1)], 0),
        ([nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 2, 1)], 1),
        ([nn.Conv2d(3, 4, 3), nn.Dropout(0.0), nn.ReLU()], 0),
    ],
    ids=str,
)
def test_layers(layers: list[nn.Module], fused: int):
    x = torch.randn(4, 3) if isinstance(layers[0], nn.Linear) else image()
    original = nn.Sequential(*copy.deepcopy(layers))
    model = fastgan.fuse(copy.deepcopy(original))
    assert model.fusion_report.fused == fused, str(model.fusion_report)
    if any(p.requires_grad for p in model.parameters()):
        assert_equal(model, original, x)
    model.eval(), original.eval()
    torch.testing.assert_close(model(x), original(x))


def test_memory_layout_is_the_originals():
    """A tensor of one channel is contiguous and channels-last at once; a `view` tells."""
    for channels, size in ((1, 8), (5, 1)):
        layers = [nn.ConvTranspose2d(channels, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU()]
        fused = fastgan.fuse(nn.Sequential(*layers, nn.Conv2d(4, 3, 1), nn.Tanh()))
        assert fused(torch.randn(2, channels, size, size)).is_contiguous()
        fused.to(memory_format=torch.channels_last)
        assert fused(torch.randn(2, channels, 3, 3)).is_contiguous(
            memory_format=torch.channels_last
        )


def test_tensors_that_the_ops_do_not_take_run_unfused():
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(1, 1, 2), nn.Tanh())).to(torch.complex64)
    assert model(torch.randn(1, 1, 3, 3, dtype=torch.complex64)).dtype is torch.complex64
    single = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()))
    assert single(torch.randn(3, 5, 5)).shape == (2, 3, 3)


@as_chosen
def test_integers_are_an_error_as_before():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    for model in (nn.Sequential(*layers), fastgan.fuse(nn.Sequential(*layers))):
        with pytest.raises(RuntimeError, match=r"[Ii]nput type|same dtype|expected scalar"):
            model(torch.ones(2, 3, 5, 5, dtype=torch.int64))


def change_slope(model: nn.Sequential) -> None:
    model[1].negative_slope = 0.7


def change_convolution(model: nn.Sequential) -> None:
    model[2].padding, model[2].stride = (1, 1), (2, 2)


def change_dilation(model: nn.Sequential) -> None:
    model[2].dilation = (2, 2)


def change_statistics(model: nn.Sequential) -> None:
    model[3].track_running_stats, model[3].running_mean, model[3].running_var = False, None, None


def change_forward(model: nn.Sequential) -> None:
    model[4].forward = lambda x: x * 3


def change_layer(model: nn.Sequential) -> None:
    model[5] = nn.ConvTranspose2d(6, 2, 2)
    nn.init.constant_(model[5].weight, 0.1)
    nn.init.zeros_(model[5].bias)


def freeze(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)
    model[3].eval()


@as_chosen
@pytest.mark.parametrize(
    "change",
    [
        change_slope, change_convolution, change_dilation, change_statistics, change_forward,
        change_layer, freeze,
    ],
)  # fmt: skip
def test_what_changes_between_calls_is_noticed(change: Callable[[nn.Sequential], None]):
    original = sequential()
    fused = fastgan.fuse(copy.deepcopy(original))
    x = image(4, 3, 12, 12)
    for _ in range(2):  # the second call goes by what the first found
        torch.testing.assert_close(fused(x), original(x), rtol=1e-4, atol=1e-5)
    for model in (fused, original):
        change(model)
    for _ in range(2):
        torch.testing.assert_close(fused(x), original(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.state_dict(), original.state_dict(), rtol=1e-4, atol=1e-5)
    fused(x).sum().backward()
    original(x).sum().backward()
    for own, theirs in zip(fused.parameters(), original.parameters(), strict=True):
        assert (own.grad is None) == (theirs.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model(x)
    return sum(kept.values())


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_memory_is_saved_where_it_is_preferred():
    original = sequential()
    x = image(8, 3, 32, 32)
    fast = fastgan.fuse(copy.deepcopy(original))
    small = fastgan.fuse(copy.deepcopy(original), prefer="memory")
    assert saved_bytes(fast, x) <= saved_bytes(original, x)
    normalised = 4 * 8 * 6 * 14 * 14  # what the transposed convolution takes
    assert saved_bytes(small, x) <= saved_bytes(original, x) - normalised
    assert_equal(small, original, x)
    assert_equal(copy.deepcopy(small), original, x)
    with pytest.raises(ValueError, match="prefer: expected 'speed' or 'memory', got 'size'"):
        fastgan.fuse(original, prefer="size")


@pytest.mark.parametrize("form", ["auto"], indirect=True)
def test_where_nothing_pays_the_models_own_forward_runs(monkeypatch: pytest.MonkeyPatch):
    """From the second call on; a larger tensor runs fused again."""
    model = fastgan.fuse(Skipping())
    calls = []
    own = Skipping.forward
    monkeypatch.setattr(Skipping, "forward", lambda self, x: calls.append(1) or own(self, x))
    for _ in range(3):
        model(image(2, 3, 6, 6))
    assert len(calls) == 2
    model(image(16, 3, 64, 64)), model(image(16, 3, 64, 64))
    assert len(calls) == 2


@as_chosen
def test_channels_that_do_not_match_are_an_error_as_before():
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5), nn.ReLU()))
    with pytest.raises((ValueError, RuntimeError)):
        model(image())


def test_scripted_modules_are_left():
    inner = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    model = nn.Sequential(inner, nn.Conv2d(4, 4, 3), nn.ReLU())
    expected = model(x := image())
    fastgan.fuse(model)
    assert model.fusion_report.fused == 1
    assert ("0", "is a torch.jit.script module") in model.fusion_report.untraced
    torch.testing.assert_close(model(x), expected)


def test_bad_models_are_refused():
    for function in (fastgan.fuse, fastgan.fold):
        with pytest.raises(TypeError, match=r"model: expected an nn\.Module, got int"):
            function(3)


@as_chosen
def test_copies_and_pickles_are_fused_and_their_own():
    model = fastgan.fuse(Skipping()).eval()
    x = image()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert other.forward.module is other
        torch.testing.assert_close(other(x), model(x))
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
        assert not other(x).any()
    assert model(x).any()


@as_chosen
def test_modes_gradients_dtypes_and_loading_reach_the_layers():
    model = fastgan.fuse(sequential())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(image()).sum().backward()
    before = model[2].weight.clone()
    optimizer.step()
    assert not torch.equal(before, model[2].weight)
    moved = model[3].running_mean.clone()
    model.eval()(image())
    torch.testing.assert_close(model[3].running_mean, moved)
    assert not model.requires_grad_(False)(image()).requires_grad
    assert model.double()(image().double()).dtype is torch.float64
    other = sequential()
    model.float().load_state_dict(other.state_dict(), assign=True)
    x = image()
    torch.testing.assert_close(model(x), other.eval()(x))


@as_chosen
def test_compile_and_export():
    model = fastgan.fuse(Skipping()).eval()
    x = image()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    exported = torch.export.export(model, (x,))
    assert any("fastgan" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), model(x))


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        original = sequential()
        fused = nn.parallel.DistributedDataParallel(fastgan.fuse(copy.deepcopy(original)))
        x = image()
        fused(x).square().sum().backward()
        original(x).square().sum().backward()
        for own, theirs in zip(fused.parameters(), original.parameters(), strict=True):
            torch.testing.assert_close(own.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    finally:
        torch.distributed.destroy_process_group()


def test_gradient_penalty_runs_through_a_fused_model():
    original = sequential().double()
    fused = fastgan.fuse(copy.deepcopy(original))
    x = image().double().requires_grad_()
    results = []
    for model in (fused, original):
        (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), model[2].weight)[0])
    torch.testing.assert_close(*results)


def test_example_inputs_are_compared():
    model = sequential()
    assert fastgan.fuse(model, image()).fusion_report.fused == 3
    assert model[3].num_batches_tracked == 0
    model.train()

    class Counting(nn.Module):
        """Its outputs depend on something that no tensor tells."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = sequential()

        def forward(self, x: Tensor) -> Tensor:
            CALLS.append(0)
            return self.layers(x) * len(CALLS)

    CALLS: list[int] = []
    with pytest.raises(RuntimeError, match="does not give the original's outputs"):
        fastgan.fuse(counting := Counting(), image())
    assert "forward" not in vars(counting)
