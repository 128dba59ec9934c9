"""One process of the tests of synchronised statistics; its folder holds cases.pt."""

from __future__ import annotations

import copy
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from processes import WORLD, worker
from torch import Tensor, nn

import fastgan.nn as fnn
from fastgan.augment import ADA
from fastgan.ops import backend, sync_norm_act
from fastgan.ops.norm_act import sync
from fastgan.regularizers import LeCam

Result = dict[str, Any]


class Critic(nn.Module):
    """Convolutions with both orders of normalisation, and tanh, whose second derivative counts."""

    def __init__(self, segments: int, sync: bool, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        kinds: dict[str, Any] = {"segments": segments, "sync": sync}
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False),
            fnn.BatchNormAct2d(4, negative_slope=0.2, **kinds),
            nn.Conv2d(4, 4, 3, bias=False),
            fnn.BatchNormAct2d(4, momentum=None, activation="tanh", **kinds),
            nn.Conv2d(4, 3, 2),
            fnn.BatchNormAct2d(3, activation="sigmoid", order="act_norm", **kinds),
            nn.Flatten(),
            nn.Linear(12, 1, bias=False),
        )
        for p in self.parameters():
            nn.init.normal_(p, std=0.5)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def train(x: Tensor, segments: int, sync: bool) -> Result:
    """Two training steps with a gradient penalty (Mescheder et al. 2018); sums, not means."""
    critic = Critic(segments, sync, x.dtype)
    optimizer = torch.optim.SGD(critic.parameters(), lr=1e-3)
    outputs, x_grads, penalties = [], [], []
    for _ in range(2):
        optimizer.zero_grad()
        x = x.detach().requires_grad_()
        logits = critic(x)
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        penalty = slope.square().sum((1, 2, 3))
        (nn.functional.softplus(-logits).sum() + 0.3 * penalty.sum()).backward()
        if sync:
            for p in critic.parameters():
                dist.all_reduce(p.grad)
        optimizer.step()
        outputs.append(logits.detach())
        x_grads.append(x.grad)
        penalties.append(penalty.detach())
    return {
        # What belongs to an image is put together from the processes' parts; the rest is alike.
        "per_image": {"z": outputs, "dx": x_grads, "penalty": penalties},
        "shared": {f"grad {k}": p.grad for k, p in critic.named_parameters()} | critic.state_dict(),
    }


def normalise(x: Tensor, sync: bool) -> Result:
    """One layer on its own, so that no convolution hides the rounding."""
    layer = fnn.BatchNormAct2d(x.shape[1], sync=sync, negative_slope=0.2).to(x.dtype)
    x = x.detach().requires_grad_()
    z = layer(x)
    (dx,) = torch.autograd.grad(z.square().sum() + z.pow(3).sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.square().sum(), x, create_graph=True)
    (dddx,) = torch.autograd.grad(ddx.square().sum(), x)
    each = {"z": [z.detach()], "dx": [dx.detach()], "ddx": [ddx.detach()], "dddx": [dddx]}
    return {"per_image": each, "shared": layer.state_dict()}


def _message(call: Any) -> str:
    try:
        call()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def edges(rank: int) -> Result:
    """What the processes do beside the ordinary."""
    alone = [dist.new_group([r]) for r in range(dist.get_world_size())]
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(rank))

    def run(value: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
        return sync_norm_act(value, None, None, process_group=group)

    def forced() -> Tensor:
        with backend("cpu"):
            return run(x)

    layer = fnn.BatchNormAct1d(2, sync=True, process_group=alone[rank])
    copied = copy.deepcopy(layer)
    empty = torch.empty(0, 2, requires_grad=True)
    mean, var = torch.zeros(2), torch.ones(2)
    nothing = sync_norm_act(empty, mean, var)
    nothing.sum().backward()
    channels_last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    half = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(rank)).bfloat16()
    return {
        "alone": (x, run(x, alone[rank]), layer(x)),
        "copy shares the group": copied.process_group is layer.process_group,
        "copy is another": copied.weight is not layer.weight,
        "outsider": _message(lambda: run(x, alone[1 - rank])),
        "one value": _message(lambda: run(torch.ones(1 - rank, 2))),
        "forced": _message(forced),
        "slices": _message(lambda: sync_norm_act(x, None, None, segments=2)),
        "half of the statistics": _message(lambda: sync_norm_act(x, torch.zeros(2), None)),
        "not a tensor": _message(lambda: sync_norm_act(None, None, None)),
        "nothing": (nothing.detach(), empty.grad, mean, var),
        "layout": run(channels_last).stride() == channels_last.stride(),
        "half": (half, run(half)),
    }


def recorded(rank: int) -> Result:
    """One value a channel on each process, as ever and as in a CUDA graph, which reads no value."""
    x, results = torch.randn(1, 3, generator=torch.Generator().manual_seed(rank)), {}

    def read(_: Tensor) -> Any:
        raise AssertionError("the host reads a value")

    for captured in (False, True):
        stats = torch.zeros(3), torch.ones(3)
        with ExitStack() as stack:
            if captured:
                stack.enter_context(mock.patch.object(sync, "is_captured", return_value=True))
                for name in ("__int__", "__float__", "__bool__", "item"):
                    stack.enter_context(mock.patch.object(Tensor, name, read))
            z = sync_norm_act(x, *stats, momentum=0.5)
        results[captured] = (z, *stats)
    return results


def adapt(logits: list[Tensor]) -> Result:
    """The state of what adapts to logits, after some updates."""
    ada, lecam = ADA(kimg=0.1, interval=2), LeCam()
    for each in logits:
        ada.update(each)
        lecam.penalty(each, -2 * each)
    return {**ada.state_dict(), **lecam.state_dict()}


def compute(rank: int) -> Result:
    cases = torch.load(Path(sys.argv[2]) / "cases.pt")
    return {
        "train": {
            k: train(c["parts"][rank], c["segments"], True) for k, c in cases["train"].items()
        },
        "normalise": {k: normalise(parts[rank], True) for k, parts in cases["normalise"].items()},
        "edges": edges(rank),
        "recorded": recorded(rank),
        "adapt": adapt([logits.chunk(WORLD)[rank] for logits in cases["adapt"]]),
    }


if __name__ == "__main__":
    worker(compute)
