"""Inputs of one weight gradient, PyTorch's composition of it, and the launch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from cases import act, channels_last, normals
from conv_case import CONV, TRANSPOSED
from kernel_case import assert_close
from torch import Tensor

NONE = (0, 1.0)  # activation and slope: the identity


def grad_from_output(y: Tensor, code: int, slope: float) -> Tensor:
    return (torch.where(y > 0, 1.0, slope), 1 - y * y, y * (1 - y))[code]


@dataclass
class WeightCase:
    """``rows``: segments of the rows of x and of dy, 0 for none. ``pre`` and ``post``: activation
    and slope. ``last``: a channels-last weight. ``scale`` and ``shift`` set |mean| / std of x.
    """

    transposed: bool = False
    x_shape: tuple[int, ...] = (4, 5, 4, 3)
    c_out: int = 7
    kernel: tuple[int, ...] = (3, 3)
    stride: tuple[int, ...] = (2, 2)
    padding: tuple[int, ...] = (1, 1)
    output_padding: tuple[int, ...] = (0, 0)
    rows: tuple[int, int] = (1, 1)
    pre: tuple[int, float] = (0, 0.2)
    post: tuple[int, float] = (1, 0.0)
    dtype: torch.dtype = torch.float32
    last: bool = False
    scale: float = 1.0
    shift: float = 0.5
    seed: int = 0
    device: str = "cpu"
    x: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        random = normals(self.seed, self.device)
        c_in = self.x_shape[1]
        self.x = channels_last(random(*self.x_shape) * self.scale + self.shift).to(self.dtype)
        ends = (c_in, self.c_out) if self.transposed else (self.c_out, c_in)
        weight = random(*ends, *self.kernel).to(self.dtype)
        self.weight = channels_last(weight) if self.last else weight
        shape = self.convolve(self.x, self.weight, None).shape
        self.g = channels_last(random(*shape)).to(self.dtype)
        self.y = channels_last(act(random(*shape), *self.post)).to(self.dtype)
        self.x_rows = self.dy_rows = None
        if self.rows[0]:
            center = random(self.rows[0], 1, c_in) * 0.1 * self.scale + self.shift
            values = random(self.rows[0], 2, c_in) * torch.tensor([[1 / self.scale], [1.0]]).to(
                self.device
            )
            self.x_rows = torch.cat([center, values], 1)
        if self.rows[1]:
            self.dy_rows = random(self.rows[1], 3, self.c_out)

    def convolve(self, z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        forward = (TRANSPOSED if self.transposed else CONV)[len(self.kernel)]
        extra = (self.output_padding,) if self.transposed else ()
        return forward(z, weight, bias, self.stride, self.padding, *extra)

    def values(self, rows: Tensor, wide: torch.dtype) -> list[Tensor]:
        """The three values a channel, for every image."""
        n = self.x_shape[0]
        view = (n, -1, *[1] * len(self.kernel))
        each = rows.to(wide).repeat_interleave(n // rows.shape[0], 0)
        return [each[:, i].reshape(view) for i in range(3)]

    def of_torch(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """By PyTorch's autograd, z and dy in ``dtype``, formed in float32 at least."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        u, dy, y = self.x.to(wide), self.g.to(wide), self.y.to(wide)
        if self.x_rows is not None:
            center, scale, shift = self.values(self.x_rows, wide)
            u = (u - center) * scale + shift
        if self.dy_rows is not None:
            center, k1, k2 = self.values(self.dy_rows, wide)
            dy = dy + k1 * (y - center) + k2
        z = act(u, *self.pre).to(dtype)
        dy = (dy * grad_from_output(y, *self.post)).to(dtype)
        weight = self.weight.detach().to(dtype).requires_grad_()
        bias = torch.zeros(self.c_out, dtype=dtype, device=self.device, requires_grad=True)
        out = self.convolve(z, weight, bias)
        g_weight, g_bias = torch.autograd.grad(out, (weight, bias), dy)
        return {"g_weight": g_weight, "g_bias": g_bias}

    def launch(
        self, config: Any = None, precision: str = "ieee", **need: bool
    ) -> dict[str, Tensor]:
        from fastgan.kernels.conv_block.forward import Activation
        from fastgan.kernels.conv_block.geometry import conv_geometry
        from fastgan.kernels.conv_block.weight import conv_weight_gradient

        geometry = [list(v) for v in (self.stride, self.padding, self.output_padding)]
        geo = conv_geometry(self.x, self.weight, *geometry, self.transposed)
        g_weight, g_bias = conv_weight_gradient(
            self.x, self.x_rows, Activation(*self.pre), self.g, self.y, self.dy_rows,
            Activation(*self.post), self.weight, geo, need.get("weight", True),
            need.get("bias", True), config=config, input_precision=precision,
        )  # fmt: skip
        return {"g_weight": g_weight, "g_bias": g_bias}

    def check(self, got: dict[str, Tensor]) -> None:
        """Holds what is in ``got`` to the tolerance rule."""
        exact, own = self.of_torch(torch.float64), self.of_torch(self.dtype)
        for name, value in got.items():
            assert_close(f"{name} of {self}", value, exact[name], own[name])
        if "g_weight" in got:
            assert got["g_weight"].dtype == self.weight.dtype
            assert got["g_weight"].stride() == self.weight.stride()
