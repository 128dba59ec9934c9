"""What several processes share."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of `values` over the processes of the default group; `values` where there is none.

    One all-reduce on the device, without a gradient.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
