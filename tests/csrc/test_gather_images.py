"""The CUDA kernel of gather_images, run on the host: the reference's bits."""

from __future__ import annotations

import ctypes

import pytest
import torch

from fastgan.ops.gather_images.reference import gather_images

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(4, 4, 3), (16, 16, 8), (28, 28, 1), (5, 7, 3), (40, 30, 5)])
def test_equals_the_reference(emulator, shape, flip, dtype):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=g)
    index = torch.tensor([5, 0, 0, 3])
    flips = torch.tensor([True, False, True, True]) if flip else None
    truth = gather_images(images, index, flips, dtype)
    pack = 16 // dtype.itemsize
    for wide in {False, images[0].numel() % pack == 0}:
        out = emulator.blank(truth)
        given = (images, index, flips if flip else ctypes.c_void_p(None), out)
        launches = emulator.call(
            "gather", None, DTYPES[dtype], int(wide), 6, 4, *shape, *given
        ).launches
        assert launches == 1
        assert torch.equal(out, truth)


def test_an_index_outside_gives_nan_and_reads_nothing(emulator):
    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    index = torch.tensor([0, 2, -1, 1 << 40])
    out = emulator.blank(torch.empty(4, 4, 4, 1))
    none = ctypes.c_void_p(None)
    emulator.call("gather", None, 0, 1, 2, 4, 4, 4, 1, images, index, none, out)
    assert (out[0] == -1).all()
    assert out[1:].isnan().all()
