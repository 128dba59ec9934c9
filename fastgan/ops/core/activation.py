"""The activations by code (0 LeakyReLU, 1 tanh, 2 sigmoid) and their derivatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAKY_RELU, TANH, SIGMOID = 0, 1, 2
IDENTITY = (LEAKY_RELU, 1.0)


def is_identity(activation: int, slope: float) -> bool:
    return (activation, slope) == IDENTITY


def act(y: Tensor, activation: int, slope: float) -> Tensor:
    if activation == TANH:
        return torch.tanh(y)
    if activation == SIGMOID:
        return torch.sigmoid(y)
    return F.leaky_relu(y, slope)


def act_(y: Tensor, activation: int, slope: float) -> Tensor:
    """`act` in place."""
    if is_identity(activation, slope):
        return y
    if activation == TANH:
        return torch.tanh_(y)
    if activation == SIGMOID:
        return torch.sigmoid_(y)
    return F.leaky_relu(y, slope, inplace=True)


def _step(y: Tensor, slope: float) -> Tensor:
    """1 where y > 0, else the slope, in y's dtype (`where` of two numbers rounds to float32)."""
    return torch.ones_like(y).masked_fill(~(y > 0), slope)


def d_act(y: Tensor, activation: int, slope: float) -> Tensor:
    """act'(y); LeakyReLU's is the slope at zero, as PyTorch's."""
    if activation == LEAKY_RELU:
        return _step(y, slope)
    return d_act_from_output(act(y, activation, slope), activation, slope)


def d_act_from_output(z: Tensor, activation: int, slope: float) -> Tensor:
    """act'(y) from z = act(y). For LeakyReLU z > 0 exactly where y > 0, as slope >= 0."""
    if activation == TANH:
        return 1 - z * z
    if activation == SIGMOID:
        return z * (1 - z)
    return _step(z, slope)


def d2_act(y: Tensor, activation: int, slope: float) -> Tensor:
    """act''(y); zero for LeakyReLU."""
    z = act(y, activation, slope)
    if activation == TANH:
        return -2 * z * (1 - z * z)
    if activation == SIGMOID:
        return z * (1 - z) * (1 - 2 * z)
    return torch.zeros_like(y)
