"""The processes that train together, one a device: what they share and how they agree.

A single process is one rank of one: everything here then returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgan.engine.heartbeat import Heartbeat, lost_rank
from fastgan.engine.launch import local_device, read_launch

T = TypeVar("T")

# Of the group that `launched` has joined.
_heartbeat: Heartbeat | None = None


@dataclass(frozen=True)
class DistributedGroup:
    """The processes that train together, as this one of them sees them."""

    rank: int = 0
    size: int = 1
    heartbeat: Heartbeat | None = None
    """Of a run on several GPUs."""

    @staticmethod
    def current() -> DistributedGroup:
        """Of the default process group, if one is initialised."""
        if dist.is_available() and dist.is_initialized():
            return DistributedGroup(dist.get_rank(), dist.get_world_size(), _heartbeat)
        return DistributedGroup()

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's folder and speaks for all."""
        return self.rank == 0

    def share(self, count: int, what: str) -> int:
        """This rank's part of ``count``.

        Raises:
            ValueError: ``count`` cannot be divided among the processes.
        """
        if count % self.size:
            raise ValueError(f"{what} must be a multiple of the {self.size} processes, got {count}")
        return count // self.size

    def part(self, whole: Tensor) -> Tensor:
        """This rank's part of a tensor that is the same in all, along its first dimension."""
        return whole if self.size == 1 else whole.chunk(self.size)[self.rank]

    def gather(self, logits: Tensor) -> Tensor:
        """All ranks' logits, put together in the order of the ranks.

        A loss that every rank takes of all logits has, after the gradients are averaged, the
        gradient of the loss in a single process. Differentiable once.
        """
        return logits if self.size == 1 else _Gather.apply(logits.contiguous(), self)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of all ranks' ``values``."""
        if self.size > 1:
            with told():
                dist.all_reduce(values)
            values = values / self.size
        return values

    def require_all(self) -> None:
        """Raises LostRankError where it is known that a process is lost; waits for nothing."""
        if self.heartbeat is not None:
            self.heartbeat.require_all()

    def collect(self, value: T) -> list[T]:
        """Every rank's ``value``, in the order of the ranks."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            with told():
                dist.all_gather_object(found, value)
        return found

    def from_first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns on the first rank, or raises there, on every rank."""
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error
        with told():
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def in_turn(self, function: Callable[[], T]) -> T:
        """``function()`` of every rank, the first one's before the others': it may fill a cache."""
        own: list[T] = []
        self.from_first(lambda: own.append(function()))
        return own[0] if own else function()

    def align(self, module: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers."""
        if self.size > 1:
            with told(), torch.no_grad():
                for tensor in module.state_dict().values():
                    sent = tensor.contiguous()
                    dist.broadcast(sent, src=0)
                    tensor.copy_(sent)

    def require_alike(self, value: Any, what: str) -> None:
        """RuntimeError where ``what`` differs between the ranks."""
        others = self.collect(value)
        if any(other != value for other in others):
            raise RuntimeError(f"the ranks have different {what}: {others}")


@contextmanager
def launched(device: str = "auto") -> Iterator[DistributedGroup]:
    """The processes of a run that torchrun started, joined inside; otherwise this one alone.

    On GPUs tensors travel by NCCL and what the host knows by gloo, and a heartbeat watches over the
    processes; on CPUs all is gloo. A group that is initialised already is taken as it is.

    Raises:
        ValueError: the launcher's variables are incomplete or contradict each other; nothing is
            joined then.
    """
    if dist.is_available() and dist.is_initialized():
        yield DistributedGroup.current()
        return
    launch = read_launch()
    if launch is None or launch.size == 1:
        yield DistributedGroup.current()
        return
    global _heartbeat
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    gpu = torch.device("cuda", local_device()) if on_gpu else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    with told():
        _join(gpu)
        heartbeat = _heartbeat = Heartbeat() if on_gpu else None
    try:
        yield DistributedGroup.current()
    except BaseException:
        if heartbeat is None:
            dist.destroy_process_group()
        else:
            # Destroying a group of NCCL waits for its collectives, which a lost rank never joins.
            heartbeat.fail()
            dist.distributed_c10d._abort_process_group()
        raise
    finally:
        _heartbeat = None
    if heartbeat is not None:
        heartbeat.stop()
    dist.destroy_process_group()


def _join(gpu: torch.device | None) -> None:
    # Its functions take the group that stands at their first import as a default: one that they
    # hold cannot be destroyed, and its threads then abort the interpreter's end about one time
    # in three. Optimizers import it (through torch._dynamo), so it must come before the group.
    import torch.distributed.nn  # noqa: F401

    store, rank, size = next(dist.rendezvous("env://"))
    # torchrun restarts workers on the same store, where the addresses of the dead ones stand.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt {attempt}", store)
    # With a backend for the CPU, objects are exchanged there.
    backend = "gloo" if gpu is None else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=gpu)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, group: DistributedGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(logits) for _ in range(group.size)]
        with told():
            dist.all_gather(parts, logits)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Averaging the parameters' gradients divides by the number of ranks: undone here.
        return gradient.chunk(ctx.group.size)[ctx.group.rank] * ctx.group.size, None


@contextmanager
def told() -> Iterator[None]:
    """Within, a collective that fails because a process is lost says so."""
    try:
        yield
    except RuntimeError as error:
        raise lost_rank(error) from error
