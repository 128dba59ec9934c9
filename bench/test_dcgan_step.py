"""A training step of DCGAN-64 on the CPU: batch 64, ngf = ndf = 64, latent 100.

Candidates run in turn within one run (see paired.py), with the same weights, data and optimizer:

- fused: `FusedSequential`, channels-last; the discriminator is frozen in the generator's update;
- joint: the same with one discriminator pass over [real; fake];
- contiguous, channels_last, compiled (channels-last): the same networks of torch.nn. "equal": the
  discriminator is frozen, as ours; "tutorial": it is not, as in PyTorch's DCGAN tutorial, and its
  weight gradients of the generator's update are thrown away.

Beside the ratios stands the floor: the step's multiply-adds over the fastest matrix product that
was measured in the run.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from statistics import median

import pytest
import torch
from paired import Times, interleave, ratio
from torch import Tensor, nn
from torch.nn.functional import softplus

from fastgan.nn import FusedSequential, segments

BATCH, WIDTH, LATENT = 64, 64, 100
ROUNDS = 5
DTYPES = ["float32", "bfloat16"]


def generator() -> nn.Sequential:
    channels = [LATENT, 8 * WIDTH, 4 * WIDTH, 2 * WIDTH, WIDTH]
    layers: list[nn.Module] = []
    for i in range(4):
        geometry = (4, 2, 1) if i else (4, 1, 0)
        conv = nn.ConvTranspose2d(channels[i], channels[i + 1], *geometry, bias=False)
        layers += [conv, nn.BatchNorm2d(channels[i + 1]), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(WIDTH, 3, 4, 2, 1, bias=False), nn.Tanh())


def discriminator() -> nn.Sequential:
    channels = [WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 4, 2, 1, bias=False)]
    layers += [nn.LeakyReLU(0.2, inplace=True)]
    for i in range(3):
        conv = nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(channels[i + 1]), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(channels[3], 1, 4, bias=False))


def training_step(
    networks: tuple[nn.Module, nn.Module],
    real: Tensor,
    dtype: str,
    frozen: bool,
    joint: bool = False,
) -> Callable[[], object]:
    """One update of each network, as a function of nothing."""
    generate, discriminate = networks
    optimizer_g, optimizer_d = (
        torch.optim.Adam(m.parameters(), 2e-4, (0.5, 0.999), fused=True) for m in networks
    )

    def logits(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return discriminate(images).float()

    def both(fake: Tensor) -> tuple[Tensor, Tensor]:
        if not joint:
            return logits(real), logits(fake)
        with segments(discriminate, 2):
            of_real, of_fake = logits(torch.cat([real.to(fake.dtype), fake])).chunk(2)
        return of_real, of_fake

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            fake = generate(torch.randn(BATCH, LATENT, 1, 1))
        of_real, of_fake = both(fake.detach())
        optimizer_d.zero_grad()
        (softplus(-of_real).mean() + softplus(of_fake).mean()).backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        discriminate.requires_grad_(not frozen)
        softplus(-logits(fake)).mean().backward()
        discriminate.requires_grad_(True)
        optimizer_g.step()

    return step


def candidates(dtype: str) -> dict[str, Callable[[], object]]:
    torch._dynamo.reset()
    plain = generator(), discriminator()
    contiguous = torch.randn(BATCH, 3, 64, 64)
    real = contiguous.contiguous(memory_format=torch.channels_last)

    def copies() -> list[nn.Sequential]:
        return [copy.deepcopy(m).to(memory_format=torch.channels_last) for m in plain]

    def ours(joint: bool) -> Callable[[], object]:
        g, d = (FusedSequential(OrderedDict(m.named_children())) for m in copies())
        return training_step((g, d), real, dtype, True, joint)

    def compiled(frozen: bool) -> Callable[[], object]:
        g, d = (torch.compile(m, dynamic=False) for m in copies())
        return training_step((g, d), real, dtype, frozen)

    runs = {"fused": ours(False), "joint": ours(True)}
    for kind, frozen in {"equal": True, "tutorial": False}.items():
        contiguous_copies = copy.deepcopy(plain)
        runs[f"contiguous {kind}"] = training_step(contiguous_copies, contiguous, dtype, frozen)
        runs[f"channels_last {kind}"] = training_step(tuple(copies()), real, dtype, frozen)
        runs[f"compiled {kind}"] = compiled(frozen)
    return runs


def operations() -> float:
    """Multiply-adds (two operations each) of a step without gradients nobody asked for."""
    stages = [2 * 4 * 4 * (WIDTH << i) * (WIDTH << (i + 1)) * (16 >> i) ** 2 for i in range(3)]
    image = 2 * 4 * 4 * 3 * WIDTH * 32 * 32
    of_g = sum(stages) + image + 2 * LATENT * 8 * WIDTH * 16
    of_d = sum(stages) + image + 2 * 8 * WIDTH * 16
    # Once forward, once a gradient. G: forward, both gradients but that of the noise. D: two passes
    # with weight gradients and without the images', then one with the images' and without weights'.
    of_g_step = 3 * of_g - 2 * LATENT * 8 * WIDTH * 16
    of_d_step = 2 * (3 * of_d - image) + 2 * of_d
    return float(BATCH * (of_g_step + of_d_step))


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations per second of the fastest of a few square matrix products."""
    best = 0.0
    for n in (1024, 2048):
        a = torch.randn(n, n).to(dtype)
        times = interleave({"product": lambda a=a: a @ a}, 10)["product"]
        best = max(best, 2 * n**3 / min(times))
    return best


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_step(benchmark: Callable[..., object], dtype: str) -> None:
    runs = candidates(dtype)
    times: Times = interleave(runs, ROUNDS, warm_up=2)
    benchmark.pedantic(runs["fused"], rounds=1)
    rate = max(matrix_rate(torch.float32), matrix_rate(getattr(torch, dtype)))
    floor = operations() / rate
    print(f"\n{dtype}: floor {floor * 1e3:.0f} ms ({rate / 1e9:.0f} GFLOP/s)")
    for name, seconds in times.items():
        row = f"{name:22} {median(seconds) * 1e3:6.0f} ms"
        for own in ("fused", "joint"):
            value = ratio(times, name, own)
            benchmark.extra_info[f"{own} over {name}"] = value
            row += f", {own} {value:.2f}x"
        print(row)
    benchmark.extra_info["floor"] = floor
    benchmark.extra_info["share of the floor"] = floor / min(times["fused"])
