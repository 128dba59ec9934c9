"""pytorch#16998: a batch norm fails on a huge batch, where a count or an offset no longer fits.

More than 2^16 samples (the most blocks of a grid in two of its directions), and more than 2^31
elements. Zeros that the system has promised and nobody has written to take no memory, so that
inputs of that size can be read; outputs take theirs, which is for `--long`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import check_parity
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.ops import backend, bias_act, gather_images, norm_act

BEYOND = (1 << 31) + 4096


def promised(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros without memory, but for the pages that are written to."""
    count = torch.Size(shape).numel()
    return torch.from_numpy(np.zeros(count * dtype.itemsize, np.uint8)).view(dtype).view(shape)


# With several positions PyTorch's float32 sum over the two axes apart, which the reference is, is
# beyond the rule.
@pytest.mark.parametrize(
    ("name", "shape"),
    [("cpu", (200_003, 2)), ("reference", (200_003, 2)), ("cpu", (70_001, 8, 1, 3))],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_many_samples(name: str, shape: tuple[int, ...], training: bool, native: None) -> None:
    weight, bias = torch.rand(2, shape[1]) + 0.5
    with backend(name):
        check_parity(torch.randn(shape), weight, bias, torch.randn(shape), training)


def test_many_segments(host_backend: str) -> None:
    """As many as there are samples: instance norm of a huge batch."""
    x = torch.randn(70_001, 1, 3)
    z = norm_act(x, None, None, training=True, segments=len(x), activation="identity")
    assert_as_exact("z", z, F.instance_norm(x), F.instance_norm(x.double()))


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_of_parameters_beyond_two_to_the_31(channels_last: bool, native: None) -> None:
    """Of an input that is zero but at both ends: what an offset of 32 bits misses is the half."""
    shape = (BEYOND // 64, 64) if channels_last else (1, 2, BEYOND // 2)
    x, dz = promised(shape, torch.bfloat16), promised(shape, torch.bfloat16)
    channels = shape[1]
    for t in (x, dz):
        t.view(-1)[0], t.view(-1)[-1] = 2.0, 3.0
    mean, var = torch.zeros(1, channels), torch.ones(1, channels)
    _, dweight, dbias = torch.ops.fastgan.norm_act_backward.kernel(
        dz, x, mean, var, None, None, 0.0, 0, 1.0, 1, False, False, False, True
    )
    expected = torch.zeros(2, channels)
    expected[:, 0], expected[:, -1] = torch.tensor([4.0, 2.0]), torch.tensor([9.0, 3.0])
    assert torch.equal(torch.stack([dweight, dbias]), expected)


def test_images_beyond_two_to_the_31(host_backend: str) -> None:
    images = promised((BEYOND // 4096 + 1, 32, 32, 4), torch.uint8)
    images[-1, -1, -1] = 255
    images[1 << 19, 0, 0] = 51  # the first beyond 2^31
    index = torch.tensor([0, len(images) - 1, 1 << 19])
    found = gather_images(images.permute(0, 3, 1, 2), index)
    expected = torch.full((3, 4, 32, 32), -1.0)
    expected[1, :, -1, -1], expected[2, :, 0, 0] = 1.0, 51 / 127.5 - 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize("op", ["norm_act", "bias_act"])
def test_outputs_beyond_two_to_the_31(
    op: str, request: pytest.FixtureRequest, native: None
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("writes 4 GiB; --long runs it")
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # as long again as the kernel
    try:
        x = promised((BEYOND // 4096, 4096), torch.bfloat16)
        x[0, 0], x[-1, -1] = 1.0, -1.0
        row = torch.zeros(4096)
        if op == "norm_act":
            z = norm_act(x, row, row + 1, eps=0.0, negative_slope=0.5)
        else:
            z = bias_act(x, row, negative_slope=0.5)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
    assert z[0, 0] == 1.0
    assert z[-1, -1] == -0.5
    assert int(z.count_nonzero()) == 2
