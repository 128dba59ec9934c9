"""Every family computes what the same layers of torch.nn compute, and shares their weights.

The plain models below are written layer by layer from the papers, with the same state_dict.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from tolerance import within
from torch import Tensor, nn

from fastgan.models import create_model


def _block(conv: nn.Module, norm: nn.Module | None, slope: float) -> nn.Sequential:
    layers = OrderedDict(conv=conv)
    if norm is not None:
        layers["norm"] = norm
    layers["act"] = nn.LeakyReLU(slope)
    return nn.Sequential(layers)


class PlainDCGANGenerator(nn.Module):
    """DCGAN-32 with ngf 8: 32 → 16 → 8 → channels, as in the paper but for size."""

    def __init__(self, channels: int, norm: bool, slope: float) -> None:
        super().__init__()

        def up(c_in: int, c_out: int, *geometry: int) -> nn.Sequential:
            conv = nn.ConvTranspose2d(c_in, c_out, *geometry, bias=not norm)
            return _block(conv, nn.BatchNorm2d(c_out) if norm else None, slope)

        self.project = up(12, 32, 4, 1, 0)
        self.blocks = nn.Sequential(up(32, 16, 4, 2, 1), up(16, 8, 4, 2, 1))
        self.output = nn.ConvTranspose2d(8, channels, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.output(self.blocks(self.project(z.view(*z.shape, 1, 1)))))


class PlainDCGANDiscriminator(nn.Module):
    def __init__(self, channels: int, norm: bool, slope: float) -> None:
        super().__init__()

        def down(c_in: int, c_out: int) -> nn.Sequential:
            conv = nn.Conv2d(c_in, c_out, 4, 2, 1, bias=not norm)
            return _block(conv, nn.BatchNorm2d(c_out) if norm else None, slope)

        first = _block(nn.Conv2d(channels, 8, 4, 2, 1), None, slope)
        self.blocks = nn.Sequential(first, down(8, 16), down(16, 32))
        self.output = nn.Conv2d(32, 1, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.blocks(images)).view(-1)


class PlainTFDCGANGenerator(nn.Module):
    """The tutorial's generator with 8 instead of 64 filters: 7×7×32 → 16 → 8 → channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        keras = {"eps": 1e-3, "momentum": 0.01}
        self.project = nn.Sequential(
            OrderedDict(
                dense=nn.Linear(12, 7 * 7 * 32, bias=False),
                norm=nn.BatchNorm1d(7 * 7 * 32, **keras),
                act=nn.LeakyReLU(0.3),
            )
        )

        def up(c_in: int, c_out: int, stride: int, output_padding: int) -> nn.Sequential:
            conv = nn.ConvTranspose2d(c_in, c_out, 5, stride, 2, output_padding, bias=False)
            return _block(conv, nn.BatchNorm2d(c_out, **keras), 0.3)

        self.blocks = nn.Sequential(up(32, 16, 1, 0), up(16, 8, 2, 1))
        self.output = nn.ConvTranspose2d(8, channels, 5, 2, 2, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).view(-1, 7, 7, 32).permute(0, 3, 1, 2).contiguous()
        return torch.tanh(self.output(self.blocks(x)))


class PlainTFDCGANDiscriminator(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _block(nn.Conv2d(channels, 8, 5, 2, 2), None, 0.3),
            _block(nn.Conv2d(8, 16, 5, 2, 2), None, 0.3),
        )
        self.dense = nn.Sequential()
        if hidden:
            self.dense.add_module("linear", nn.Linear(7 * 7 * 16, hidden, bias=False))
            self.dense.add_module("norm", nn.BatchNorm1d(hidden))
            self.dense.add_module("act", nn.LeakyReLU(0.3))
        self.output = nn.Linear(hidden or 7 * 7 * 16, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(images).permute(0, 2, 3, 1).reshape(len(images), -1)
        return self.output(self.dense(x))[:, 0]


class PlainMLPGenerator(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, 16),
            nn.LeakyReLU(0.2),
            nn.Linear(16, 24),
            nn.LeakyReLU(0.2),
            nn.Linear(24, channels * 100),
        )
        self.channels = channels

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layers(z)).view(-1, self.channels, 10, 10)


class PlainMLPDiscriminator(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels * 100, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.reshape(len(images), -1))[:, 0]


def _cases() -> list[tuple[str, nn.Module, nn.Module, tuple[int, ...]]]:
    """(name, ours, plain, input shape of one item)."""
    cases: list[tuple[str, nn.Module, nn.Module, tuple[int, ...]]] = []
    for channels, norm, slope in [(1, True, 0.2), (3, True, 0.0), (2, False, 0.1)]:
        kwargs = {"image_size": 32, "channels": channels, "width": 8, "negative_slope": slope}
        kwargs["norm"] = "batch" if norm else "none"
        name = f"dcgan-{channels}-{kwargs['norm']}-{slope}"
        generator = create_model("dcgan_generator", latent_dim=12, **kwargs)
        plain = PlainDCGANGenerator(channels, norm, slope)
        cases.append((f"{name}-generator", generator, plain, (12,)))
        discriminator = create_model("dcgan_discriminator", **kwargs)
        plain_d = PlainDCGANDiscriminator(channels, norm, slope)
        cases.append((f"{name}-discriminator", discriminator, plain_d, (channels, 32, 32)))
    for channels in (1, 3):
        kwargs = {"channels": channels, "width": 8}
        generator = create_model("tf_dcgan_generator", latent_dim=12, **kwargs)
        cases.append(
            (f"tf-{channels}-generator", generator, PlainTFDCGANGenerator(channels), (12,))
        )
        for hidden in (0, 24):
            arguments = {"dropout": 0.0, "hidden": hidden, **kwargs}
            discriminator = create_model("tf_dcgan_discriminator", **arguments)
            plain_d = PlainTFDCGANDiscriminator(channels, hidden)
            name = f"tf-{channels}-{hidden}-discriminator"
            cases.append((name, discriminator, plain_d, (channels, 28, 28)))
    kwargs = {"image_size": 10, "channels": 2}
    generator = create_model("mlp_generator", latent_dim=12, hidden=(16, 24), **kwargs)
    cases.append(("mlp-generator", generator, PlainMLPGenerator(2), (12,)))
    discriminator = create_model("mlp_discriminator", hidden=(16,), **kwargs)
    cases.append(("mlp-discriminator", discriminator, PlainMLPDiscriminator(2), (2, 10, 10)))
    return cases


with torch.random.fork_rng(devices=[]):  # the weights are of no other file's draws
    torch.manual_seed(0)
    CASES = {name: rest for name, *rest in _cases()}


def _shaken(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with every parameter and statistic away from its special initial value."""
    torch.manual_seed(0)
    return {
        name: value + 0.1 * torch.rand_like(value) if value.is_floating_point() else value
        for name, value in state.items()
    }


def _trace(model: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Outputs in training and eval, gradients of input and parameters, and running statistics."""
    model = model.to(x.dtype).train()
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    grads = torch.autograd.grad(out, [leaf, *model.parameters()], cotangent)
    trace = {"out": out.detach(), "dx": grads[0]}
    names = [name for name, _ in model.named_parameters()]
    trace |= {f"d{name}": grad for name, grad in zip(names, grads[1:], strict=True)}
    trace |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        trace["eval"] = model.eval()(x)
    return trace


def _traces(name: str, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """Traces of our model and of the plain one, contiguous and channels-last, at `dtype`; and of
    the plain one in float64 ("exact")."""
    ours, plain, shape = CASES[name]
    state = _shaken(ours.state_dict())
    torch.manual_seed(1)
    x = torch.randn(6, *shape, dtype=torch.float64)
    cotangent = torch.randn(plain.eval()(x.float()).shape, dtype=torch.float64)
    runs = {
        "ours": (ours, dtype, torch.contiguous_format),
        "contiguous": (plain, dtype, torch.contiguous_format),
        "channels_last": (plain, dtype, torch.channels_last),
        "exact": (plain, torch.float64, torch.contiguous_format),
    }
    traces = {}
    for run, (model, precision, layout) in runs.items():
        model = copy.deepcopy(model)
        model.load_state_dict(state)
        # The same rounded numbers for all, so that only arithmetic differs.
        model = model.to(dtype).to(memory_format=layout)
        given = x.to(dtype).to(precision), cotangent.to(dtype).to(precision)
        traces[run] = _trace(model, *given)
    return traces


@pytest.mark.parametrize("name", CASES)
def test_state_dict_is_that_of_separate_layers(name: str) -> None:
    ours, plain, _ = CASES[name]
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


@pytest.mark.parametrize("name", CASES)
def test_float64_equals_separate_layers(name: str) -> None:
    traces = _traces(name, torch.float64)
    ours, plain = traces["ours"], traces["exact"]
    assert ours.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(ours[key], value, **within(torch.float64, 1000, 10), msg=key)


@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_exact_as_separate_layers(name: str) -> None:
    """At most twice the error of the plain model, plus a few roundings of the largest value.

    The plain model's error is the larger of its two layouts': they take different kernels.
    """
    traces = _traces(name, torch.float32)
    for key, truth in traces["exact"].items():
        errors = {
            run: (trace[key].double() - truth).abs().max().item() for run, trace in traces.items()
        }
        floor = 16 * torch.finfo(torch.float32).eps * truth.abs().max().item()
        allowed = 2 * max(errors["contiguous"], errors["channels_last"]) + floor
        assert errors["ours"] <= allowed, f"{key}: {errors['ours']:.3e} > {allowed:.3e}"
