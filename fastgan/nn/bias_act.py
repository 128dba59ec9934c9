"""Bias + activation as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.ops import bias_act
from fastgan.ops.core.tensors import activation_code, check_factory, check_flag, check_tensor, whole


class BiasAct(nn.Module):
    """`act(x + bias)` for x (N, C, *spatial), in one op.

    It takes the place of a convolution's own bias and the activation after it: the state_dict holds
    `bias` of shape (num_features,), zero at the start (none with `bias=False`). activation:
    "leaky_relu" (with `negative_slope`), "relu", "identity", "tanh" or "sigmoid".

    >>> to_rgb = nn.Sequential(nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False),
    ...                        BiasAct(3, activation="tanh"))
    """

    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "leaky_relu",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        activation_code(activation, negative_slope)
        check_flag("bias", bias)
        check_factory(device, dtype)
        self.num_features = whole("num_features", num_features, 1)
        self.activation = activation
        self.negative_slope = negative_slope
        shape = (self.num_features,)
        value = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor:
            check_tensor("input", input)
        if input.dim() > 1 and input.shape[1] != self.num_features:
            shape = tuple(input.shape)
            raise ValueError(f"input: expected {self.num_features} channels, got shape {shape}")
        return bias_act(
            input, self.bias, activation=self.activation, negative_slope=self.negative_slope
        )

    def extra_repr(self) -> str:
        text = f"{self.num_features}, bias={self.bias is not None}, activation={self.activation}"
        if self.activation == "leaky_relu":
            text += f", negative_slope={self.negative_slope}"
        return text
