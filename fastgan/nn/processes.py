"""What several processes share."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """How many processes train together: the default group's size, 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of `values` over the processes of the default group; `values` where there is none.

    One all-reduce on the device, without a gradient.
    """
    processes = process_count()
    if processes == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / processes
