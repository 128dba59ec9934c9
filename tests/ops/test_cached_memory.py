"""Large outputs lie in memory that earlier ones were freed from, within a limit."""

from __future__ import annotations

import copy
import io
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import fastgan.ops
from fastgan.ops import backend, bias_act, cached_memory

MIB = 2**20
pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    """An empty store of 8 MiB."""
    cached_memory(0)
    cached_memory(8 * MIB)
    with backend("cpu"):
        yield
    cached_memory(0)
    cached_memory(512 * MIB)


def output(mib: float, value: float = 1.0) -> Tensor:
    """A tensor of so many MiB, all of one value, that the CPU backend allocated."""
    x = torch.full((1, 1, int(mib * MIB / 4)), value)
    return bias_act(x, activation="identity")


def test_a_freed_block_serves_the_next_output() -> None:
    z = output(3)
    address = z.data_ptr()
    assert cached_memory() == 0
    del z
    assert 3 * MIB <= cached_memory() < 3.2 * MIB
    z = output(3, 2.0)
    assert z.data_ptr() == address
    assert cached_memory() == 0
    assert bool((z == 2).all())


def test_blocks_in_use_are_left_alone() -> None:
    kept = [output(1, float(i)) for i in range(4)]
    view = output(1, 9.0)[..., 5:10]  # holds the whole block
    for i in range(4):
        output(1, 100.0 + i)
    assert all(bool((z == i).all()) for i, z in enumerate(kept))
    assert bool((view == 9).all())


def test_the_limit_holds_and_the_oldest_go_first() -> None:
    first, second, third = output(3), output(3.5), output(4)
    address = third.data_ptr()
    del first, second, third
    assert cached_memory() < 8 * MIB
    assert output(4).data_ptr() == address
    assert cached_memory(3 * MIB) <= 3 * MIB
    output(5)  # larger than the limit
    assert cached_memory() <= 3 * MIB
    assert cached_memory(0) == 0
    output(1)
    assert cached_memory() == 0


def test_a_far_larger_block_is_not_taken() -> None:
    output(6)
    held = cached_memory()
    z = output(1)
    assert cached_memory() == held
    assert bool((z == 1).all())


def test_negative_limit() -> None:
    with pytest.raises(ValueError, match=r"limit: expected .* >= 0, got -1"):
        cached_memory(-1)


def test_outputs_copy_save_and_share() -> None:
    z = output(1, 3.0)
    stream = io.BytesIO()
    torch.save(z, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream), z)
    assert torch.equal(copy.deepcopy(z), z)
    shared = output(1, 3.0).share_memory_()
    assert shared.is_shared()
    assert torch.equal(shared, z)
    assert z.untyped_storage().nbytes() == MIB


def test_many_threads() -> None:
    wrong = []

    def work(value: float) -> None:
        for _ in range(30):
            z = output(0.25, value)
            if not bool((z == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cached_memory() <= 8 * MIB


def test_a_forked_child_frees_and_takes() -> None:
    """As workers of a data loader do, which hold the parent's tensors."""
    z = output(1, 5.0)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        # OpenMP's pool of threads is not in a forked child, which would wait for it.
        torch.set_num_threads(1)
        same = bool((z == 5).all())
        del z
        os._exit(0 if same and cached_memory() >= MIB else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bool((z == 5).all())


def test_the_old_name_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"is now fastgan\.ops\.cached_memory"):
        assert fastgan.ops.kept_memory is cached_memory
    with pytest.warns(DeprecationWarning, match=r"is now fastgan\.ops\.conv\.tuning"):
        assert fastgan.ops.__getattr__("tuning").convolution_form is fastgan.ops.convolution_form
