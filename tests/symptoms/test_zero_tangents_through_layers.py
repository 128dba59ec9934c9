"""torch.func and forward mode through layers, fused models and fastgan.models: as plain layers.

torch.func.jvp gave tangents of zero without a word, torch.func.grad and vmap errors of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.autograd.forward_ad as fwd
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import fastgan.nn as fnn
from fastgan import fuse
from fastgan.models import create_model

WIDTH = {"image_size": 16, "channels": 3, "width": 4}


def layers(norm: type[nn.Module] = nn.BatchNorm2d, **options: Any) -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), norm(8, **options), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, 1, 1), norm(8, **options), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.Tanh(),
    ).double()  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def plain_norm(kind: str) -> nn.Sequential:
    model = layers()[:3]
    if kind == "training":
        return layers(track_running_stats=False)[:3]
    return model.eval()


def in_fastgan(model: nn.Sequential, form: str) -> nn.Module:
    model = copy.deepcopy(model)
    if form == "fused":
        return fuse(model)
    if form == "memory":
        return fuse(model, prefer="memory")
    return fnn.FusedSequential(*model)


def own_layers(model: nn.Sequential) -> nn.Sequential:
    """A convolution, BatchNormAct2d and BiasAct in place of the model's first block."""
    conv, norm, _ = copy.deepcopy(model)
    own = fnn.BatchNormAct2d(8, track_running_stats=norm.track_running_stats, negative_slope=0.2)
    own.double().load_state_dict(norm.state_dict())
    return nn.Sequential(conv, own.train(norm.training))


PAIRS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    f"{form}, {name}": lambda form=form, make=make: (in_fastgan(make(), form), make())
    for form in ("fused", "memory", "FusedSequential")
    for name, make in {
        "evaluation": lambda: layers().eval(),
        "training": lambda: layers(track_running_stats=False),
        "instances": lambda: layers(nn.InstanceNorm2d, affine=True),
    }.items()
}
PAIRS |= {
    f"BatchNormAct2d, {kind}": lambda kind=kind: (own_layers(plain_norm(kind)), plain_norm(kind))
    for kind in ("training", "evaluation")
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    return PAIRS[request.param]()


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, dtype=torch.float64)


def tangent(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    direction = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    return jvp(function, (x,), (direction,))[1]


def test_tangents(pair: tuple[nn.Module, nn.Module]) -> None:
    own, theirs = pair
    x = images()
    own(x)  # how each block runs is known from here on, and must not matter
    expected = tangent(theirs, x)
    assert expected.abs().max() > 0
    torch.testing.assert_close(tangent(own, x), expected)
    with fwd.dual_level():
        dual = fwd.unpack_dual(own(fwd.make_dual(x, x))).tangent
        torch.testing.assert_close(dual, fwd.unpack_dual(theirs(fwd.make_dual(x, x))).tangent)
    y, pushed = jvp(own, (x,), (x,))
    u = torch.randn(y.shape, dtype=y.dtype)
    (pulled,) = vjp(own, x)[1](u)
    torch.testing.assert_close((pushed * u).sum(), (pulled * x).sum())
    torch.testing.assert_close(own(x), theirs(x))  # as before


def test_jacobians_and_samples(pair: tuple[nn.Module, nn.Module]) -> None:
    own, theirs = pair
    x = images()

    def along(model: nn.Module) -> Callable[[Tensor], Tensor]:
        directions = torch.linspace(-1, 1, 2 * x.numel()).double().reshape(2, *x.shape)
        return lambda t: model(x + (t[:, None, None, None, None] * directions).sum(0)).flatten()

    at = torch.tensor([0.3, -0.2], dtype=torch.float64)
    expected = jacrev(along(theirs))(at)
    torch.testing.assert_close(jacfwd(along(own))(at), expected)
    torch.testing.assert_close(jacrev(along(own))(at), expected)
    batches = torch.stack([x, x * 2 + 1])
    torch.testing.assert_close(vmap(own)(batches), torch.stack([theirs(b) for b in batches]))
    weights = dict(own.named_parameters())
    buffers = dict(own.named_buffers())

    def loss(model: nn.Module, weights: dict[str, Tensor], buffers: Any) -> Tensor:
        return functional_call(model, (weights, buffers), (x,)).pow(2).sum()

    found = grad(lambda w: loss(own, w, buffers))(weights)
    reference = torch.autograd.grad(theirs(x).pow(2).sum(), list(theirs.parameters()))
    for a, b in zip(found.values(), reference, strict=True):
        torch.testing.assert_close(a, b)


def test_compiled(pair: tuple[nn.Module, nn.Module]) -> None:
    """jvp around a compiled function."""
    own, theirs = pair
    x = images()
    torch._dynamo.reset()
    found = tangent(torch.compile(own, backend="aot_eager"), x)
    torch.testing.assert_close(found, tangent(theirs, x))


# Each form, each norm.
@pytest.mark.parametrize(
    "name",
    ["fused, evaluation", "memory, training", "FusedSequential, instances",
     "BatchNormAct2d, training", "BatchNormAct2d, evaluation"],
)  # fmt: skip
def test_within_a_compiled_function(name: str) -> None:
    own, theirs = PAIRS[name]()
    x = images()
    torch._dynamo.reset()
    found = torch.compile(lambda x: tangent(own, x), backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(found, tangent(theirs, x))


@pytest.mark.parametrize("form", ["fused", "memory", "FusedSequential"])
def test_ensembles(form: str) -> None:
    """One model's forward with the stacked parameters of several."""
    models = [in_fastgan(layers().eval(), form) for _ in range(3)]
    with torch.no_grad():
        for i, model in enumerate(models):
            for p in model.parameters():
                p.add_(0.1 * i)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    x = images()
    found = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([m(x) for m in models]))


def test_running_statistics_of_layers_are_kept_from_transforms() -> None:
    """As of torch.nn's layers, which count their batches in place: an error, and no change."""
    model = fnn.FusedSequential(*layers())
    before = copy.deepcopy(model.state_dict())
    for transform in (
        lambda: jvp(model, (images(),), (images(),)),
        lambda: grad(lambda x: model(x).sum())(images()),
    ):
        with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
            transform()
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "name",
    [
        "dcgan_generator", "dcgan_discriminator", "tf_dcgan_generator", "tf_dcgan_discriminator",
        "mlp_generator", "mlp_discriminator", "resnet_generator", "resnet_discriminator",
        "r3gan_generator", "r3gan_discriminator",
    ],
)  # fmt: skip
def test_models(name: str) -> None:
    """Against PyTorch's own reverse mode, outside of any transform."""
    options = dict(WIDTH)
    if name.startswith("mlp"):
        del options["width"]
    if name.startswith("r3gan"):
        options["group_width"] = 4
    model = create_model(name, **options).double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    generates = name.endswith("generator")
    x = torch.randn(3, model.latent_dim) if generates else torch.randn(3, 3, 16, 16)
    x, v = x.double(), torch.randn(x.shape).double()
    y, pushed = jvp(model, (x,), (v,))
    assert pushed.abs().max() > 0
    u = torch.randn(y.shape, dtype=y.dtype)
    (pulled,) = torch.autograd.grad(model(x.requires_grad_()), x, u)
    torch.testing.assert_close((pushed * u).sum(), (pulled * v).sum())
