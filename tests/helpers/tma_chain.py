"""Chains of blocks that run by the kernels for GPUs with TMA, held to their layers: small ones in
Triton's interpreter, larger ones on a GPU.
"""

from __future__ import annotations

import copy

import torch
from tolerance import assert_as_exact
from torch import Tensor, nn

from fastgan.nn import FusedSequential
from fastgan.nn.norm_act import segments

CONVOLUTIONS = nn.Conv2d | nn.ConvTranspose2d


def layers(norm: type[nn.Module] = nn.BatchNorm2d, channels: int = 16) -> nn.Sequential:
    """One halves, one of four phases doubles, the last is no product of TMA's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, channels, 4, 2, 1, bias=False), norm(channels), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(channels, channels, 2, 2, bias=False), norm(channels), nn.Tanh(),
        nn.Conv2d(channels, 1, 2), nn.Sigmoid(),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return model


def images(n: int = 4, side: int = 4, channels: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs that are float16 and bfloat16 numbers, and gradients of the output."""
    torch.manual_seed(1)
    x = torch.randn(n, channels, side, side).to(memory_format=torch.channels_last)
    return x.bfloat16().half().float(), torch.randn(n, 1, side - 1, side - 1)


class Halved(nn.Sequential):
    """Its batch norms see the two halves of the batch one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            norm = isinstance(module, nn.BatchNorm2d)
            x = torch.cat([module(part) for part in x.chunk(2)]) if norm else module(x)
        return x


def check(
    model: nn.Sequential, fused: nn.Sequential, x: Tensor, g: Tensor,
    dtype: torch.dtype = torch.float16, like: torch.dtype | None = None,
) -> None:  # fmt: skip
    """By the tolerance rule: convolutions of half precision, float32 norms and parameters of those.

    All are on x's device; the model is left in float64.

    Args:
        like: PyTorch's own runs in this: of float32 in TF32 in float16, which has as many digits.
    """
    like = like or dtype
    own = copy.deepcopy(model)
    for modules, of in ((fused, dtype), (own, like), (model, dtype)):
        for module in modules:
            if isinstance(module, CONVOLUTIONS):
                module.to(of)
    found = _results(fused, x, g, dtype)
    theirs = _results(own, x, g, like)
    exact = _results(model.double(), x, g, torch.float64)
    for name, value in found.items():
        assert_as_exact(name, value, theirs[name], exact[name], floor=like)


def check_chain(
    parts: int, x: Tensor, g: Tensor, dtype: torch.dtype = torch.float16,
    like: torch.dtype | None = None,
) -> FusedSequential:  # fmt: skip
    """A chain of x's channels, its batch in so many parts (1 or 2); what ran."""
    model = layers(channels=x.shape[1]).to(x.device)
    fused = FusedSequential(*copy.deepcopy(model))
    with segments(fused, parts):
        check(model if parts == 1 else Halved(*model), fused, x, g, dtype, like)
    return fused


def _results(model: nn.Sequential, x: Tensor, g: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output, gradients and buffers of a model whose parameters and statistics are as they are."""
    x = x.detach().to(dtype).requires_grad_()
    y = model(x)
    y.backward(g.to(y.dtype))
    found = {"y": y, "g_x": x.grad}
    found |= {f"g_{name}": p.grad for name, p in model.named_parameters()}
    found |= {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    return {name: t.detach() for name, t in found.items() if t is not None}
