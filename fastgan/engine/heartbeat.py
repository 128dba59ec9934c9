"""A watch over the processes of a run on GPUs, which would wait for a lost one without end.

A collective of NCCL waits on the device, and so does the host once it reads a value from there.
PyTorch's own watchdog knows nothing of collectives that a CUDA graph launches. So a thread of each
process meets the others' on the host, by gloo, which fails as soon as one of them is gone.
"""

from __future__ import annotations

import os
import sys
import threading
from datetime import timedelta

import torch
import torch.distributed as dist

from fastgan.system import first_line

# What a process says of itself; the least of all is what holds.
_FAILS, _RUNS, _ENDS = -1, 0, 1


class LostRankError(ConnectionError):
    """Another process of the run has ended or cannot be reached."""


def lost_rank(error: RuntimeError) -> LostRankError:
    """What an error of a collective means."""
    return LostRankError(
        "another process of this run has ended or cannot be reached "
        f"({first_line(error)}); resume continues from the newest checkpoint"
    )


class Heartbeat(threading.Thread):
    """Meets the other processes' heartbeats every second, in a group of its own.

    Every process must make one at the same point, within the default group. A process that is lost
    is told of by :meth:`require_all`; where nobody asks within ``GRACE`` seconds, because this
    process waits for the device, it is told on stderr and the process ends.
    """

    INTERVAL, GRACE = 1.0, 20.0
    # Of a process that is there and does not answer: it may be loading, or compiling.
    TIMEOUT = timedelta(minutes=10)

    def __init__(self) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._group = dist.new_group(backend="gloo", timeout=self.TIMEOUT)
        self._state = _RUNS
        self._ending = threading.Event()
        self._lost: LostRankError | None = None
        self.start()

    def require_all(self) -> None:
        """Raises LostRankError where a process is lost."""
        if self._lost is not None:
            raise self._lost

    def stop(self) -> None:
        """Wait for all processes to come to this point."""
        self._end(_ENDS)
        self.join()

    def fail(self) -> None:
        """This process ends by an error; the others learn of it."""
        self._end(_FAILS)
        self.join(self.GRACE)

    def run(self) -> None:
        try:
            while (state := self._meet()) == _RUNS:
                self._ending.wait(self.INTERVAL)
            if state == _ENDS or self._state == _FAILS:
                return
            self._lost = lost_rank(RuntimeError("it has failed"))
        except RuntimeError as error:
            self._lost = lost_rank(error)
        if not self._ending.wait(self.GRACE):
            print(f"fastgan: error: {self._lost}", file=sys.stderr, flush=True)
            os._exit(1)

    def _end(self, state: int) -> None:
        self._state = state
        self._ending.set()

    def _meet(self) -> int:
        """Whether one of the processes fails, and if not, whether all of them end."""
        state = torch.tensor(self._state)
        dist.all_reduce(state, dist.ReduceOp.MIN, self._group)
        return int(state)
