"""A training step of DCGAN-64 as every implementation runs it: one update of each network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bench.commits.workload import LATENT, discriminator, generator
from bench.harness.case import Case, laid, laid_model
from bench.harness.peers import Build
from bench.harness.workload import Run, Work
from fastgan.nn import segments
from fastgan.optim import Adam

SETS = 2


class StepImplementation(NamedTuple):
    """How both networks are run.

    Attributes:
        frozen: the discriminator's weight gradients are not formed in the generator's update, as
            ours; PyTorch's DCGAN tutorial forms them and throws them away.
        joint: one discriminator pass over [real; fake].
    """

    build: Build
    layout: str
    own: bool = False
    frozen: bool = True
    joint: bool = False


class StepWorkload(Work):
    """A step of batch `batch`, at the case's dtype by autocast. Its results are the losses and both
    networks' gradients at the first weights."""

    way = StepImplementation
    sets = SETS

    def __init__(
        self, case: Case, implementations: dict[str, StepImplementation], batch: int, width: int
    ) -> None:
        super().__init__(case, implementations, network=True)
        self.networks = generator(width).to(case.device), discriminator(width).to(case.device)
        self.given = [
            (
                torch.rand(batch, 3, 64, 64, device=case.device) * 2 - 1,
                torch.randn(batch, LATENT, 1, 1, device=case.device),
            )
            for _ in range(SETS)
        ]
        self.cost = self.operations()

    def built(
        self, how: StepImplementation, dtype: torch.dtype | None = None, sets: slice = slice(None)
    ) -> StepRunner:
        return StepRunner(self, how, dtype or torch.float32, sets)


class StepRunner(Run):
    """A step of one implementation, with its own weights and optimizers."""

    def __init__(
        self, work: StepWorkload, how: StepImplementation, dtype: torch.dtype, sets: slice
    ) -> None:
        self.work, self.how = work, how
        copies = (laid_model(copy.deepcopy(m).to(dtype), how.layout) for m in work.networks)
        networks = [how.build(m) for m in copies]
        self.generator, self.discriminator = networks
        self.parameters = [p for m in networks for p in m.parameters()]
        # On a GPU capturable, so that a whole step can be replayed.
        optimizer = Adam if how.own else torch.optim.Adam
        how_adam: dict[str, Any] = {"fused": True, "capturable": work.case.device == "cuda"}
        self.optimizers = [
            optimizer(m.parameters(), 2e-4, (0.5, 0.999), **how_adam) for m in networks
        ]
        self.given = [
            (laid(real.to(dtype), how.layout), noise.to(dtype)) for real, noise in work.given[sets]
        ]
        self.low = dtype is torch.float32 and work.case.dtype != "float32"

    def forward(self, i: int) -> Tensor:
        """One discriminator pass over generated images: what the generator's update keeps."""
        return self._logits(self._images(self.given[i][1]))

    def results(self, i: int) -> list[Tensor]:
        real, noise = self.given[i]
        fake = self._images(noise)
        loss_d = self._discriminator_loss(real, fake)
        loss_d.backward()
        of_d = _gradients(self.discriminator)
        loss_g = self._loss_of_maker(fake)
        loss_g.backward()
        of_g = _gradients(self.generator)
        for p in self.parameters:
            p.grad = None
        return [loss_d.detach(), loss_g.detach(), *of_d, *of_g]

    def ready(self, turn: int) -> Callable[[], object]:
        real, noise = self.given[turn % len(self.given)]
        return lambda: self._update(real, noise)

    def _update(self, real: Tensor, noise: Tensor) -> None:
        of_g, of_d = self.optimizers
        fake = self._images(noise)
        of_d.zero_grad()
        self._discriminator_loss(real, fake).backward()
        of_d.step()
        of_g.zero_grad()
        self._loss_of_maker(fake).backward()
        of_g.step()

    def _images(self, noise: Tensor) -> Tensor:
        with self._precision():
            images: Tensor = self.generator(noise)
        return images

    def _logits(self, images: Tensor) -> Tensor:
        with self._precision():
            logits: Tensor = self.discriminator(images)
        return logits.float() if logits.dtype is torch.bfloat16 else logits

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        fake = fake.detach()
        if self.how.joint:
            with segments(self.discriminator, 2):
                of_real, of_fake = self._logits(torch.cat([real.to(fake.dtype), fake])).chunk(2)
        else:
            of_real, of_fake = self._logits(real), self._logits(fake)
        return softplus(-of_real).mean() + softplus(of_fake).mean()

    def _loss_of_maker(self, fake: Tensor) -> Tensor:
        with self._frozen():
            return softplus(-self._logits(fake)).mean()

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        self.discriminator.requires_grad_(not self.how.frozen)
        try:
            yield
        finally:
            self.discriminator.requires_grad_(True)

    def _precision(self) -> torch.autocast:
        dtype = getattr(torch, self.work.case.dtype)
        return torch.autocast(self.work.case.device, dtype, enabled=self.low)


def _gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]
