"""`torch.nn.utils.weight_norm` and its like keep a computed weight, which deepcopy refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, prune

import fastgan
from fastgan.engine.ema import Ema
from fastgan.fusion.explaining import traced
from fastgan.fusion.folding import fold_norms

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")

Wrapper = Callable[[nn.Module], nn.Module]


def pruned(module: nn.Module) -> nn.Module:
    return prune.random_unstructured(module, "weight", amount=0.3)


WRAPPERS: dict[str, Wrapper] = {
    "weight_norm": torch.nn.utils.weight_norm,
    "spectral_norm": torch.nn.utils.spectral_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "pruned": pruned,
    "both": lambda m: pruned(torch.nn.utils.weight_norm(m, "bias", dim=None)),
}
every_wrapper = pytest.mark.parametrize("name", WRAPPERS)


class ResBlock(nn.Module):
    """HiFi-GAN's second residual block, as published."""

    def __init__(self, channels: int, wrap: Wrapper) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            wrap(nn.Conv1d(channels, channels, 3, padding=d, dilation=d)) for d in (1, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(F.leaky_relu(x, 0.1)) + x
        return x


class Vocoder(nn.Module):
    """HiFi-GAN's generator in small: everything wrapped, no norm."""

    def __init__(self, wrap: Wrapper) -> None:
        super().__init__()
        self.conv_pre = wrap(nn.Conv1d(5, 8, 7, padding=3))
        self.ups = nn.ModuleList([wrap(nn.ConvTranspose1d(8, 4, 4, 2, padding=1))])
        self.resblocks = nn.ModuleList([ResBlock(4, wrap)])
        self.conv_post = wrap(nn.Conv1d(4, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for up, block in zip(self.ups, self.resblocks, strict=True):
            x = block(up(F.leaky_relu(x, 0.1)))
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


class Computed(nn.Module):
    """Tensors that autograd computed as attributes, alone and in containers; a hook of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(5, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.gain = nn.Parameter(torch.ones(4, 1, dtype=torch.float64))
        self.scale = self.gain * 2
        self.kept = {"list": [self.scale + 1], "tuple": (self.scale,)}
        self.calls = 0
        self.register_forward_pre_hook(Computed.count)

    def count(self, _inputs: object) -> None:
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))) * self.scale + self.kept["list"][0]


def trained(model: nn.Module) -> nn.Module:
    model.double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    for m in model.modules():
        if isinstance(m, _BatchNorm):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return model


def input_of() -> Tensor:
    return torch.randn(2, 5, 12, dtype=torch.float64)


def wrapped_layers(model: nn.Module) -> Iterator[nn.Module]:
    for m in model.modules():
        if m._forward_pre_hooks or nn.utils.parametrize.is_parametrized(m):
            yield m


@every_wrapper
def test_fold_resolves_it(name: str):
    model = trained(Vocoder(WRAPPERS[name]))
    x = input_of()
    model(x)  # in training, as it is when it is folded: a spectral norm moves
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for folded in (fastgan.fold(model), fold_norms(model)):
        assert not list(wrapped_layers(folded))
        torch.testing.assert_close(folded(x), model.eval()(x))
        assert not folded(x).requires_grad
        assert folded.conv_pre.weight.is_leaf
        assert set(folded.state_dict()) == set(Vocoder(lambda m: m).state_dict())
        model.train()
    assert list(wrapped_layers(model))
    torch.testing.assert_close(model.state_dict(), before)


@every_wrapper
def test_a_norm_folds_into_what_is_resolved(name: str):
    layers = [WRAPPERS[name](nn.Conv1d(5, 4, 3)), nn.BatchNorm1d(4), nn.ReLU()]
    model = trained(nn.Sequential(*layers))
    x = input_of()
    folded = fastgan.fold(model)
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    torch.testing.assert_close(folded(x), model.eval()(x))


@every_wrapper
@pytest.mark.parametrize("training", [True, False])
def test_a_fused_copy_shares_what_is_trained(name: str, training: bool):
    model = trained(Vocoder(WRAPPERS[name])).train(training)
    model.conv_pre.register_forward_hook(lambda module, inputs, output: output * 2)
    x = input_of()
    model(x)
    state = {k: v.clone() for k, v in model.state_dict().items()}

    def run(which: nn.Module) -> tuple[Tensor, list[Tensor]]:
        model.load_state_dict(state)
        y = which(x)
        return y, list(torch.autograd.grad(y.square().sum(), list(model.parameters())))

    fused = fastgan.fuse(model, inplace=False)
    assert {id(p) for p in fused.parameters()} == {id(p) for p in model.parameters()}
    expected = run(model)
    found = run(fused)
    torch.testing.assert_close(found, expected)
    # All but the direction of a weight of one value.
    assert all(g.abs().sum() > 0 for g in found[1] if g.numel() > 1)
    # An optimizer of the original moves both.
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.testing.assert_close(run(fused)[0], run(model)[0])


def test_computed_attributes_are_copied_or_shared():
    model = trained(Computed())
    x = input_of()
    folded = fastgan.fold(model)
    torch.testing.assert_close(folded(x), model.eval()(x))
    assert not folded(x).requires_grad
    assert folded.scale is not model.scale
    model.train()
    fused = fastgan.fuse(model, inplace=False)
    calls = model.calls
    fused(x)
    assert (model.calls, fused.calls) == (calls, calls + 1)
    y = fused(x)
    (gain,) = torch.autograd.grad(y.square().sum(), [model.gain], retain_graph=True)
    (again,) = torch.autograd.grad(model(x).square().sum(), [model.gain], retain_graph=True)
    torch.testing.assert_close(gain, again)
    assert gain.abs().sum() > 0


@every_wrapper
def test_an_average_of_it_is_an_average_of_its_parameters(name: str):
    model = trained(Vocoder(WRAPPERS[name]))
    x = input_of()
    ema = Ema(model, 0.999)
    torch.testing.assert_close(ema.average(x), model.eval()(x))
    start = {k: p.detach().clone() for k, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    ema.before(1)
    ema.update()
    for key, p in ema.average.named_parameters():
        torch.testing.assert_close(p, start[key] + 9 / 11)


def test_explaining_copies_it():
    layers = [torch.nn.utils.weight_norm(nn.Conv1d(5, 4, 3)), nn.Conv1d(4, 4, 3), nn.ReLU()]
    model = nn.Sequential(*layers)
    runs, _ = traced(model, torch.randn(2, 5, 12))
    assert [run.block.names for run in runs] == [("1", "2")]
