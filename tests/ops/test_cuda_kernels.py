"""Kernels of a GPU where launches go wrong: streams, devices, graphs, offsets, 64 bits, full chips.

Whether they compute the right thing on plain inputs, the other files here tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from convolutions import channels_last, check, chosen
from devices import ON_GPU, need_memory
from parity import check_parity
from tolerance import assert_as_exact, assert_rounded_once
from torch import Tensor

from fastgan.ops import available, backend, bias_act, conv, gather_images, norm_act
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core.activation import IDENTITY, LEAKY_RELU

Draw = Callable[..., Tensor]
TO_IMAGE = Geometry((2, 2), (1, 1), (0, 0), True)
FROM_IMAGE = TO_IMAGE._replace(transposed=False)


@pytest.fixture(params=ON_GPU)
def gpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """One of a GPU's backends, chosen explicitly; C++ runs the small-channel convolutions."""
    assert available()[request.param] is None
    with backend(request.param), force(small_channels=request.param == "cuda"):
        yield request.param


def norm_act_passes(draw: Draw) -> list[Tensor]:
    x = draw(8, 24, 9, 7).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = draw(24).requires_grad_(), draw(24).requires_grad_()
    running = draw(24), draw(24).abs() + 0.5
    z = norm_act(x, *running, weight, bias, True, segments=2, negative_slope=0.2)
    grads = torch.autograd.grad(z, (x, weight, bias), draw(8, 24, 9, 7).bfloat16())
    return [z, *grads, *running]


def norm_act_in_one_launch_and_in_several(draw: Draw) -> list[Tensor]:
    """Contiguous, of one shape in a single launch and of one in several; and in evaluation."""
    found = []
    for shape in ((4, 6, 8, 8), (64, 5, 64, 64)):
        x, mean, var = draw(*shape), draw(shape[1]), draw(shape[1]).abs() + 0.5
        found += [norm_act(x, mean, var, training=training) for training in (True, False)]
        found += [mean, var]
    return found


def bias_act_passes(draw: Draw) -> list[Tensor]:
    x, bias = draw(4, 10, 7, 5).requires_grad_(), draw(10).requires_grad_()
    z = bias_act(x, bias, activation="tanh")
    return [z, *torch.autograd.grad(z, (x, bias), draw(4, 10, 7, 5))]


def gathered(draw: Draw) -> list[Tensor]:
    images = (draw(20, 3, 13, 9) * 40 + 128).clamp(0, 255).to(torch.uint8)
    index = (draw(7).abs() * 4).clamp_max(19).long()
    images = images.to(memory_format=torch.channels_last)
    return [gather_images(images, index, draw(7) > 0, dtype=torch.bfloat16)]


def small_channel_convolutions(draw: Draw) -> list[Tensor]:
    found = []
    for geometry, c_in, side in ((FROM_IMAGE, 3, 16), (TO_IMAGE, 16, 8)):
        x, weight = channels_last(draw(2, c_in, side, side)), draw(16, 3, 4, 4)
        y = conv.forward(x, weight, None, geometry, LEAKY_RELU, 0.2)
        dy = channels_last(draw(*y.shape))
        found += [y, conv.backward_input(dy, x, weight, geometry)]
        found += [conv.backward_weight(dy, x, weight, geometry)]
    return found


CALLS = [
    norm_act_passes,
    norm_act_in_one_launch_and_in_several,
    bias_act_passes,
    gathered,
    small_channel_convolutions,
]
OF_CALLS = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)


class Inputs:
    """Draws a call's inputs on a device: the same values whenever it is begun anew.

    Where ``kept``, the tensors are those of the first time, as a CUDA graph needs them.
    """

    def __init__(self, device: str, kept: bool = False) -> None:
        self.device, self.kept = device, kept
        self.values: list[Tensor] = []
        self.tensors: list[Tensor] = []
        self.begin()

    def begin(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.drawn = 0

    def __call__(self, *shape: int) -> Tensor:
        i, self.drawn = self.drawn, self.drawn + 1
        if i == len(self.tensors):
            self.values.append(torch.randn(shape, generator=self.generator))
            self.tensors.append(self.values[i].to(self.device))
        # What a call changes or marks is not what is kept.
        return self.tensors[i].clone() if self.kept else self.values[i].to(self.device)


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, wanted, strict=True))


def run(call: Callable[[Draw], list[Tensor]], inputs: Inputs) -> list[Tensor]:
    inputs.begin()
    return call(inputs)


@OF_CALLS
def test_a_side_stream(gpu_backend: str, call: Callable[[Draw], list[Tensor]]) -> None:
    """The inputs are written there, late: work on another stream would read what stood before."""
    inputs = Inputs("cuda", kept=True)
    want = run(call, inputs)
    for t in inputs.tensors:
        t.fill_(float("nan"))
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for t, value in zip(inputs.tensors, inputs.values, strict=True):
            t.copy_(value, non_blocking=True)
        got = run(call, inputs)
    side.synchronize()
    assert same(got, want)


@OF_CALLS
def test_another_device_than_the_current_one(
    gpu_backend: str, call: Callable[[Draw], list[Tensor]]
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    want = run(call, Inputs("cuda:0"))
    assert torch.cuda.current_device() == 0
    got = run(call, Inputs("cuda:1"))
    assert {t.device.index for t in got} == {1}
    assert torch.cuda.current_device() == 0
    assert same(got, want)


@OF_CALLS
def test_a_cuda_graph(gpu_backend: str, call: Callable[[Draw], list[Tensor]]) -> None:
    """Replayed on other inputs, it gives what a call on them gives."""
    inputs = Inputs("cuda", kept=True)
    run(call, inputs)  # compiles, and asks for the device's limits
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(call, inputs)
    for factor in (1.0, -0.5):
        for t, value in zip(inputs.tensors, inputs.values, strict=True):
            t.copy_(value * factor)
        graph.replay()
        torch.cuda.synchronize()
        assert same(got, run(call, inputs))


def at_odd_address(x: Tensor, behind: int = 1) -> Tensor:
    """x in memory of its own that begins so many values behind a multiple of 16 bytes."""
    rows = x if x.is_contiguous() else x.movedim(1, -1)
    moved = x.new_empty(x.numel() + behind)[behind:].view(rows.shape).copy_(rows)
    return moved if x.is_contiguous() else moved.movedim(-1, 1)


@pytest.mark.parametrize("behind", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_odd_storage_offsets(device: str, dtype: torch.dtype, behind: int) -> None:
    """Vectors must not be loaded where they would not be aligned: every operand, one at a time."""
    for layout, shape in product((Tensor.contiguous, channels_last), ((4, 16, 8, 8), (2, 33, 5))):
        given = [layout(torch.randn(shape, device=device).to(dtype)) for _ in range(2)]
        affine = list(torch.randn(2, shape[1], device=device))
        for moved in range(4):
            x, dz, weight, bias = (
                at_odd_address(t, behind) if i == moved else t
                for i, t in enumerate([*given, *affine])
            )
            check_parity(x, weight, bias, dz, True, negative_slope=0.2)
            check_parity(x, weight, bias, dz, False, activation="tanh")


def test_odd_storage_offsets_of_running_statistics(device: str) -> None:
    x = channels_last(torch.randn(4, 16, 8, 8, device=device))
    mean, var = torch.rand(2, 16, device=device) + 0.5
    expected = norm_act(x, mean, var)
    assert torch.equal(norm_act(x, at_odd_address(mean), at_odd_address(var, 3)), expected)


@pytest.mark.parametrize("geometry", [FROM_IMAGE, TO_IMAGE], ids=["from image", "to image"])
def test_odd_storage_offsets_of_a_small_channel_convolution(
    device: str, geometry: Geometry
) -> None:
    c_in, side = (16, 8) if geometry.transposed else (3, 16)
    for dtype in (torch.float32, torch.bfloat16):
        x = channels_last(torch.randn(2, c_in, side, side, device=device).to(dtype))
        weight = torch.randn(16, 3, 4, 4, device=device).to(dtype)
        with force(small_channels=True):
            for given in ((at_odd_address(x), weight), (x, at_odd_address(weight))):
                check(*given, None, geometry, LEAKY_RELU, 0.2)


# Steps of 4 KiB of a block's shared memory: an H200's holds 56 of them beside what a kernel itself
# needs, an A100's 40, and 1, 2, 4 or 8 blocks of a cluster share a column. Backward keeps two
# tensors there, forward one.
STEPS = [19, 20, 21, 24, 25, 26, 27, 28, 29, 39, 40, 41, 54, 55, 56, 57, 58]


@pytest.mark.parametrize("blocks", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("device", ON_GPU[1:], indirect=True)
def test_around_what_shared_memory_holds(device: str, steps: int, last: bool, blocks: int) -> None:
    full_chip(device, steps, last, blocks)


def full_chip(device: str, steps: int, last: bool, blocks: int, channels: int = 160) -> None:
    """A column of so many steps in each block, less one value: enough columns for every SM."""
    values = blocks * steps * (64 if last else 2048)
    shape = (1, channels, 1, values - (0 if last else 1))
    x = torch.randn(shape, device=device).bfloat16()
    x = channels_last(x) if last else x
    weight, bias = torch.randn(2, channels, device=device)
    # tanh: of many values some lie so near a kink that their rounding decides their gradient.
    check_parity(x, weight, bias, torch.randn(shape, device=device), True, activation="tanh")


LARGE = (520, 64, 256, 256)  # more than 2^31 values


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "contiguous"])
def test_more_than_2_to_the_31_values(gpu_backend: str, last: bool, segments: int) -> None:
    """The last values lie where 32-bit offsets would have wrapped around."""
    need_memory(48)
    large_norm_act("cuda", LARGE, last, segments)


# Of the floor, for statistics of 2^24 values and more, whose roundings add up; what wraps around
# moves them by far more.
LARGE_SUMS = 64


def large_norm_act(device: str, shape: tuple[int, ...], last: bool, segments: int) -> None:
    memory = torch.channels_last if last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.bfloat16, device=device, memory_format=memory)
    x.normal_()
    bias = torch.linspace(-1, 1, shape[1], device=device)
    with torch.no_grad():
        z = bias_act(x, bias, negative_slope=0.2)
        tail = F.leaky_relu(x[-1].double() + bias.double()[:, None, None], 0.2)
        assert_rounded_once("bias_act", z[-1], tail)
        del z
    x.requires_grad_()
    mean, var = (torch.zeros(shape[1], device=device) for _ in range(2))
    z = norm_act(x, mean, var, training=True, momentum=1.0, segments=segments, negative_slope=1.0)
    (dx,) = torch.autograd.grad(z, x, x.detach())
    x, z = x.detach(), z.detach()
    segment = x[-(shape[0] // segments) :]
    moments = [torch.var_mean(segment[:, c].double()) for c in range(shape[1])]
    exact_var, exact_mean = (torch.stack(m) for m in zip(*moments, strict=True))

    def assert_near(name: str, own: Tensor, exact: Tensor, size: float) -> None:
        rounded, floor = exact.to(own.dtype), torch.float32
        assert_as_exact(name, own, rounded, exact, floor=floor, size=size, share=LARGE_SUMS)

    assert_near("running_mean", mean, exact_mean, size=1.0)  # of values of about 1
    assert_near("running_var", var, exact_var, size=1.0)
    values = segment[:, 0].numel()
    rstd = (exact_var * ((values - 1) / values) + 1e-5).rsqrt()[:, None, None]
    centred = x[-1].double() - exact_mean[:, None, None]
    assert_rounded_once("norm_act", z[-1], centred * rstd)
    # The gradient for dz = x is nothing but what eps leaves of terms of x's size.
    assert_near("dx", dx[-1], 1e-5 * centred * rstd**3, size=float(x[-1].abs().max()))


def test_gathering_more_than_2_to_the_31_values(gpu_backend: str) -> None:
    need_memory(16)
    large_gather("cuda", 11_000, (3, 256, 256))


def large_gather(device: str, count: int, image: tuple[int, int, int]) -> None:
    """From more than 2^31 bytes to as many values: the last image, and it last."""
    c, h, w = image
    images = torch.empty(count, h, w, c, dtype=torch.uint8, device=device).zero_().movedim(-1, 1)
    images[-1].random_(0, 256)
    index = torch.zeros(count, dtype=torch.int64, device=device)
    index[-1] = count - 1
    flips = torch.zeros(count, dtype=torch.bool, device=device)
    flips[-1] = True
    batch = gather_images(images, index, flips, dtype=torch.bfloat16)
    want = (images[-1].float() / 127.5 - 1).flip(-1).bfloat16()
    assert torch.equal(batch[-1], want)
    assert (batch[0] == -1).all()


@pytest.mark.parametrize("gpu_backend", ON_GPU[1:], indirect=True)
def test_a_small_channel_convolution_of_more_than_2_to_the_31_values(gpu_backend: str) -> None:
    need_memory(24)
    large_small_channel_convolution("cuda", (132, 64, 512, 512))


def large_small_channel_convolution(device: str, wide: tuple[int, int, int, int]) -> None:
    """To that many values from an image and back; only the last image counts."""
    n, channels, h, w = wide
    geometry = Geometry((1, 1), (0, 0), (0, 0), False)
    image = channels_last(torch.zeros(n, 3, h, w, dtype=torch.bfloat16, device=device))
    image[-1].normal_()
    weight = torch.randn(channels, 3, 1, 1, device=device).bfloat16()
    assert set(chosen(image, weight, geometry)) == {"small_channels"}
    matrix = weight[:, :, 0, 0].double()
    y = conv.forward(image, weight, None, geometry, *IDENTITY)
    of_image = image[-1].double().flatten(1)
    assert_rounded_once("y", y[-1].flatten(1), matrix @ of_image)
    assert (y[0] == 0).all()
    last = y[-1].double().flatten(1)
    dx = conv.backward_input(y, image, weight, geometry)
    assert_rounded_once("dx", dx[-1].flatten(1), matrix.T @ last)
    dweight = conv.backward_weight(y, image, weight, geometry)[:, :, 0, 0]
    assert_rounded_once("dweight", dweight, last @ of_image.T)


def test_what_a_gpu_alone_can_hold_passes_on_the_host_where_it_is_small(native: None) -> None:
    """So that on a GPU it is the kernels that fail, and not the tests."""
    with backend("cpu"), force(small_channels=True):
        for last in (True, False):
            full_chip("cpu", 1, last, 1, channels=8)
            for segments in (1, 2):
                large_norm_act("cpu", (4, 8, 16, 16), last, segments)
        large_gather("cpu", 5, (3, 9, 8))
        large_small_channel_convolution("cpu", (3, 64, 8, 8))


def test_every_call_is_of_a_gpu(gpu_backend: str) -> None:
    for call in CALLS:
        assert {t.device.type for t in run(call, Inputs("cuda"))} == {"cuda"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_calls_repeat_on_the_host(host_backend: str, call: Callable[..., list[Tensor]]) -> None:
    kept = Inputs("cpu", kept=True)
    want = run(call, kept)
    assert all(t.isfinite().all() for t in want)
    assert same(run(call, kept), want)
    assert same(run(call, Inputs("cpu")), want)
