"""What the launchers of the few-channel convolutions decide before they launch."""

from typing import NamedTuple

import torch

from fastgan.kernels.core.geometry import cdiv


class Tile(NamedTuple):
    """``block_m`` positions by ``block_n`` channels of the map, ``block_k`` at a time of what is
    summed; of the weight gradient it is the positions that are summed, and ``block_k`` taps and few
    channels stand beside those of the map.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int


# By kind of arithmetic. Without tensor cores the operands go through registers. Columns of the
# product to an image follow from its phases and channels. Tiles of half precision that are twice as
# large take 128 registers and more on sm_80 and sm_120, and spill at some numbers of channels.
FROM_IMAGE = {
    "half": Tile(128, 64, 64, 8, 1),
    "tf32": Tile(128, 64, 32, 8, 1),
    "ieee": Tile(64, 32, 16, 4, 1),
}
TO_IMAGE = {
    "half": Tile(128, 0, 32, 4, 1),
    "tf32": Tile(128, 0, 32, 4, 1),
    "ieee": Tile(128, 0, 16, 8, 1),
}
TO_WEIGHT = {
    "half": Tile(64, 64, 64, 4, 2),
    "tf32": Tile(32, 64, 64, 4, 2),
    "ieee": Tile(16, 32, 32, 4, 2),
}
MIN_COLUMNS = 16  # of a matrix unit
# Programs of a weight gradient: two a multiprocessor of an H100.
PROGRAMS = 264


def kind(dtype: torch.dtype, precision: str) -> str:
    """What tiles are chosen by."""
    return "half" if dtype.itemsize == 2 else precision


def pixel_columns(few: int, stride: tuple[int, int]) -> int:
    """Columns of the product to an image: phases and channels, to a power of 2."""
    return max(MIN_COLUMNS, 1 << (few * stride[0] * stride[1] - 1).bit_length())


def weight_slices(boxes: int, blocks: int) -> tuple[int, int]:
    """(slices, boxes of a slice) of a sum over boxes, for ``blocks`` of the result. It follows from
    the shape: a sum has the same order, and the same last bit, on every GPU.
    """
    length = cdiv(boxes, max(1, min(boxes, PROGRAMS // blocks)))
    return cdiv(boxes, length), length
