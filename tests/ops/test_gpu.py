"""The ops on the backends of an NVIDIA GPU, against PyTorch's own layers there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import eager
import pytest
import torch
from convolutions import check, small_channel_case
from parity import channels_last, check_parity
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.ops import available, backend, bias_act, gather_images, norm_act
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import output_shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# DCGAN-64 at batch 64; past what stays on chip; an image; sizes that divide nothing; no space.
SHAPES = [
    (64, 512, 4, 4),
    (64, 128, 16, 16),
    (64, 64, 32, 32),
    (256, 64, 32, 32),
    (16, 3, 64, 64),
    (7, 37, 19, 23),
    (6, 24, 5, 9, 11),
    (128, 1000),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = {"contiguous": Tensor.contiguous, "channels_last": channels_last}


@pytest.fixture(params=["triton", "cuda"])
def gpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend of the GPU; one that cannot run there is a failure, not a skip."""
    assert available()[request.param] is None
    with backend(request.param):
        yield request.param


def draw(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    return LAYOUTS[layout]((torch.randn(shape, device="cuda") * 2 + 1).to(dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_pytorch(
    gpu_backend: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str, training: bool
) -> None:
    x = draw(shape, dtype, layout)
    weight, bias = torch.randn(2, shape[1], device="cuda")
    dz = torch.randn(shape, device="cuda")
    check_parity(x, weight, bias, dz, training, negative_slope=0.2)


@pytest.mark.parametrize("activation", eager.ACTIVATIONS)
@pytest.mark.parametrize("order", ["norm_act", "act_norm"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_activations_orders_and_segments(
    gpu_backend: str, activation: str, order: str, layout: str
) -> None:
    spec = {"activation": activation, "order": order, "negative_slope": 0.1}
    for dtype in DTYPES:
        x = draw((12, 40, 9, 9), dtype, layout)
        weight, bias = torch.randn(2, 40, device="cuda")
        dz = torch.randn(x.shape, device="cuda")
        check_parity(x, weight, None, dz, False, **spec)
        for segments in (1, 2, 12):
            check_parity(x, None, bias, dz, True, segments=segments, **spec)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", eager.ACTIVATIONS)
def test_bias_act_equals_pytorch(
    gpu_backend: str, dtype: torch.dtype, layout: str, activation: str
) -> None:
    spec = {"activation": activation, "negative_slope": 0.2}
    for shape in SHAPES:
        x, bias = draw(shape, dtype, layout), torch.randn(shape[1], device="cuda")
        dz = torch.randn_like(x)
        own = eager.gradients(partial(bias_act, **spec), [x, bias], dz)
        plain = partial(eager.bias_act, **spec)
        theirs = eager.gradients(plain, [x, bias], dz)
        exact = eager.gradients(plain, [x.double(), bias.double()], dz.double())
        of_sums = float(dz.double().square().movedim(1, 0).flatten(1).sum(1).sqrt().max())
        for name, size, *values in zip(
            ("z", "dx", "dbias"), (0.0, 0.0, of_sums), own, theirs, exact, strict=True
        ):
            assert_as_exact(name, *values, floor=dtype, size=size)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(64, 64, 32, 32), (8, 96, 7, 5)], ids=str)
def test_two_runs_are_bitwise_equal(gpu_backend: str, layout: str, shape: tuple[int, ...]) -> None:
    x = draw(shape, torch.bfloat16, layout)
    weight, bias = torch.randn(2, shape[1], device="cuda")
    dz = torch.randn_like(x)

    def run() -> list[Tensor]:
        def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return norm_act(x, None, None, weight, bias, True)

        return eager.gradients(call, [x, weight, bias], dz)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_second_order_equals_pytorch(gpu_backend: str) -> None:
    """The gradient of a penalty on the input's gradient, as in R1."""
    x = draw((8, 12, 9, 9), torch.float32, "channels_last")
    weight, bias = torch.randn(2, 12, device="cuda")

    def penalty(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaves = [t.to(dtype).detach().clone().requires_grad_() for t in (x, weight, bias)]
        z = function(leaves[0], None, None, *leaves[1:], True, negative_slope=0.2)
        (gradient,) = torch.autograd.grad(z.square().sum(), leaves[0], create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), leaves))

    own, theirs = penalty(norm_act, torch.float32), penalty(eager.norm_act, torch.float32)
    for name, *values in zip(
        ("x", "weight", "bias"), own, theirs, penalty(eager.norm_act, torch.float64), strict=True
    ):
        assert_as_exact(name, *values, floor=torch.float32)


def test_no_host_synchronisation(gpu_backend: str) -> None:
    x = draw((64, 64, 32, 32), torch.bfloat16, "channels_last").requires_grad_()
    weight, bias = torch.randn(2, 64, device="cuda")
    running = torch.zeros(64, device="cuda"), torch.ones(64, device="cuda")
    dz = torch.randn_like(x)
    norm_act(x, *running, weight, bias, True).backward(dz)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm_act(x, *running, weight, bias, True).backward(dz)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), (13, 7, 5)], ids=str)
def test_gather_images_gives_the_bits_of_the_cpu(
    gpu_backend: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    images = torch.randint(0, 256, (50, *shape), dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    index, flips = torch.randint(0, 50, (33,)), torch.rand(33) < 0.5
    for given in (flips, None):
        with backend("reference"):
            truth = gather_images(images, index, given, dtype=dtype)
        on_gpu = (t if t is None else t.cuda() for t in (images, index, given))
        assert torch.equal(gather_images(*on_gpu, dtype=dtype).cpu(), truth)
    lost = gather_images(images.cuda(), torch.tensor([0, 50, -1], device="cuda"), dtype=dtype)
    assert lost[0].isfinite().all()
    assert lost[1:].isnan().all()


def test_float64_is_refused_by_name(gpu_backend: str) -> None:
    x = torch.randn(4, 3, 5, 5, device="cuda", dtype=torch.float64)
    with pytest.raises(RuntimeError, match="float64"):
        norm_act(x, None, None, training=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_small_channel_convolutions(seed: int, dtype: torch.dtype) -> None:
    """The kernels for images of few channels, at the shapes of their tests on the CPU."""
    assert available()["cuda"] is None
    x_shape, weight_shape, geometry = small_channel_case(seed)
    x = channels_last(torch.randn(x_shape, device="cuda").to(dtype))
    weight = torch.randn(weight_shape, device="cuda").to(dtype)
    channels = output_shape(x_shape, weight_shape, geometry)[1]
    bias = torch.randn(channels, device="cuda")
    with force(small_channels=True):
        check(x, weight, bias, geometry, activation=1, slope=0.0)
