"""The compositions of PyTorch's own layers that the ops stand for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("leaky_relu", "relu", "identity", "tanh", "sigmoid")


def act(y: Tensor, activation: str, slope: float) -> Tensor:
    if activation == "leaky_relu":
        return F.leaky_relu(y, slope)
    if activation == "relu":
        return F.relu(y)
    if activation == "identity":
        return y
    return torch.tanh(y) if activation == "tanh" else torch.sigmoid(y)


def norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    segments: int = 1,
    order: str = "norm_act",
) -> Tensor:
    """One batch_norm call for each segment, in order, and the activation before or after."""

    def one(part: Tensor) -> Tensor:
        if order == "act_norm":
            part = act(part, activation, negative_slope)
        y = F.batch_norm(part, running_mean, running_var, weight, bias, training, momentum, eps)
        return y if order == "act_norm" else act(y, activation, negative_slope)

    return torch.cat([one(part) for part in x.chunk(segments)]) if segments > 1 else one(x)


def bias_act(
    x: Tensor, bias: Tensor | None, *, activation: str = "leaky_relu", negative_slope: float = 0.01
) -> Tensor:
    if bias is not None:
        x = x + bias.reshape(-1, *(1,) * (x.dim() - 2)).to(x.dtype)
    return act(x, activation, negative_slope)


def gradients(function: Any, inputs: list[Tensor | None], dz: Tensor) -> list[Tensor]:
    """[output, gradient of each input that is not None], on copies that require gradients."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
    z = function(*leaves)
    wanted = [t for t in leaves if t is not None]
    return [z, *torch.autograd.grad(z, wanted, dz.to(z.dtype))]
