"""pytorch#64039, #48988: synchronised norm whose processes hold other memory layouts, and one of
which evaluates alone.

The gradient was wrong where images and gradient lay differently, and the evaluation waited for
ever. Right: results are those of one process on the whole batch; evaluation asks no one.
"""

from __future__ import annotations

import processes
import pytest
import torch
from along import sizes
from tolerance import FLOOR, error
from torch import Tensor, nn
from ways import Results

import fastgan.nn as fnn

# Of each process's images; the gradient that comes back lies as the other's images.
FORMATS = [torch.channels_last, torch.contiguous_format]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Transposing(nn.Module):
    """The report's: a linear layer's features are normalised as channels, and turned back."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 6), norm, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(2).transpose(1, 2)).unsqueeze(-1)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.last(x.squeeze(-1))


class Alone(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


MODELS = {"transposing": Transposing, "alone": Alone}


def model(kind: str, dtype: torch.dtype, sync: bool) -> nn.Module:
    torch.manual_seed(4)
    norm: nn.Module = nn.Sequential(nn.BatchNorm2d(6), nn.LeakyReLU(0.2))
    if sync:
        norm = fnn.BatchNormAct2d(6, negative_slope=0.2, sync=True)
    found = MODELS[kind](norm).to(dtype)
    for p in found.parameters():
        nn.init.normal_(p, std=0.5)
    return found


def images(rank: int) -> Tensor:
    return torch.randn(4, 6, 5, 4, generator=torch.Generator().manual_seed(rank)) + 0.5


def trained(network: nn.Module, x: Tensor, of_gradient: torch.memory_format) -> Results:
    """Sums, so that the gradients of the processes' parts add up to the whole batch's."""
    x = x.detach().requires_grad_()
    y = network(x)
    gradient = torch.cos(torch.arange(y.numel() // len(y))).to(y.dtype).expand(len(y), -1)
    gradient = gradient.reshape(y.shape)
    if y.dim() == 4:
        gradient = gradient.contiguous(memory_format=of_gradient)
    y.backward(gradient)
    found = {f"d {k}": p.grad for k, p in network.named_parameters()} | {"dx": x.grad, "y": y}
    return found | {k: b.clone() for k, b in network.named_buffers() if b.is_floating_point()}


def compute(rank: int) -> dict[str, Results | Tensor]:
    found: dict[str, Results | Tensor] = {}
    for kind in MODELS:
        for name, dtype in DTYPES.items():
            x = images(rank).to(dtype).contiguous(memory_format=FORMATS[rank])
            network = model(kind, dtype, sync=True)
            found[f"{kind} {name}"] = trained(network, x, FORMATS[1 - rank])
        # The first process evaluates by itself, and both go on training.
        if rank == 0:
            found[f"{kind} evaluated"] = network.eval()(x).detach()
            network.train()
        found[f"{kind} after"] = network(x).detach()
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    return processes.in_two_processes(__file__, tmp_path_factory.mktemp("sync"))


def together(parts: list[Results]) -> Results:
    """The processes' results as those of the whole batch: parameters' gradients add up."""
    joined = {}
    for name, value in parts[0].items():
        both = [part[name].detach() for part in parts]
        if name in ("dx", "y"):
            joined[name] = torch.cat(both)
        elif name.startswith("d "):
            joined[name] = both[0] + both[1]
        else:
            torch.testing.assert_close(both[0], both[1], rtol=0, atol=0)
            joined[name] = value
    return joined


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("kind", MODELS)
def test_layouts_that_differ_among_processes(
    found: list[dict[str, Results]], kind: str, name: str
) -> None:
    batch = torch.cat([images(0), images(1)])
    own = together([result[f"{kind} {name}"] for result in found])
    theirs, exact = (
        trained(model(kind, dtype, sync=False), batch.to(dtype), torch.contiguous_format)
        for dtype in (DTYPES[name], torch.float64)
    )
    renamed = {k.replace("norm.0.", "norm."): k for k in exact}
    natural = sizes({k: g for k, g in exact.items() if k.startswith("d ")})
    for key, value in own.items():
        plain = renamed[key]
        size = natural.get(plain, 0.0)
        allowed = 2 * error(theirs[plain], exact[plain], size) + FLOOR[DTYPES[name]]
        assert error(value, exact[plain], size) <= allowed, key


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_of_one_process_asks_no_other(found: list[dict[str, Tensor]], kind: str) -> None:
    network = model(kind, torch.float64, sync=False)
    batch = torch.cat([images(0), images(1)]).double()
    network(batch)
    expected = network.eval()(images(0).double())
    torch.testing.assert_close(found[0][f"{kind} evaluated"], expected)
    after = network.train()(batch)
    torch.testing.assert_close(torch.cat([r[f"{kind} after"] for r in found]), after)


if __name__ == "__main__":
    processes.worker(compute)
