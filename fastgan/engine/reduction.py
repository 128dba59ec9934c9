"""The mean of a network's gradients over the processes, taken while its backward pass runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgan.engine.distributed import DistributedGroup, told

BUCKET = 4 << 20
"""Bytes of gradients that travel together: fewer wait less for one another, and more take less time
for each byte."""


def bytes_at_once(group: DistributedGroup) -> float:
    """Bytes of gradients that should be ready together, if they travel at all."""
    return inf if group.size == 1 else BUCKET


class Reduction:
    """Gives every rank the mean of all ranks' gradients of some parameters.

    Gradients travel in buckets. In the last backward pass of an update a bucket goes off as soon as
    its gradients are there, on a stream of the collectives' own, which joins the pass's where the
    update ends. The first update with so many passes shows in which order gradients come; in it,
    and where the number of passes is not known, all go off at the end. The gradients become views
    of the buckets, in their parameters' memory layout. A parameter without a gradient keeps none;
    it must be without one on every rank.

    Args:
        size: bytes of a bucket, but one of a single parameter may have more.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], group: DistributedGroup, size: int = BUCKET
    ) -> None:
        self._parameters, self._group, self._size = list(parameters), group, size
        # By the passes of an update and the parameters that get gradients: for good, as the graphs
        # of captured steps write into them.
        self._layouts: dict[tuple[int, frozenset[Tensor]], list[_Bucket]] = {}
        self._latest: dict[int, list[_Bucket]] = {}  # by the passes
        self._passes = self._left = 0
        self._order: dict[Tensor, None] = {}  # that gradients came in, in the last pass
        self._sent = 0  # of the latest buckets of so many passes, in their order
        self._of: dict[Tensor, _Bucket] = {}
        if group.size > 1:
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._added)

    def start(self, passes: int = 0) -> None:
        """Begins an update, of so many backward passes; 0: it is not known."""
        if self._group.size == 1:
            return
        self._passes = self._left = passes
        self._order, self._sent = {}, 0
        buckets = self._latest.get(passes, []) if passes else []
        for bucket in buckets:
            bucket.lacks = set(bucket.parameters)
        self._of = {p: bucket for bucket in buckets for p in bucket.parameters}

    def begin_pass(self) -> None:
        """Begins a backward pass of the update."""
        self._left -= 1

    def _added(self, parameter: Tensor) -> None:
        bucket = self._of.get(parameter)
        if bucket is not None and bucket.travels:
            raise RuntimeError(
                f"expected {self._passes} backward passes in this update, got one more: it adds to "
                "a gradient whose mean over the processes is being taken"
            )
        if self._left:
            return
        self._order[parameter] = None
        if bucket is None:
            return
        bucket.lacks.discard(parameter)
        # In one order on all ranks.
        for ready in self._latest[self._passes][self._sent :]:
            if ready.lacks:
                break
            ready.send()
            self._sent += 1

    def finish(self) -> int:
        """Ends an update; how many buckets had gone off before."""
        if self._group.size == 1:
            return 0
        given = [p for p in self._parameters if p.grad is not None]
        sent = self._latest.get(self._passes, [])[: self._sent]
        key = self._passes, frozenset[Tensor](given)
        layout = self._layouts.get(key, [])
        if not layout or layout[: len(sent)] != sent:  # others than before have gradients
            layout = [*sent, *self._buckets(given, sent)]
            self._layouts.setdefault(key, layout)
        for bucket in layout[len(sent) :]:
            bucket.send()
        for bucket in layout:
            bucket.receive(self._group.size)
        self._latest[self._passes] = layout
        return len(sent)

    def _buckets(self, given: list[nn.Parameter], sent: list[_Bucket]) -> list[_Bucket]:
        """Of those that have not travelled: in the order in which they came, and then the rest from
        the last to the first."""
        number: dict[Tensor, int] = {p: i for i, p in enumerate(self._parameters)}
        self._group.require_alike([list(p.shape) for p in given], "parameters with a gradient")
        came = [p for p in self._order if p.grad is not None]
        came += [p for p in reversed(given) if p not in self._order]
        order = self._group.from_first(lambda: [number[p] for p in came])
        travelled = {p for bucket in sent for p in bucket.parameters}
        left = [self._parameters[i] for i in order if self._parameters[i] not in travelled]
        return [_Bucket(each) for each in _of_size(left, self._size)]


class _Bucket:
    """Gradients of one dtype, and their pieces in the parameters' layout.

    Attributes:
        lacks: parameters whose gradients are still to be added.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.lacks = parameters, set[Tensor]()
        like = parameters[0]
        # Each begins at whole 16 bytes, as kernels read it.
        size = like.dtype.itemsize
        sizes = [-(-p.nbytes // 16) * 16 // size for p in parameters]
        self._values = torch.zeros(sum(sizes), dtype=like.dtype, device=like.device)
        self._views = [
            piece.as_strided(p.shape, torch.empty_like(p).stride(), piece.storage_offset())
            for piece, p in zip(self._values.split(sizes), parameters, strict=True)
        ]
        self._averages = like.is_cuda and "cuda:nccl" in str(dist.get_backend_config())
        self._work: dist.Work | None = None

    @property
    def travels(self) -> bool:
        return self._work is not None

    @torch.no_grad()
    def send(self) -> None:
        torch._foreach_copy_(self._views, [p.grad for p in self.parameters if p.grad is not None])
        op = dist.ReduceOp.AVG if self._averages else dist.ReduceOp.SUM
        with told():
            self._work = dist.all_reduce(self._values, op, async_op=True)

    def receive(self, ranks: int) -> None:
        assert self._work is not None
        with told():
            self._work.wait()
        self._work = None
        if not self._averages:
            self._values.div_(ranks)
        for parameter, view in zip(self.parameters, self._views, strict=True):
            if parameter.grad is None:
                raise RuntimeError(
                    f"expected the gradient of shape {list(parameter.shape)} until its update "
                    "ends, got None: it was taken away while it travelled"
                )
            parameter.grad = view


def _of_size(parameters: Sequence[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """Of one dtype and at most so many bytes each, or of one parameter."""
    found: list[list[nn.Parameter]] = []
    left = 0
    for parameter in parameters:
        full = parameter.nbytes > left
        if not found or full or found[-1][0].dtype != parameter.dtype:
            found.append([])
            left = size
        found[-1].append(parameter)
        left -= parameter.nbytes
    return found
