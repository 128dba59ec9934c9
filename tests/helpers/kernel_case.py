"""Inputs of a call of Triton's norm_act and bias_act, the float64 truth, the launch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from cases import act, channels_last, normals
from tolerance import assert_as_exact
from torch import Tensor


@dataclass
class Case:
    """Inputs of one comparison. ``scale`` and ``shift`` set |mean| / std."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    activation: int = 0
    slope: float = 0.2
    act_first: bool = False
    segments: int = 1
    affine: bool = True
    training: bool = True
    scale: float = 1.0
    shift: float = 0.5
    eps: float = 1e-5
    device: str = "cpu"
    seed: int = 0
    x: Tensor = field(init=False)
    dz: Tensor = field(init=False)

    def __post_init__(self) -> None:
        random = normals(self.seed, self.device)
        c = self.shape[1]
        self.x = self.laid_out(random(*self.shape) * self.scale + self.shift)
        self.dz = self.laid_out(random(*self.shape))
        # gamma of either sign, and zero
        self.weight = random(c).index_fill_(0, torch.tensor([c - 1], device=self.device), 0.0)
        self.bias = random(c)
        self.mean = random(self.segments, c) * 0.1 + self.shift
        self.var = random(self.segments, c).square() + 0.5 * self.scale**2

    def laid_out(self, t: Tensor) -> Tensor:
        t = t.to(self.dtype)
        return channels_last(t) if self.channels_last else t.contiguous()

    @property
    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        return (self.weight, self.bias) if self.affine else (None, None)

    @property
    def code(self) -> tuple[float, int, float, int, bool]:
        return self.eps, self.activation, self.slope, self.segments, self.act_first

    def act(self, t: Tensor) -> Tensor:
        return act(t, self.activation, self.slope)

    def compose(self, dtype: torch.dtype, parameters: torch.dtype) -> dict[str, Tensor]:
        """z and the gradients by PyTorch's own layers and autograd."""
        x = self.x.detach().to(dtype).requires_grad_()
        affine = [
            p if p is None else p.detach().to(parameters).requires_grad_() for p in self.parameters
        ]
        zs = []
        for g, part in enumerate(x.chunk(self.segments)):
            u = self.act(part) if self.act_first else part
            mean, var = (t[g].to(parameters) for t in (self.mean, self.var))
            if self.training:
                mean, var = None, None  # type: ignore[assignment]
            y = F.batch_norm(u, mean, var, *affine, self.training, 0.0, self.eps)
            zs.append(y if self.act_first else self.act(y))
        z = torch.cat(zs)
        wanted = [t for t in (x, *affine) if t is not None]
        grads = torch.autograd.grad(z, wanted, self.dz.to(dtype))
        out = {"z": z, "dx": grads[0]}
        if self.affine:
            out |= {"dweight": grads[1], "dbias": grads[2]}
        return {name: t.detach() for name, t in out.items()}

    def statistics(self) -> dict[str, Tensor]:
        """Mean and biased variance of what is normalised, in float64."""
        x = self.x.double()
        u = (self.act(x) if self.act_first else x).reshape(
            self.segments, -1, self.shape[1], max(1, self.x[0, 0].numel())
        )
        return {"mean": u.mean((1, 3)), "var": u.var((1, 3), unbiased=False)}

    def launch(self, norm_act: Any, config: Any = None) -> dict[str, Tensor]:
        """Every output of the launchers."""
        out = {}
        if self.training:
            z, mean, var = norm_act.norm_act_train(
                self.x, *self.parameters, *self.code, config=config
            )
            out |= {"mean": mean, "var": var}
        else:
            mean, var = self.mean, self.var
            z = norm_act.norm_act_eval(
                self.x, mean, var, *self.parameters, *self.code, config=config
            )
        dx, dweight, dbias = norm_act.norm_act_backward(
            self.dz, self.x, mean, var, *self.parameters, *self.code,
            self.training, True, True, config=config,
        )  # fmt: skip
        out |= {"z": z, "dx": dx}
        if self.affine:
            out |= {"dweight": dweight, "dbias": dbias}
        return out

    def check(self, norm_act: Any, config: Any = None) -> dict[str, Tensor]:
        """Launches and compares everything with the truth; returns what was launched."""
        got = self.launch(norm_act, config)
        truth = self.compose(torch.float64, torch.float64)
        torch_own = self.compose(self.dtype, torch.float32)
        if self.training:
            truth |= self.statistics()
            torch_own |= {k: truth[k].float() for k in ("mean", "var")}
        assert got["z"].stride() == got["dx"].stride() == self.x.stride()
        assert got["z"].dtype == got["dx"].dtype == self.dtype
        for name, value in got.items():
            # A mean is a sum of values of x's size, whatever its own.
            size = self.x.abs().max().item() if name == "mean" else 0.0
            assert_close(name, value, truth[name], torch_own[name], size)
        return got

    def check_spoiled(self, norm_act: Any, bad: float, config: Any = None) -> dict[str, Tensor]:
        """One bad value makes its channel NaN in its segment, the last, and nothing else."""
        self.x[-1, 1, 2, 2] = bad
        got = self.launch(norm_act, config)
        clean = torch.ones_like(self.x, dtype=torch.bool)
        clean[-(self.shape[0] // self.segments) :, 1] = False
        for name in ("z", "dx"):
            assert got[name][~clean].isnan().all(), name
            assert got[name][clean].isfinite().all(), name
        return got


def assert_close(
    name: str, got: Tensor, truth: Tensor, torch_own: Tensor, size: float = 0.0
) -> None:
    """Holds to the rule with float32's floor whatever the dtype: sums are float32 throughout."""
    assert_as_exact(name, got, torch_own, truth, floor=torch.float32, size=size)


def _biased(c: Case, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """PyTorch's own: add and activation in one dtype."""
    x = c.x.to(dtype)
    return c.act(x if bias is None else x + bias.to(dtype).reshape(-1, *[1] * (x.dim() - 2)))


def _biased_backward(c: Case, z: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """PyTorch's own from the same z: the rounding of z is the forward pass's error."""
    z, dz = z.to(dtype), c.dz.to(dtype)
    if c.activation == 0:
        dx = torch.ops.aten.leaky_relu_backward(dz, z, c.slope, True)
    elif c.activation == 1:
        dx = torch.ops.aten.tanh_backward(dz, z)
    else:
        dx = torch.ops.aten.sigmoid_backward(dz, z)
    return {"dx": dx, "dbias": dx.sum([d for d in range(dx.dim()) if d != 1])}


def check_bias_act(c: Case, config: Any, with_bias: bool = True) -> None:
    from fastgan.kernels import bias_act

    bias = c.bias if with_bias else None
    z = bias_act.bias_act(c.x, bias, c.activation, c.slope, config=config)
    dx, dbias = bias_act.bias_act_backward(c.dz, z, c.activation, c.slope, with_bias, config=config)
    assert z.stride() == dx.stride() == c.x.stride()
    assert_close("z", z, _biased(c, bias, torch.float64), _biased(c, bias, c.dtype))
    truth = _biased_backward(c, z, torch.float64)
    own = _biased_backward(c, z, c.dtype)
    assert_close("dx", dx, truth["dx"], own["dx"])
    if with_bias:
        assert_close("dbias", dbias, truth["dbias"], own["dbias"])
    else:
        assert dbias.numel() == 0
