"""Every CUDA kernel once or twice, on small sizes: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python -m tools.gpu.operators

Only that it runs is seen here; whether its results are right, tests/ops tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from fastgan.ops import backend, bias_act, conv, gather_images, norm_act
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core.activation import LEAKY_RELU

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Vectors of every width and none, one value a plane, planes larger than a block.
SHAPES = [(4, 8, 4, 4), (3, 7, 5, 3), (8, 64, 1, 1), (2, 3, 64, 64), (5, 33)]
# Few channels in or out, plain and transposed.
SMALL_CHANNELS = [
    ((2, 3, 16, 16), (16, 3, 4, 4), Geometry((2, 2), (1, 1), (0, 0), False)),
    ((2, 16, 8, 8), (16, 3, 4, 4), Geometry((2, 2), (1, 1), (0, 0), True)),
    ((2, 5, 9, 7), (3, 5, 3, 3), Geometry((1, 1), (1, 1), (0, 0), False)),
]


def calls() -> Iterator[str]:
    """Runs the kernels, forward and backward; yields what it ran."""
    for shape, dtype, last in product(SHAPES, DTYPES, (False, True)):
        x = draw(shape, dtype, last).requires_grad_()
        weight, bias = (torch.randn(shape[1], device="cuda", requires_grad=True) for _ in range(2))
        running = torch.zeros(shape[1], device="cuda"), torch.ones(shape[1], device="cuda")
        for training in (True, False):
            norm_act(x, *running, weight, bias, training).sum().backward()
        bias_act(x, bias).sum().backward()
        yield f"norm_act, bias_act {shape} {dtype} {'channels-last' if last else 'contiguous'}"
    for (x_shape, weight_shape, geometry), dtype in product(SMALL_CHANNELS, DTYPES):
        x, weight = draw(x_shape, dtype, True), torch.randn(weight_shape, device="cuda").to(dtype)
        dy = draw(output_shape(x_shape, weight_shape, geometry), dtype, True)
        conv.forward(x, weight, None, geometry, LEAKY_RELU, 0.2)
        conv.backward_input(dy, x, weight, geometry)
        conv.backward_weight(dy, x, weight, geometry)
        yield f"small-channel convolution {x_shape} {dtype}"
    images = torch.randint(0, 256, (20, 3, 13, 9), dtype=torch.uint8, device="cuda")
    images = images.to(memory_format=torch.channels_last)
    index, flips = torch.randint(0, 20, (7,), device="cuda"), torch.rand(7, device="cuda") < 0.5
    for dtype in DTYPES:
        gather_images(images, index, flips, dtype=dtype)
        yield f"gather_images {dtype}"


def draw(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> Tensor:
    x = torch.randn(shape, device="cuda").to(dtype)
    return x.to(memory_format=torch.channels_last) if last and x.dim() == 4 else x


def main() -> None:
    with force(small_channels=True), backend("cuda"):
        for done in calls():
            torch.cuda.synchronize()
            print(done, flush=True)


if __name__ == "__main__":
    main()
