"""FusedSequential against the nn.Sequential of the same modules."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import dcgan64
import pytest
import torch
from tolerance import FLOOR, assert_as_exact, within
from torch import Tensor, nn

import fastgan.nn as fnn
from bench.harness.memory import saved_sizes
from fastgan.nn import FusedSequential, steps
from fastgan.nn.recording import recording
from fastgan.ops import backend, conv
from fastgan.ops.conv.tuning import convolution_form
from fastgan.ops.core.native import from_python

# The form of the blocks and the backend that runs them.
MODES = [("recompute", "reference"), ("recompute", "cpu"), ("fused", "reference")]


@pytest.fixture(params=MODES, ids="-".join)
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    form, name = request.param
    if name == "cpu":
        request.getfixturevalue("native")
    with convolution_form(form), backend(name):
        yield form


def fused(model: nn.Sequential, **options: Any) -> FusedSequential:
    """A FusedSequential of copies of the children."""
    return FusedSequential(OrderedDict(copy.deepcopy(model).named_children()), **options)


NETWORKS: dict[str, tuple[Callable[..., nn.Sequential], tuple[int, ...]]] = {
    "generator": (dcgan64.generator, (8, 1, 1)),
    "discriminator": (dcgan64.discriminator, (3, 64, 64)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_dcgan64(mode: str, network: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    build, shape = NETWORKS[network]
    # At 16 bits a few of the values round to the other side of a kink, in anyone's arithmetic.
    model = dcgan64.shake(build(2, smooth=dtype is torch.bfloat16)).to(dtype)
    x = torch.randn(6, *shape).to(dtype)
    cotangent = torch.randn(copy.deepcopy(model)(x).shape).to(dtype)

    def results(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
        model = model.to(dtype).to(memory_format=layout)
        return dcgan64.trace(model, x.to(dtype), cotangent.to(dtype))

    own, theirs = results(fused(model), dtype), results(copy.deepcopy(model), dtype)
    exact = results(copy.deepcopy(model), torch.float64)
    assert own.keys() == theirs.keys()
    for name, value in own.items():
        assert value.dtype is theirs[name].dtype, name
        # The gradient of a bias may cancel to nearly nothing; its terms are those of the weight's.
        terms = exact[name.replace("bias", "weight")] if name.endswith(".bias") else exact[name]
        size = float(terms.abs().max())
        assert_as_exact(name, value, theirs[name], exact[name], floor=dtype, size=size)


def gan_losses(networks: tuple[nn.Module, nn.Module], dtype: torch.dtype) -> Tensor:
    """Both losses of each of 16 steps of a GAN."""
    generator, discriminator = (m.to(dtype).train() for m in networks)
    draw = torch.Generator().manual_seed(5)
    optimizers = [
        torch.optim.Adam(m.parameters(), 2e-4, (0.5, 0.999)) for m in (generator, discriminator)
    ]
    softplus, losses = nn.functional.softplus, []
    for _ in range(16):
        real = torch.rand(4, 3, 64, 64, generator=draw).to(dtype)
        fake = generator(torch.randn(4, 8, 1, 1, generator=draw).to(dtype))
        logits = discriminator(real), discriminator(fake.detach())
        loss_d = softplus(-logits[0]).mean() + softplus(logits[1]).mean()
        optimizers[1].zero_grad()
        loss_d.backward()
        optimizers[1].step()
        discriminator.requires_grad_(False)
        loss_g = softplus(-discriminator(fake)).mean()
        optimizers[0].zero_grad()
        loss_g.backward()
        optimizers[0].step()
        discriminator.requires_grad_(True)
        losses += [loss_d.detach(), loss_g.detach()]
    return torch.stack(losses).double()


def gan(smooth: bool) -> tuple[nn.Sequential, nn.Sequential]:
    return dcgan64.generator(2, smooth=smooth), dcgan64.discriminator(2, smooth=smooth)


def test_losses_of_16_training_steps(mode: str) -> None:
    """In float32 rounding grows from step to step: each is held to PyTorch's worst error so far.

    That is for networks without kinks, which turn a rounding into a jump at a step of its own in
    every arithmetic; those with kinks train in float64.
    """
    models = gan(smooth=False)
    own = gan_losses((fused(models[0]), fused(models[1])), torch.float64)
    torch.testing.assert_close(
        own, gan_losses(models, torch.float64), **within(torch.float64, 1000, 10)
    )
    models = gan(smooth=True)
    own = gan_losses((fused(models[0]), fused(models[1])), torch.float32)
    theirs = gan_losses(copy.deepcopy(models), torch.float32)
    exact = gan_losses(models, torch.float64)
    allowed = 2 * (theirs - exact).abs().cummax(0).values + FLOOR[torch.float32]
    assert ((own - exact).abs() <= allowed).all(), f"{own - exact} against {theirs - exact}"


def test_the_fused_form_without_statistics_of_its_input() -> None:
    """A norm behind a layer of someone's own runs by itself; from there on blocks are fused."""

    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    layers = [Own(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    model = dcgan64.shake(nn.Sequential(*layers, nn.Tanh(), nn.Conv2d(8, 2, 3))).double()
    x, own = torch.randn(4, 3, 9, 9).double(), fused(model)
    found, traces = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        for candidate in (own, model):
            candidate = copy.deepcopy(candidate).to(memory_format=layout)
            with convolution_form("fused"), recording() as runs:
                traces.append(dcgan64.trace(candidate, x, torch.ones(4, 2, 3, 3)))
            found += [[run.form for run in runs]] if runs else []
            found_kept = [run.keeps_normalised for run in runs]
            assert found_kept in ([], [False, True, False] + [False] * 3)
    assert found == [["", "fused", "fused"] * 2] * 2
    for ours, theirs in ((traces[0], traces[1]), (traces[2], traces[3])):
        # Stricter than assert_close is by itself: float64 rounds at 1e-16.
        torch.testing.assert_close(ours, theirs, **within(torch.float64, 1000, 10))


def penalised(model: nn.Module, real: Tensor) -> list[Tensor]:
    leaf = real.clone().requires_grad_()
    logits = model(leaf)
    (g,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
    loss = nn.functional.softplus(-logits).mean() + g.square().sum((1, 2, 3)).mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


def test_gradient_penalty(mode: str) -> None:
    model = dcgan64.shake(dcgan64.discriminator(2)).double()
    real = torch.randn(4, 3, 64, 64).double()
    torch.testing.assert_close(
        penalised(fused(model), real), penalised(model, real), **within(torch.float64, 1000, 10)
    )


def saved_by(model: nn.Module, x: Tensor) -> list[int]:
    """Sizes of the distinct storages that backward keeps, parameters, statistics and x aside."""
    sizes = saved_sizes(lambda: model(x), (x, *model.parameters()))
    return sorted(size for size in sizes if size > 4 * 8 * 8 * 2)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_activation_a_block(mode: str, network: str) -> None:
    build, shape = NETWORKS[network]
    model, x = build(2), torch.randn(8, *shape).to(memory_format=torch.channels_last)
    outputs = []
    for layer in model:
        layer.register_forward_hook(lambda m, _, y: outputs.append((m, y.numel() * 4)))
    model(x)
    for layer in model:
        layer._forward_hooks.clear()
    of_blocks = [size for m, size in outputs if "Conv" in type(m).__name__ and size > 1024]
    twice = sorted(of_blocks + [size for m, size in outputs if type(m) is nn.BatchNorm2d])
    assert saved_by(model, x) == twice
    assert saved_by(fused(model), x) == sorted(of_blocks)
    if mode == "recompute":
        assert saved_by(fused(model, keep_activations=True), x) == twice


def test_no_weight_gradient_of_a_frozen_discriminator(
    monkeypatch: pytest.MonkeyPatch, native: None
) -> None:
    calls = []
    original = conv.backward_weight
    monkeypatch.setattr(
        conv, "backward_weight", lambda *args: calls.append(args) or original(*args)
    )
    generator, discriminator = fused(dcgan64.generator(2)), fused(dcgan64.discriminator(2))
    fake = generator(torch.randn(4, 8, 1, 1))
    discriminator.requires_grad_(False)
    discriminator(fake).sum().backward()
    assert len(calls) == 5  # the generator's own
    assert all(p.grad is None for p in discriminator.parameters())
    discriminator.requires_grad_(True)
    discriminator(fake.detach()).sum().backward()
    assert len(calls) == 10


@pytest.mark.parametrize("own", [False, True], ids=["torch", "fastgan"])
def test_segments(mode: str, own: bool) -> None:
    model = dcgan64.discriminator(2)
    if own:
        model[3], model[4] = fnn.BatchNormAct2d(4, negative_slope=0.2), nn.Identity()
    model[6].register_forward_hook(lambda *_: None)  # a norm that runs by itself
    ours, x = fused(model), torch.randn(8, 3, 64, 64)
    with fnn.segments(ours, 2):
        together = ours(x)
    torch.testing.assert_close(together, torch.cat([model(part) for part in x.chunk(2)]))
    torch.testing.assert_close(ours.state_dict(), model.state_dict())
    assert ours.segments == 1


def test_segments_hold_in_every_call_of_a_kind() -> None:
    """Also from the second on, where it is known that every block runs as its layers."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))
    ours = FusedSequential(*copy.deepcopy(model), keep_activations=True)
    x = torch.cat([torch.randn(2, 3, 6, 6), 5 + torch.randn(2, 3, 6, 6)])
    for _ in range(3):
        with fnn.segments(ours, 2):
            together = ours(x)
        torch.testing.assert_close(together, torch.cat([model(part) for part in x.chunk(2)]))
    torch.testing.assert_close(ours.state_dict(), model.state_dict())


def varied() -> nn.Sequential:
    """What a plan meets beside DCGAN's chains."""
    return nn.Sequential(
        OrderedDict(
            start=nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), fnn.BiasAct(6, activation="tanh")),
            skipped=nn.Identity(),
            instance=nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
            grouped=nn.Conv2d(6, 6, 3, groups=2),
            average=nn.BatchNorm2d(6, momentum=None),
            dilated=nn.Conv2d(6, 4, 3, dilation=2),
            act_first=fnn.BatchNormAct2d(4, order="act_norm"),
            drop=nn.Dropout(0.0),
            same=nn.Conv2d(4, 4, 3, padding="same"),
            plain=nn.BatchNorm2d(4, affine=False),
            reflect=nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            no_stats=nn.BatchNorm2d(4, track_running_stats=False),
            sigmoid=nn.Sigmoid(),
            up=nn.Upsample(scale_factor=2),
            transposed=nn.ConvTranspose2d(4, 5, 3, 2, 1, 1),
            last=fnn.InstanceNormAct2d(5),
        )
    )


def test_any_children(mode: str) -> None:
    model = dcgan64.shake(varied()).double()
    ours = fused(model)
    assert list(ours.state_dict()) == list(model.state_dict())
    for seed in range(2):
        torch.manual_seed(seed)
        x = torch.randn(4, 3, 16, 16).double()
        cotangent = torch.randn(copy.deepcopy(model)(x).shape).double()
        results = [dcgan64.trace(m, x, cotangent) for m in (ours, model)]
        torch.testing.assert_close(*results, **within(torch.float64, 1000, 10))


def test_unbatched_input() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.randn(3, 8, 8)
    torch.testing.assert_close(fused(model)(x), model(x))


@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions(mode: str, dims: int) -> None:
    conv, transposed = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv3d, nn.ConvTranspose3d))[dims // 2]
    norm = (nn.BatchNorm1d, nn.BatchNorm3d)[dims // 2]
    model = nn.Sequential(
        transposed(3, 4, 4, 2, 1), norm(4), nn.ReLU(), conv(4, 2, 3), norm(2), nn.Tanh()
    ).double()
    x = torch.randn(3, 3, *(4, 3, 4)[:dims]).double()
    cotangent = torch.randn(copy.deepcopy(model)(x).shape).double()
    results = [dcgan64.trace(m, x, cotangent) for m in (fused(model), model)]
    torch.testing.assert_close(*results, **within(torch.float64, 1000, 10))


@pytest.mark.parametrize("index", range(5))
def test_hooks_on_children_are_called(mode: str, index: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Tanh()
    )
    ours, x = fused(model), torch.randn(2, 3, 8, 8)
    for m in (model, ours):
        m[index].register_forward_hook(lambda _, __, y: y * 2)
    torch.testing.assert_close(ours(x), model(x))
    seen = []
    with torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m))):
        torch.testing.assert_close(ours(x), model(x))
    assert seen.count(nn.BatchNorm2d) == 2


def test_parametrised_weights(mode: str) -> None:
    """Spectral normalisation: the convolution is fused with the weight it computes."""
    conv = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    ours, x = fused(model), torch.randn(2, 3, 8, 8)
    with recording() as records:
        torch.testing.assert_close(ours(x), model(x))
    assert [r.block.conv is not None for r in records] == [True, True]


def test_copies_and_pickles(mode: str) -> None:
    ours = fused(dcgan64.discriminator(2), keep_activations=True).eval()
    x = torch.randn(2, 3, 64, 64)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(twin(x), ours(x))
        assert twin.keep_activations
    assert isinstance(ours[:3], FusedSequential)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["recompute", "fused"])
def test_compile_without_a_graph_break(form: str, native: None) -> None:
    torch._dynamo.reset()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 4), nn.Tanh()
    ).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 16, 16)
    cotangent = torch.randn(4, 2, 5, 5)
    results = []
    with convolution_form(form):
        for call in (lambda m: torch.compile(m, fullgraph=True), lambda m: m):
            ours = fused(model)
            leaf = x.clone().requires_grad_()
            y = call(ours)(leaf)
            y.backward(cotangent)
            results.append([y, leaf.grad, *(p.grad for p in ours.parameters()), *ours.buffers()])
    torch.testing.assert_close(*results)


def test_autocast(mode: str) -> None:
    model = fused(dcgan64.generator(2))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(4, 8, 1, 1))
    assert y.dtype is torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())


def test_a_child_in_two_places_a_norm_after_an_activation_and_spectral_norm(mode: str) -> None:
    act = nn.LeakyReLU(0.2)
    conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    layers = [conv, act, nn.BatchNorm2d(4), nn.Dropout(0.0), act, nn.BatchNorm2d(4)]
    model = nn.Sequential(*layers)
    x = torch.randn(2, 3, 6, 6)
    other = FusedSequential(*copy.deepcopy(model))
    for _ in range(2):  # spectral norm takes a step of its iteration at each call
        torch.testing.assert_close(other(x), model(x), **within(torch.float32, 100, 10))


@pytest.mark.parametrize("stepped", [False, True])
def test_a_norm_is_fused_from_fewer_values_on_where_a_backward_follows(
    native: None, stepped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By steps it is at any size."""
    if stepped and not from_python():
        pytest.skip("csrc/eager is not there")
    if not stepped:
        monkeypatch.setattr(steps, "serve", lambda x: False)
    layers = [nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 1)]
    model = FusedSequential(*layers, keep_activations=True)
    forms = {}
    for side in (16, 64):  # 2048 and 32768 values
        for backward in (True, False):
            with recording() as runs, torch.set_grad_enabled(backward):
                model(torch.randn(1, 8, side, side, requires_grad=True))
            forms[side, backward] = runs[0].form
    by_size = {
        (16, True): "unfused",
        (16, False): "unfused",
        (64, True): "norm_fused",
        (64, False): "unfused",
    }
    assert forms == (dict.fromkeys(by_size, "norm_fused") if stepped else by_size)


def test_a_small_image_in_16_bits_is_left_to_the_library_without_gradients(native: None) -> None:
    """Whose weight gradient alone takes in memory that nobody wrote."""
    layers = [nn.Conv2d(8, 8, (5, 1), padding=(2, 0)), nn.LeakyReLU(0.1)]
    model = FusedSequential(*layers, keep_activations=True).bfloat16()
    forms = {}
    for grad in (True, False):
        with recording() as runs, torch.set_grad_enabled(grad):
            model(torch.randn(2, 8, 2, 3, dtype=torch.bfloat16))
        forms[grad] = runs[0].form
    assert forms == {True: "recompute", False: "unfused"}
