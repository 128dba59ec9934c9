"""One workload in one process, for `python -m bench.commits`. Run by its path, with the fastgan of
the commit that is measured: nothing here may need more than torch and long-lived public names.
So `bench.dcgan_step` takes the networks from here, and not the other way round.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

Run = Callable[[], None]
LATENT = 100
WARM_UP, LEAST_STEPS = 3, 5


def generator(width: int = 64) -> nn.Sequential:
    channels = [LATENT, 8 * width, 4 * width, 2 * width, width]
    layers: list[nn.Module] = []
    for i in range(4):
        geometry = (4, 2, 1) if i else (4, 1, 0)
        conv = nn.ConvTranspose2d(channels[i], channels[i + 1], *geometry, bias=False)
        layers += [conv, nn.BatchNorm2d(channels[i + 1]), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


def discriminator(width: int = 64) -> nn.Sequential:
    channels = [width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False)]
    layers += [nn.LeakyReLU(0.2, inplace=True)]
    for i in range(3):
        conv = nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(channels[i + 1]), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(channels[3], 1, 4, bias=False))


def fused(network: nn.Sequential) -> nn.Module:
    from fastgan.nn import FusedSequential

    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return FusedSequential(OrderedDict(network.named_children()))


def step(batch: int, dtype: torch.dtype = torch.float32) -> Run:
    """One update of each network of a DCGAN-64; the discriminator's weights take no gradient in
    the generator's."""
    from fastgan.optim import Adam

    networks = g, d = fused(generator()), fused(discriminator())
    adam_g, adam_d = (
        Adam(network.parameters(), 2e-4, (0.5, 0.999), fused=True) for network in networks
    )
    real = torch.rand(batch, 3, 64, 64) * 2 - 1
    real, z = real.to(memory_format=torch.channels_last), torch.randn(batch, LATENT, 1, 1)

    def call(network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            y: Tensor = network(x)
        return y

    def run() -> None:
        fake = call(g, z)
        adam_d.zero_grad()
        on_real, on_fake = call(d, real).float(), call(d, fake.detach()).float()
        (softplus(-on_real).mean() + softplus(on_fake).mean()).backward()
        adam_d.step()
        adam_g.zero_grad()
        d.requires_grad_(False)
        softplus(-call(d, fake).float()).mean().backward()
        adam_g.step()
        d.requires_grad_(True)

    return run


def norm(shape: tuple[int, ...], layout: torch.memory_format = torch.channels_last) -> Run:
    """A batch norm and LeakyReLU, forward and backward."""
    layer = fused(nn.Sequential(nn.BatchNorm2d(shape[1]), nn.LeakyReLU(0.2, inplace=True)))
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.randn_like(x)

    def run() -> None:
        x.grad = None
        layer(x).backward(gradient)

    return run


WORKLOADS: dict[str, Callable[[], Run]] = {
    "step-64": lambda: step(64),
    "step-16": lambda: step(16),
    "step-64-bfloat16": lambda: step(64, torch.bfloat16),
    "norm-32x32": lambda: norm((64, 64, 32, 32)),
    "norm-16x16": lambda: norm((32, 128, 16, 16)),
    "norm-8x8-contiguous": lambda: norm((32, 256, 8, 8), torch.contiguous_format),
    "norm-1x64x8x8": lambda: norm((1, 64, 8, 8)),
}


def seconds_of_a_step(run: Run, seconds: float) -> float:
    for _ in range(WARM_UP):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST_STEPS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


def main(tree: str, workload: str, threads: str, seconds: str) -> None:
    import fastgan

    if not Path(fastgan.__file__).is_relative_to(tree):
        raise SystemExit(f"fastgan comes from {fastgan.__file__}, not from {tree}")
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    print(json.dumps(seconds_of_a_step(WORKLOADS[workload](), float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
