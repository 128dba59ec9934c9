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
RUN: dict[str, Any] = {
    "steps": 60,
    "batch_size": 8,
    "limit": 64,
    "log_every": 1,
    "checkpoint_every": 4,
    "sample_every": 0,
    "sample_count": 4,
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
        lambda: DistributedGroup.current().average_gradients(_uneven()),
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
            }
        }
        if group.size > 1:
            result |= {"run": resumed_run(folder), "messages": messages(folder)}
            result["stopped"] = stopped_run(folder)
            result["unreadable"] = unreadable_run(folder)
            fastgan.train("mlp-gan", out=folder / "uninterrupted", **RUN)
            result["step"] = find_checkpoint(folder / "uninterrupted").step
    result["threads"] = sum("gloo_runloop" in name for name in thread_names())
    torch.save(result, folder / f"result{os.environ.get('RANK', '')}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
