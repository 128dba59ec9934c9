"""What the interpreter tests and the GPU tests share: cases, the float64 truth, the tolerance."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

# Tolerance: twice the error of PyTorch's own composition at the same dtype, plus this floor times
# the largest magnitude of the float64 truth: a few float32 roundings, where PyTorch happens to hit
# the truth exactly (on the CPU it sums in double precision).
FLOOR = 8 * torch.finfo(torch.float32).eps


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside, torch.empty and its kin are filled with NaN: what a kernel leaves out shows."""
    previous = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(previous)


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
        generator = torch.Generator().manual_seed(self.seed)

        def random(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        c = self.shape[1]
        self.x = self.laid_out(random(self.shape) * self.scale + self.shift)
        self.dz = self.laid_out(random(self.shape))
        # gamma of either sign, and zero
        self.weight = random((c,)).index_fill_(0, torch.tensor([c - 1], device=self.device), 0.0)
        self.bias = random((c,))
        self.mean = random((self.segments, c)) * 0.1 + self.shift
        self.var = random((self.segments, c)).square() + 0.5 * self.scale**2

    def laid_out(self, t: Tensor) -> Tensor:
        t = t.to(self.dtype)
        if self.channels_last:
            return t.movedim(1, -1).contiguous().movedim(-1, 1)
        return t.contiguous()

    @property
    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        return (self.weight, self.bias) if self.affine else (None, None)

    @property
    def code(self) -> tuple[float, int, float, int, bool]:
        return self.eps, self.activation, self.slope, self.segments, self.act_first

    def act(self, t: Tensor) -> Tensor:
        if self.activation == 1:
            return torch.tanh(t)
        return torch.sigmoid(t) if self.activation == 2 else F.leaky_relu(t, self.slope)

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
        with poisoned():
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


def assert_close(
    name: str, got: Tensor, truth: Tensor, torch_own: Tensor, size: float = 0.0
) -> None:
    assert got.shape == truth.shape, (name, got.shape, truth.shape)
    error = (got.double() - truth).abs().max().item()
    own = (torch_own.double() - truth).abs().max().item()
    bound = 2 * own + FLOOR * max(1e-30, size, truth.abs().max().item())
    message = f"{name}: error {error:.3g}, PyTorch's own {own:.3g}, bound {bound:.3g}"
    assert error <= bound, message


@pytest.fixture(scope="session")
def case() -> type[Case]:
    return Case


@pytest.fixture(scope="session")
def close() -> Any:
    return assert_close


@pytest.fixture(scope="session")
def poison() -> Any:
    return poisoned


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These tensors are small, and waiting for a busy core costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
