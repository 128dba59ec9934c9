"""gather_images: every backend gives the bits of the composition that it replaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import ON_GPU
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from fastgan.ops import backend, gather_images

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(count: int, channels: int, height: int, width: int) -> Tensor:
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)
    return images.to(memory_format=torch.channels_last)


def composition(images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype) -> Tensor:
    """As one writes it with PyTorch."""
    chosen = images[index].to(torch.float32).div_(127.5).sub_(1.0)
    if flips is not None:
        chosen = torch.stack([x.flip(2) if f else x for x, f in zip(chosen, flips, strict=True)])
    return chosen.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(1, 28, 28), (3, 64, 64), (4, 9, 7), (2, 5, 3), (13, 7, 5), (3, 1, 1), (1, 1, 33), (3, 33, 1)],
    ids=str,
)
def test_equals_the_composition(
    device: str, shape: tuple[int, int, int], flip: bool, dtype: torch.dtype
) -> None:
    images, index = draw(50, *shape), torch.randint(0, 50, (33,))
    flips = torch.rand(33) < 0.5 if flip else None
    given = (t if t is None else t.to(device) for t in (images, index, flips))
    batch = gather_images(*given, dtype=dtype)
    assert batch.dtype is dtype
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.cpu(), composition(images, index, flips, dtype))


def test_every_level_of_every_dtype(host_backend: str) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256)
    for dtype in DTYPES:
        row = gather_images(images, torch.zeros(1, dtype=torch.int64), dtype=dtype).flatten()
        assert torch.equal(row, (torch.arange(256) / 127.5 - 1).to(dtype))
        assert (row[0], row[255]) == (-1, 1)


def test_the_same_bits_on_any_number_of_threads(native: None) -> None:
    images, index, flips = draw(9, 3, 65, 31), torch.randint(0, 9, (40,)), torch.rand(40) < 0.5
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(gather_images(images, index, flips))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_strides_of_index_and_flips_do_not_matter(host_backend: str) -> None:
    images, index, flips = draw(9, 3, 4, 4), torch.randint(0, 9, (40,)), torch.rand(40) < 0.5
    batch = gather_images(images, index[::3], flips[::3])
    assert torch.equal(batch, gather_images(images, index, flips)[::3])


@pytest.mark.parametrize("empty", [(0, 3, 4, 4), (5, 3, 0, 4), (5, 0, 4, 4)])
def test_empty(host_backend: str, empty: tuple[int, ...]) -> None:
    images = torch.empty(empty, dtype=torch.uint8).to(memory_format=torch.channels_last)
    index = torch.zeros(0 if empty[0] == 0 else 2, dtype=torch.int64)
    assert gather_images(images, index).shape == (len(index), *empty[1:])


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_opcheck(native: None, name: str) -> None:
    images, index, flips = draw(9, 3, 4, 5), torch.tensor([8, 0, 3]), torch.tensor([True] * 3)
    op = torch.ops.fastgan.gather_images.default
    opcheck(op, (images, index, flips, torch.bfloat16, name))
    opcheck(op, (images, index, None, torch.float32, name))


def test_fake_tensors_and_export() -> None:
    images, index = draw(9, 3, 4, 5), torch.tensor([8, 0, 3])
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = gather_images(images, index, dtype=torch.float16)
    assert batch.shape == (3, 3, 4, 5)
    assert batch.is_contiguous(memory_format=torch.channels_last)

    class Gather(torch.nn.Module):
        def forward(self, images: Tensor, index: Tensor) -> Tensor:
            return gather_images(images, index)

    program = torch.export.export(Gather(), (images, index))
    assert torch.equal(program.module()(images, index), gather_images(images, index))


@pytest.mark.parametrize("outside", [-1, 9])
def test_an_index_outside_is_an_error(host_backend: str, outside: int) -> None:
    with pytest.raises(IndexError, match=r"index: expected 0 to 8, got (0 to 9|-1 to 0)"):
        gather_images(draw(9, 1, 2, 2), torch.tensor([0, outside]))


@pytest.mark.parametrize("device", ON_GPU, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_index_outside_gives_nan_on_a_gpu(device: str, dtype: torch.dtype) -> None:
    images = draw(50, 3, 8, 8).to(device)
    batch = gather_images(images, torch.tensor([0, 50, -1], device=device), dtype=dtype)
    assert batch[0].isfinite().all()
    assert batch[1:].isnan().all()


GOOD: dict[str, Any] = {
    "images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
    "index": torch.zeros(2, dtype=torch.int64),
    "flips": torch.zeros(2, dtype=torch.bool),
}


@pytest.mark.parametrize(
    ("error", "match", "wrong"),
    [
        (TypeError, "images: expected a Tensor, got list", {"images": []}),
        (TypeError, "images: expected torch.uint8", {"images": torch.zeros(4, 1, 2, 2)}),
        (ValueError, r"images: expected \(N, C, H, W\)", {"images": GOOD["images"][0]}),
        (
            ValueError,
            "images: expected channels-last memory",
            {"images": torch.zeros(4, 3, 2, 2, dtype=torch.uint8)},
        ),
        (TypeError, "index: expected torch.int64", {"index": GOOD["index"].int()}),
        (ValueError, r"index: expected shape \(B,\)", {"index": GOOD["index"][None]}),
        (ValueError, "index: expected on cpu", {"index": GOOD["index"].to("meta")}),
        (TypeError, "flips: expected torch.bool", {"flips": GOOD["index"]}),
        (ValueError, r"flips: expected shape \(2,\)", {"flips": GOOD["flips"][:1]}),
        (TypeError, "index: expected a Tensor", {"index": [0, 1]}),
        (TypeError, "dtype: expected float32", {"dtype": torch.float64}),
    ],
)
def test_errors(error: type[Exception], match: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        gather_images(**{**GOOD, **wrong})


def test_a_backend_that_cannot_run_says_why(native: None) -> None:
    with backend("cuda"), pytest.raises(RuntimeError, match="the tensors are on cpu"):
        gather_images(**GOOD)
