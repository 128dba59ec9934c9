"""gather_images in Triton's interpreter: the reference's bits, from poisoned memory."""

from __future__ import annotations

import pytest
import torch

from fastgan.kernels import gather_images as kernels
from fastgan.ops import backend, gather_images
from fastgan.ops.gather_images import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 4, 3), (28, 28, 1), (7, 5, 13), (33, 65, 1)], ids=str)
def test_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    index = torch.tensor([4, 0, 0, 2])
    for flips in (None, torch.tensor([True, False, True, True])):
        batch = kernels.gather_images(images, index, flips, dtype)
        assert torch.equal(batch, reference.gather_images(images, index, flips, dtype))


def test_an_index_outside_gives_nan() -> None:
    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    batch = kernels.gather_images(images, torch.tensor([0, 2, -1, 1 << 40]), None, torch.float32)
    assert (batch[0] == -1).all()
    assert batch[1:].isnan().all()


def test_through_the_op_and_empty() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    index = torch.tensor([1, 0])
    with backend("triton"):
        batch = gather_images(images, index, torch.tensor([True, False]))
        assert gather_images(images, index[:0]).shape == (0, 1, 3, 4)
    assert ((batch[0, 0, 0] + 1) * 127.5).round().tolist() == [15, 14, 13, 12]
    with pytest.raises(TypeError, match="dtype: expected float32, bfloat16 or float16"):
        kernels.gather_images(images, index, None, torch.float64)
