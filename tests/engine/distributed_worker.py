"""One process of several: `distributed_worker.py FOLDER`, with torchrun's variables set.

FOLDER gets one result file from each process. With one process it computes what several must equal.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastgan
from fastgan.data import ImageDataset
from fastgan.engine import (
    Batch,
    Callback,
    GANObjective,
    TrainConfig,
    Trainer,
    find_checkpoint,
    gan_step,
    launched,
)
from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.log import SilentReporter
from fastgan.engine.reduction import Reduction
from fastgan.engine.update import Update
from fastgan.models import create_model

TINY = {"image_size": 8, "channels": 1, "width": 8}
CASES: dict[str, dict[str, Any]] = {
    "batch norm, R1": {"norm": "batch", "sync_batchnorm": True, "regularizer": "r1"},
    "joint batch": {"norm": "batch", "sync_batchnorm": True, "joint_batch": True},
    "relativistic average, R1 and R2": {
        "norm": "none",
        "loss": "relativistic_average",
        "regularizer": "r1_r2",
        "clip_grad": 0.1,
    },
    "one stage": {"norm": "none", "update_rule": "one_stage"},
}
KINDS: dict[str, dict[str, Any]] = {
    "batch norm, clipped": {"norm": "batch", "clip_grad": 0.1, "sync_batchnorm": True},
    "lazy R1, relativistic": {
        "regularizer": "r1", "reg_every": 2, "loss": "relativistic_average",
    },
    "two updates, WGAN-GP": {
        "regularizer": "wgan_gp", "loss": "wasserstein", "discriminator_steps": 2,
    },
    "accumulation, bfloat16": {"norm": "batch", "accumulate": 2, "precision": "bfloat16"},
    "simultaneous, a frozen layer": {"update_rule": "simultaneous", "freeze_d": 1},
    "one stage": {"update_rule": "one_stage"},
}  # fmt: skip
RUN: dict[str, Any] = {
    "steps": 60,
    "batch_size": 8,
    "limit": 64,
    "log_every": 1,
    "checkpoint_every": 4,
    "sample_every": 0,
    "sample_count": 4,
    "watch_every": 5,
    "device": "cpu",
}


def trainer(norm: str = "none", dropout: float = 0.0, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    rule = settings.pop("update_rule", "alternating")
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    return Trainer(
        create_model("dcgan_generator", latent_dim=6, norm=norm, **TINY),
        create_model("dcgan_discriminator", norm=norm, dropout=dropout, **TINY),
        ImageDataset(images=images),
        TrainConfig(**{"batch_size": 8, "sample_count": 4, "steps": 6, **settings}),
        objective=GANObjective(update_rule=rule),
    )


def one_step(dtype: torch.dtype, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients and running statistics of one step on this process's part of the batch."""
    made = trainer(**settings)
    networks = {"g": made.generator, "d": made.discriminator}
    for network in networks.values():
        network.to(dtype)
        if settings["norm"] == "none":
            # The initial weights alone would silence the signal.
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(4.0)

    def batches(i: int) -> Batch:
        images, _ = made.loader.batch(i)
        return Batch(images.to(dtype), None, made._draw_noise().to(dtype))

    gan_step(made.gan, batches)
    found = {f"{k}.{n}": p.grad for k, m in networks.items() for n, p in m.named_parameters()}
    return found | {
        f"{k}.{n}": b for k, m in networks.items() for n, b in m.named_buffers() if "running" in n
    }


def weights(made: Trainer) -> dict[str, Tensor]:
    state = {f"g.{k}": v for k, v in made.generator.state_dict().items()}
    return state | {f"d.{k}": v for k, v in made.discriminator.state_dict().items()}


def resumed_run(folder: Path) -> dict[str, Any]:
    """A run with dropout, in one go and in two parts: each process has its own random numbers."""
    settings = {"dropout": 0.3, "log_every": 2, "sample_every": 0, "checkpoint_every": 4}
    quiet = SilentReporter()
    whole = trainer(**settings)
    whole.fit(folder / "whole", reporter=quiet)
    trainer(**settings, steps=4).fit(folder / "parts", reporter=quiet)
    again = trainer(**settings)
    result = again.fit(folder / "parts", resume=True, reporter=quiet)
    assert result.finished
    return {"whole": weights(whole), "parts": weights(again), "torch": torch.get_rng_state()}


class Counted(Reduction):
    """Notes of each update how many buckets had gone off before its end."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.sent: list[int] = []

    def finish(self) -> int:
        self.sent.append(super().finish())
        return self.sent[-1]


class AtOnce(Counted):
    """All gradients of a dtype in one buffer, when the update ends."""

    def start(self, passes: int = 0) -> None:
        super().start()


def four_steps(settings: dict[str, Any], made_by: type[Counted], size: int) -> dict[str, Any]:
    """Gradients and weights after four steps, and the buckets that went off before the end."""
    made, found = trainer(**settings), {}
    networks = {"g": made.generator, "d": made.discriminator}
    made.discriminator.unused = nn.Parameter(torch.ones(3))
    for name, update in (("g", made.gan.update_g), ("d", made.gan.update_d)):
        update._reduction = found[name] = made_by(update.parameters, made.group, size)
    for _ in range(4):
        made.train_step()
    return {
        "sent": {name: reduction.sent for name, reduction in found.items()},
        "weights": weights(made),
        "gradients": {
            f"{k}.{n}": p.grad for k, m in networks.items() for n, p in m.named_parameters()
        },
    }


def changing_gradients() -> list[tuple[int, list[Tensor | None]]]:
    """Of each of five updates: how many buckets travelled within the last backward pass, and the
    mean of the gradients of two ranks, which one process alone takes itself. Each bucket holds one
    tensor; the fourth update leaves the last layer out.
    """
    group, found = DistributedGroup.current(), []
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    network[1].weight.data = network[1].weight.data.t()  # gradients keep its layout
    reduction = Reduction(list(network.parameters()), group, size=1)
    for update in range(5):
        used = network[:2] if update == 3 else network
        network.zero_grad()
        reduction.start(passes=2)
        ranks = [group.rank] if group.size > 1 else [0, 1]
        inputs = [
            torch.randn(2, 3, generator=torch.Generator().manual_seed(2 * update + rank))
            for rank in ranks
        ]
        for layers in (network[0], used):
            reduction.begin_pass()
            sum(layers(x).square().sum() / len(ranks) for x in inputs).backward()
        sent = reduction.finish()
        grads = [p.grad for p in network.parameters()]
        layouts = zip(grads, network.parameters(), strict=True)
        assert all(g is None or g.stride() == p.stride() for g, p in layouts)
        assert all(g is None or g.data_ptr() % 16 == 0 for g in grads)
        found.append((sent, [None if g is None else g.clone() for g in grads]))
    return found


def _one_pass_too_many() -> None:
    layer = nn.Linear(2, 1)
    update = Update(layer, 0.1, (0.5, 0.9), group=DistributedGroup.current())
    for passes in (1, 2):
        update.start(1)
        for _ in range(passes):
            update.backward(layer(torch.ones(1, 2)).sum())
        update.finish()


class SignalToTheSecond(Callback):
    def on_step(self, trainer: Trainer) -> None:
        if trainer.step == 3 and trainer.group.rank == 1:
            signal.raise_signal(signal.SIGTERM)


def stopped_run(folder: Path) -> tuple[int, int | None]:
    """A signal that only one process gets ends all of them, after the same step."""
    made = trainer(checkpoint_every=0)
    made.callbacks.append(SignalToTheSecond())
    result = made.fit(folder / "stopped", reporter=SilentReporter())
    return result.step, result.stopped_by


def unreadable_run(folder: Path) -> dict[str, Any]:
    """Data that one process cannot read: all save what they have trained, then each says why."""
    settings = {"dropout": 0.3, "log_every": 2, "sample_every": 0, "checkpoint_every": 0}
    out, quiet = folder / "unreadable", SilentReporter()
    made = trainer(**settings)
    rows = made.loader.rows

    def gone(update: int) -> Any:
        if update == 3 and made.group.rank == 1:
            raise RuntimeError("a file of the set is gone")
        return rows(update)

    made.loader.rows = gone
    try:
        made.fit(out, reporter=quiet)
        told = "no error"
    except (RuntimeError, OSError) as error:
        told = f"{type(error).__name__}: {error}"
    saved = find_checkpoint(out).step
    again = trainer(**settings)
    again.fit(out, resume=True, reporter=quiet)
    return {"told": told, "saved": saved, "weights": weights(again)}


def messages(folder: Path) -> list[str]:
    """Mistakes that every process must hear of."""
    found = []
    for attempt in (
        lambda: trainer(batch_size=9),
        lambda: trainer(batch_size=8, accumulate=8),
        lambda: trainer().fit(folder / "whole", reporter=SilentReporter()),
        lambda: Reduction(_uneven(), DistributedGroup.current()).finish(),
        _one_pass_too_many,
    ):
        try:
            attempt()
            found.append("no error")
        except (ValueError, OSError, RuntimeError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def _uneven() -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    own = parameters[DistributedGroup.current().rank]
    own.grad = torch.ones_like(own)
    return parameters


def thread_names() -> list[str]:
    return [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with launched("cpu") as group:
        result: dict[str, Any] = {
            "steps": {
                (name, dtype): one_step(dtype, settings)
                for name, settings in CASES.items()
                for dtype in (torch.float32, torch.float64)
            },
            "changing": changing_gradients(),
        }
        if group.size > 1:
            result["kinds"] = {
                name: (four_steps(settings, Counted, 1), four_steps(settings, AtOnce, 1 << 40))
                for name, settings in KINDS.items()
            }
            result |= {"run": resumed_run(folder), "messages": messages(folder)}
            result["stopped"] = stopped_run(folder)
            result["unreadable"] = unreadable_run(folder)
            fastgan.train("mlp-gan", out=folder / "uninterrupted", **RUN)
            result["step"] = find_checkpoint(folder / "uninterrupted").step
    result["threads"] = sum("gloo_runloop" in name for name in thread_names())
    torch.save(result, folder / f"result{os.environ.get('RANK', '')}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
