"""Inputs of one convolution block, PyTorch's composition of it, and the comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from cases import act, channels_last, normals
from tolerance import assert_as_exact
from torch import Tensor

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

NORM = ("mean", "var", "gamma", "beta")
GRADIENTS = ("g_x", "g_weight", "g_bias", "g_mean", "g_var", "g_gamma", "g_beta")

# (transposed, x, C_out, kernel, stride, padding, output padding)
Shape = tuple[bool, tuple[int, ...], int, list[int], list[int], list[int], list[int]]


@dataclass
class ConvCase:
    """``segments``: rows of the statistics of x (0: no norm) and of y (0: none are taken).
    ``pre`` and ``post``: (code, slope). ``scale`` and ``shift`` set |mean| / std of x.
    """

    shape: Shape
    dtype: torch.dtype = torch.float32
    segments: tuple[int, int] = (1, 1)
    pre: tuple[int, float] = (0, 0.2)
    post: tuple[int, float] = (0, 1.0)
    biased: bool = False
    scale: float = 1.0
    shift: float = 0.5
    device: str = "cpu"
    seed: int = 0
    eps: float = 1e-5
    inputs: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        random = normals(self.seed, self.device)
        transposed, x_shape, c_out, kernel, *_ = self.shape
        c_in = x_shape[1]
        ends = (c_in, c_out) if transposed else (c_out, c_in)
        fan = c_in * torch.Size(kernel).numel()
        x = channels_last(random(*x_shape) * self.scale + self.shift).to(self.dtype)
        self.inputs = {"x": x, "weight": (random(*ends, *kernel) / fan**0.5).to(self.dtype)}
        if self.biased:
            self.inputs["bias"] = random(c_out)
        if self.segments[0]:
            rows = (self.segments[0], c_in)
            self.inputs["mean"] = random(*rows) * 0.1 * self.scale + self.shift
            self.inputs["var"] = (random(*rows).square() + 0.5) * self.scale**2
            self.inputs["gamma"], self.inputs["beta"] = random(c_in), random(c_in)
        y = self.outputs(self.inputs)[0]
        self.g_y = channels_last(random(*y.shape).to(self.dtype))
        rows = (self.segments[1], c_out) if self.segments[1] else (0,)
        self.g_mean, self.g_var = random(*rows), random(*rows)

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int], bool]:
        transposed, _, _, _, stride, padding, output_padding = self.shape
        return stride, padding, output_padding, transposed

    def outputs(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """y and its statistics by PyTorch's own functions; norm in the dtype of its parameters."""
        x, weight = inputs["x"], inputs["weight"]
        u = x
        if "mean" in inputs:
            view = (-1, 1, x.shape[1], *[1] * (x.dim() - 2))
            mean, var, gamma, beta = (
                inputs[k].view(view) for k in ("mean", "var", "gamma", "beta")
            )
            parts = x.to(mean.dtype).reshape(mean.shape[0], -1, *x.shape[1:])
            u = (parts - mean) * torch.rsqrt(var + self.eps) * gamma + beta
            u = u.reshape(x.shape).to(x.dtype)
        bias = inputs["bias"].to(x.dtype) if "bias" in inputs else None
        z, dims = act(u, *self.pre), x.dim() - 2
        stride, padding, output_padding, transposed = self.geometry
        if transposed:
            y = TRANSPOSED[dims](z, weight, bias, stride, padding, output_padding)
        else:
            y = CONV[dims](z, weight, bias, stride, padding)
        y = act(y, *self.post)
        if not self.segments[1]:
            return (y,)
        wide = y if y.dtype == torch.float64 else y.float()
        rows = wide.reshape(self.segments[1], -1, *y.shape[1:]).transpose(1, 2).flatten(2)
        return y, rows.mean(2), rows.var(2, unbiased=False)

    def of_torch(self, dtype: torch.dtype, parameters: torch.dtype) -> dict[str, Tensor]:
        """Outputs and gradients by PyTorch and its autograd."""
        leaves = {
            k: t.detach().to(dtype if k in ("x", "weight") else parameters).requires_grad_()
            for k, t in self.inputs.items()
        }
        outputs = self.outputs(leaves)
        cotangents = [self.g_y, self.g_mean, self.g_var][: len(outputs)]
        cotangents = [g.to(out.dtype) for g, out in zip(cotangents, outputs, strict=True)]
        grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
        names = ("y", "y_mean", "y_var")[: len(outputs)]
        found = dict(zip(names, outputs, strict=True))
        found |= {f"g_{k}": g for k, g in zip(leaves, grads, strict=True)}
        return {k: t.detach() for k, t in found.items()}

    def check(self, got: dict[str, Tensor], like: torch.dtype | None = None) -> None:
        """Holds what is in ``got`` to the tolerance rule, PyTorch's own computed in ``like``."""
        exact = self.of_torch(torch.float64, torch.float64)
        like = like or self.dtype
        theirs = self.of_torch(like, torch.float32)
        for name, value in got.items():
            # A mean is a sum of values of y's size, whatever its own.
            size = exact["y"].abs().max().item() if name == "y_mean" else 0.0
            assert_as_exact(
                f"{name} of {self}", value, theirs[name], exact[name],
                floor=like, size=size,
            )  # fmt: skip

    def launch(
        self, config: Any = None, back: Any = None, precision: str = "ieee"
    ) -> dict[str, Tensor]:
        """Forward pass and data gradient by the kernels' launchers, ``back`` for the latter."""
        from fastgan.kernels.conv_block import forward as kernels
        from fastgan.kernels.conv_block import partials
        from fastgan.kernels.conv_block.geometry import conv_geometry

        x, weight = self.inputs["x"], self.inputs["weight"]
        geo = conv_geometry(x, weight, *self.geometry)
        pre, post = kernels.Activation(*self.pre), kernels.Activation(*self.post)
        normed = "mean" in self.inputs
        norm = (
            (*(self.inputs[k] for k in ("mean", "var", "gamma", "beta")), self.eps)
            if normed
            else None
        )
        rows, _ = kernels.conv_rows(norm, None)
        y, mean, var = kernels.conv_forward(
            x, rows, pre, weight, self.inputs.get("bias"), geo, post, self.segments[1],
            config=config, input_precision=precision,
        )  # fmt: skip
        found, gradient = {"y": y}, None
        if self.segments[1]:
            found |= {"y_mean": mean, "y_var": var}
            count = y.numel() // mean.numel()
            _, gradient = kernels.conv_rows(None, (mean, self.g_mean, self.g_var, count))
        g_x, sum_a, sum_ax = kernels.conv_data_gradient(
            self.g_y, y, gradient, post, weight, geo, x, rows, pre,
            config=back or config, input_precision=precision,
        )  # fmt: skip
        found["g_x"] = g_x
        if normed:
            of_norm = partials.conv_norm_gradients(sum_a, sum_ax, norm[1], norm[2], self.eps)
            names = ("g_mean", "g_var", "g_gamma", "g_beta")
            found |= dict(zip(names, of_norm, strict=True))
        assert y.dtype == g_x.dtype == x.dtype
        assert y.movedim(1, -1).is_contiguous()
        assert g_x.movedim(1, -1).is_contiguous()
        return found


def run_block(
    c: ConvCase, needs: tuple[bool, bool, bool] = (True, True, True)
) -> dict[str, Tensor]:
    """All that the case has inputs for, by whichever kernels conv_block takes; outputs poisoned."""
    from fastgan.kernels import conv_block

    inputs = c.inputs
    norm = (*(inputs.get(name) for name in NORM), c.eps)
    spec = (*c.pre, *c.geometry, *c.post, c.segments[1])
    x, weight = inputs["x"], inputs["weight"]
    torch.use_deterministic_algorithms(True)
    try:
        y, mean, var = conv_block.conv_block_forward(x, weight, inputs.get("bias"), *norm, *spec)
        of_mean = (c.g_mean, c.g_var) if c.segments[1] else (None, None)
        grads = conv_block.conv_block_backward(
            c.g_y, *of_mean, x, y, mean, weight, *norm, *spec, *needs
        )
    finally:
        torch.use_deterministic_algorithms(False)
    found = {"y": y} | ({"y_mean": mean, "y_var": var} if c.segments[1] else {})
    found |= dict(zip(GRADIENTS, grads, strict=True))
    absent = {f"g_{name}" for name in (*NORM, "bias") if name not in inputs}
    assert all(found[name].shape == (0,) or name == "g_bias" for name in absent)
    return {name: t for name, t in found.items() if name not in absent}
