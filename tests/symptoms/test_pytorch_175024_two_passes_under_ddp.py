"""pytorch#175024, #22095: two passes of a discriminator under DDP, then one backward.

DDP copies the first process's running statistics to the others before every pass, which made the
first pass's backward fail. Right: the gradients are the mean over the processes, as in float64, and
writing to running statistics between two passes in training mode harms no backward.
"""

from __future__ import annotations

import processes
import pytest
import torch
from tolerance import FLOOR, error
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from ways import WAYS, Results, assert_right, backward, like

from fastgan.nn import FusedSequential
from fastgan.ops import convolution_form

FORMS = {"auto": "auto", "recompute": "recompute", "in one kernel": "fused"}


def layers() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 1, 4),
    )


def images(rank: int) -> tuple[Tensor, Tensor]:
    real, fake = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    return real, fake


def one_backward(discriminator: nn.Module, real: Tensor, fake: Tensor) -> None:
    (discriminator(fake).pow(2).mean() - discriminator(real).mean()).backward()


def compute(rank: int) -> dict[tuple[str, str], Results]:
    found = {}
    for form, name in FORMS.items():
        for way, make in WAYS.items():
            with convolution_form(name):
                model = make(layers())
                one_backward(DistributedDataParallel(model), *images(rank))
            gradients = {f"d {k}": p.grad for k, p in model.named_parameters()}
            found[way, form] = gradients | dict(model.named_buffers())
    return found


def alone(dtype: torch.dtype) -> list[Results]:
    """What both processes come to, in this one, by plain layers."""
    models = [layers().to(dtype) for _ in range(2)]
    losses = []
    for position in (1, 0):
        for rank, model in enumerate(models):
            image = images(rank)[position].to(dtype)
            y = model(image)
            losses.append(y.pow(2).mean() if position else -y.mean())
        if position:
            for own, first in zip(models[1].buffers(), models[0].buffers(), strict=True):
                own.data.copy_(first)
    sum(losses).backward()
    named = [dict(model.named_parameters()) for model in models]
    mean = {f"d {k}": (named[0][k].grad + named[1][k].grad) / 2 for k in named[0]}
    return [mean | dict(model.named_buffers()) for model in models]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], Results]]:
    return processes.in_two_processes(__file__, tmp_path_factory.mktemp("ddp"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_gradients_and_statistics_are_those_of_both_processes(
    found: list[dict[tuple[str, str], Results]], way: str, form: str
) -> None:
    for own, theirs, exact in zip(found, alone(torch.float32), alone(torch.float64), strict=True):
        for name, value in exact.items():
            actual, allowed = (
                own[way, form][name],
                2 * error(theirs[name], value) + FLOOR[torch.float32],
            )
            assert error(actual, value) <= allowed, name


def test_running_statistics_may_be_written_to_between_passes(setting: str) -> None:
    """In place, as DDP does on a GPU; plain layers, which fail of it, are given others instead."""
    real, fake = images(0)

    def compute(model: nn.Module) -> Results:
        x, y = like(model, real), like(model, fake)
        first = model(y)
        with torch.no_grad():
            for layer in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
                for name in ("running_mean", "running_var"):
                    value = layer._buffers[name]
                    in_place = isinstance(model, FusedSequential)
                    layer._buffers[name] = value.add_(1) if in_place else value + 1
        return backward(model, first.pow(2).mean() - model(x).mean(), x=x, y=y)

    assert_right(WAYS["FusedSequential"], layers(), compute)


if __name__ == "__main__":
    processes.worker(compute)
