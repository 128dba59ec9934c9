"""The raw convolutions: output and both gradients against torch.nn's, in every layout."""

from __future__ import annotations

import random
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.ops import _convolution, _lowered, _processor, _thin, _winograd
from fastgan.ops._convolution import Geometry, output_shape
from fastgan.ops._tensors import dense_like, is_channels_last
from fastgan.ops.reference.activation import LEAKY_RELU, SIGMOID, TANH, act

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def torch_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, output_padding, transposed = geometry
    name = f"conv{'_transpose' if transposed else ''}{len(stride)}d"
    extra = {"output_padding": output_padding} if transposed else {}
    return getattr(F, name)(x, weight, bias, stride=stride, padding=padding, **extra)


def results(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dy: Tensor,
    geometry: Geometry,
    activation: int,
    slope: float,
    dtype: torch.dtype,
) -> list[Tensor]:
    """torch.nn's act(conv(x) + bias), and the gradients of conv for dy, at a dtype."""
    x, weight = (t.to(dtype).detach().requires_grad_() for t in (x, weight))
    y = torch_convolution(x, weight, None if bias is None else bias.to(dtype), geometry)
    return [act(y, activation, slope), *torch.autograd.grad(y, (x, weight), dy.to(dtype))]


def check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: int,
    slope: float,
) -> None:
    y = _convolution.forward(x, weight, bias, geometry, activation, slope)
    assert y.shape == output_shape(x.shape, weight.shape, geometry)
    assert y.dtype is x.dtype
    assert is_channels_last(y) if is_channels_last(x) else y.is_contiguous()
    dy = torch.randn_like(y)
    own = [
        y,
        _convolution.backward_input(dy, x, weight, geometry),
        _convolution.backward_weight(dy, x, weight, geometry),
    ]
    assert own[1] is dense_like(own[1], x)
    assert own[2] is dense_like(own[2], weight)
    given = (x, weight, bias, dy, geometry, activation, slope)
    theirs, exact = results(*given, x.dtype), results(*given, torch.float64)
    for name, *values in zip(["y", "dx", "dweight"], own, theirs, exact, strict=True):
        assert_as_exact(name, *values)


def parameters(
    c_in: int, c_out: int, k: tuple[int, ...], geometry: Geometry, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    order = (c_in, c_out) if geometry.transposed else (c_out, c_in)
    bias = torch.randn(c_out, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    return torch.randn(*order, *k).to(dtype), bias


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_equals_pytorch(dimensions: int, transposed: bool, dtype: torch.dtype) -> None:
    d = dimensions
    geometry = Geometry((2,) * d, (1,) * d, (int(transposed),) * d, transposed)
    for layout, weight_layout, biased in product(
        [channels_last, Tensor.contiguous], [channels_last, Tensor.contiguous], [True, False]
    ):
        weight, bias = parameters(5, 6, (4,) * d, geometry, dtype)
        x = layout(torch.randn(2, 5, *(7, 5, 6)[:d]).to(dtype))
        for activation, slope in ((LEAKY_RELU, 1.0), (LEAKY_RELU, 0.2), (TANH, 0), (SIGMOID, 0)):
            check(x, weight_layout(weight), bias if biased else None, geometry, activation, slope)


@pytest.mark.parametrize("transposed", [False, True])
def test_empty_batch(transposed: bool) -> None:
    geometry = Geometry((2, 2), (1, 1), (0, 0), transposed)
    weight, bias = parameters(3, 4, (4, 4), geometry, torch.float32)
    x = torch.randn(0, 3, 8, 8)
    y = _convolution.forward(x, weight, bias, geometry, TANH, 0.0)
    assert y.shape == output_shape(x.shape, weight.shape, geometry)
    assert _convolution.backward_input(y, x, weight, geometry).shape == x.shape
    assert not _convolution.backward_weight(y, x, weight, geometry).any()


def test_shapes_that_do_not_fit() -> None:
    plain = Geometry((2, 2), (1, 1), (0, 0), False)
    transposed = Geometry((1, 1), (2, 2), (0, 0), True)
    with pytest.raises(ValueError, match=r"weight: expected \(C_out, C_in, \*k\) for x of shape"):
        output_shape((1, 3, 8, 8), (4, 5, 4, 4), plain)
    with pytest.raises(ValueError, match=r"weight: expected \(C_in, C_out, \*k\) for x of shape"):
        output_shape((1, 3, 8, 8), (4, 3, 4, 4), transposed)
    with pytest.raises(ValueError, match=r"weight: .* got shape \(4, 3, 4\)"):
        output_shape((1, 3, 8, 8), (4, 3, 4), plain)
    with pytest.raises(ValueError, match=r"x: shape \(1, 3, 1, 8\) is too small for a kernel"):
        output_shape((1, 3, 1, 8), (4, 3, 4, 4), plain)
    with pytest.raises(ValueError, match=r"x: .* the output would be \(0, 4\)"):
        output_shape((1, 4, 1, 5), (4, 3, 4, 4), transposed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("positions", "kernel", "stride", "padding", "extra"),
    [
        ((4, 4), (4, 4), (2, 2), (1, 1), (0, 0)),  # DCGAN's layers
        ((1, 1), (4, 4), (1, 1), (0, 0), (0, 0)),  # its first and last one
        ((2, 3), (3, 1), (1, 1), (1, 0), (0, 0)),
        ((3, 2), (6, 3), (2, 3), (0, 2), (1, 2)),
        ((3, 4), (2, 4), (2, 1), (2, 3), (1, 0)),
    ],
)
def test_matrix_products(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    positions: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
) -> None:
    monkeypatch.setattr(_lowered, "setting", "always")
    monkeypatch.setattr(_thin, "setting", "never")
    weight = torch.randn(6, 5, *kernel).to(dtype)
    size = output_shape((1, 6, *positions), weight.shape, Geometry(stride, padding, extra, True))
    for transposed, layout in product([False, True], [channels_last, Tensor.contiguous]):
        geometry = Geometry(stride, padding, extra if transposed else (0, 0), transposed)
        x = torch.randn(3, *((6, *positions) if transposed else (5, *size[2:]))).to(dtype)
        bias = torch.randn(5 if transposed else 6, dtype=dtype if x.dtype.itemsize == 8 else None)
        if transposed or output_shape(x.shape, weight.shape, geometry)[2:] == positions:
            check(layout(x), weight, bias, geometry, LEAKY_RELU, 0.2)


@pytest.mark.parametrize("fast", [True, False])
def test_matrix_products_are_chosen(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the positions are few and the channels many, and products fast."""
    monkeypatch.setattr(_processor, "fast_products", lambda: fast)
    layer = Geometry((2, 2), (1, 1), (0, 0), False)
    whole = Geometry((1, 1), (0, 0), (0, 0), False)

    def chosen(c_in: int, c_out: int, size: int, k: int, geometry: Geometry) -> bool:
        weight = torch.randn(*((c_in, c_out) if geometry.transposed else (c_out, c_in)), k, k)
        x = torch.randn(2, c_in, size, size)
        y_size = output_shape(x.shape, weight.shape, geometry)[2:]
        y = _lowered.forward(x, weight, geometry, y_size)
        return y is not None

    assert chosen(128, 256, 8, 4, layer) is fast
    assert chosen(256, 128, 4, 4, layer._replace(transposed=True)) is fast
    assert chosen(10, 64, 1, 4, whole._replace(transposed=True))
    assert chosen(64, 1, 4, 4, whole)
    assert not chosen(128, 256, 16, 4, layer)
    assert not chosen(64, 128, 8, 4, layer)
    assert not chosen(128, 128, 7, 3, layer)


HALVED = Geometry((2, 2), (1, 1), (0, 0), False)  # what minimal filtering is for


@pytest.fixture
def filtered_always(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_winograd, "setting", "always")


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize(
    ("batch", "image", "wide", "positions"),
    [
        (3, 64, 128, (16, 16)),  # DCGAN's: several blocks of tiles
        (2, 48, 80, (5, 7)),  # incomplete tiles, panels and squares
        (5, 144, 16, (4, 2)),
        (1, 16, 32, (1, 1)),
    ],
)
def test_minimal_filtering(
    filtered_always: None,
    batch: int,
    image: int,
    wide: int,
    positions: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    weight = (torch.randn(wide, image, 4, 4) / 8).to(dtype)
    for transposed, layout in product([False, True], [channels_last, Tensor.contiguous]):
        size = positions if transposed else tuple(2 * n for n in positions)
        x = channels_last(torch.randn(batch, wide if transposed else image, *size).to(dtype))
        geometry = HALVED._replace(transposed=transposed)
        assert _winograd.forward(x, weight, geometry) is not None
        bias = torch.randn(image if transposed else wide)
        check(x, layout(weight), bias, geometry, LEAKY_RELU, 0.2)


def test_minimal_filtering_on_any_number_of_threads(filtered_always: None) -> None:
    x, weight = channels_last(torch.randn(3, 32, 22, 10)), torch.randn(80, 32, 4, 4)
    dy = channels_last(torch.randn(3, 80, 11, 5))

    def passes() -> list[Tensor | None]:
        return [
            _winograd.forward(x, weight, HALVED),
            _winograd.backward_input(dy, x, weight, HALVED),
            _winograd.backward_weight(dy, x, weight, HALVED),
        ]

    threads = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found.append(passes())
    finally:
        torch.set_num_threads(threads)
    for own in found[1:]:
        for a, b in zip(own, found[0], strict=True):
            assert torch.equal(a, b)


def test_minimal_filtering_is_chosen(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its geometry, wide channels-last tensors and products in float32, and nothing else."""

    def chosen(x: Tensor, weight: Tensor, geometry: Geometry = HALVED) -> bool:
        return _winograd.forward(x, weight, geometry) is not None

    x, weight = channels_last(torch.randn(2, 64, 8, 8)), torch.randn(128, 64, 4, 4)
    assert chosen(x, weight)
    assert chosen(
        channels_last(torch.randn(2, 128, 5, 4)), weight, HALVED._replace(transposed=True)
    )
    assert not chosen(x.contiguous(), weight)
    assert not chosen(x.double(), weight.double())
    assert not chosen(x[:, :, :7].contiguous(memory_format=torch.channels_last), weight)
    assert not chosen(x, weight, HALVED._replace(padding=(0, 0)))
    assert not chosen(x, weight[..., :2, :2])
    assert not chosen(channels_last(x[:, :, :6]), weight)  # three positions: no fewer products
    assert not chosen(channels_last(x[:, :32]), weight[:, :32])
    assert not chosen(channels_last(x[:, :60]), weight[:, :60])
    for fast in (False, True):
        monkeypatch.setattr(_processor, "fast_in", lambda dtype, fast=fast: fast)
        assert chosen(x.bfloat16(), weight.bfloat16()) is not fast


@pytest.mark.parametrize(
    ("op", "tensors", "match"),
    [
        ("winograd_conv", ((1, 16, 7, 8), (16, 16, 4, 4)), "image: expected positive sizes"),
        ("winograd_conv", ((1, 12, 8, 8), (16, 12, 4, 4)), "image: expected a multiple of 16"),
        ("winograd_conv", ((1, 16, 8, 8), (16, 32, 4, 4)), "weight: expected"),
        ("winograd_conv_transpose", ((1, 16, 4, 4), (16, 16, 4, 8)), "weight: expected"),
        ("winograd_conv_weight", ((1, 16, 8, 8), (1, 16, 4, 5)), "positions: expected the batch"),
    ],
)
def test_raw_minimal_filtering_checks(
    native: None, op: str, tensors: tuple[tuple[int, ...], ...], match: str
) -> None:
    with pytest.raises(RuntimeError, match=match):
        getattr(torch.ops.fastgan_native, op)(*(channels_last(torch.randn(s)) for s in tensors))
    with pytest.raises(RuntimeError, match="channels-last"):
        getattr(torch.ops.fastgan_native, op)(torch.randn(1, 16, 8, 8), torch.randn(16, 16, 4, 4))


@pytest.fixture
def thin_always(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_thin, "setting", "always")


def thin_case(seed: int) -> tuple[tuple[int, ...], tuple[int, ...], Geometry]:
    """Shapes of x and weight and the geometry of a convolution from or to an image."""
    draw = random.Random(seed)
    image, wide = draw.randint(1, 4), draw.choice([5, 16, 24, 64, 80, 130])
    kernel = (draw.randint(1, 7), draw.randint(1, 7))
    transposed, to_image = draw.random() < 0.5, draw.random() < 0.5
    own = transposed == to_image
    stride = (draw.randint(1, 4), draw.randint(1, 4)) if own else (1, 1)
    padding = tuple(draw.randint(0, min(3, k - 1)) for k in kernel)
    extra = tuple(draw.randint(0, s - 1) if transposed else 0 for s in stride)
    size = tuple(k + draw.randint(0, 12) for k in kernel)
    c_in, c_out = (wide, image) if to_image else (image, wide)
    weight = (c_in, c_out, *kernel) if transposed else (c_out, c_in, *kernel)
    geometry = Geometry(stride, padding, extra, transposed)
    return (draw.choice([1, 3]), c_in, *size), weight, geometry


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("seed", range(24))
def test_thin_kernels(thin_always: None, seed: int, dtype: torch.dtype) -> None:
    x_shape, weight_shape, geometry = thin_case(seed)
    activation, slope = [(LEAKY_RELU, 1.0), (LEAKY_RELU, 0.2), (TANH, 0), (SIGMOID, 0)][seed % 4]
    layout = Tensor.contiguous if seed % 5 == 0 else channels_last
    weight = torch.randn(weight_shape).to(dtype)
    channels = output_shape(x_shape, weight_shape, geometry)[1]
    bias = torch.randn(channels) if seed % 3 else None
    check(layout(torch.randn(x_shape).to(dtype)), weight, bias, geometry, activation, slope)


def test_thin_kernels_are_chosen(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rule says runs on them: to an image always, from one in half precision, ..."""
    monkeypatch.setattr(_processor, "fast_in", lambda dtype: False)
    transposed = Geometry((2, 2), (1, 1), (0, 0), True)
    plain = transposed._replace(transposed=False)
    same = Geometry((1, 1), (1, 1), (0, 0), False)

    def passes(
        shape: tuple[int, ...],
        weight: tuple[int, ...],
        geometry: Geometry,
        dtype: torch.dtype = torch.float32,
        slope: float = 0.2,
    ) -> list[bool]:
        x, w = channels_last(torch.randn(shape).to(dtype)), torch.randn(weight).to(dtype)
        size = output_shape(shape, weight, geometry)
        dy = channels_last(torch.randn(size).to(dtype))
        given = (None, geometry, LEAKY_RELU, slope, size[2:])
        chosen = [
            _thin.forward(x, w, *given),
            _thin.backward_input(dy, x, w, geometry),
            _thin.backward_weight(dy, x, w, geometry),
        ]
        return [t is not None for t in chosen]

    image, wide = (2, 3, 8, 8), (2, 16, 4, 4)
    kernel = (16, 3, 4, 4)
    assert passes(wide, kernel, transposed) == [True, False, False]
    assert passes(wide, kernel, transposed, torch.bfloat16) == [True, True, True]
    assert passes(image, kernel, plain) == [True, True, False]
    assert passes(image, kernel, plain, slope=1.0) == [False, True, False]
    assert passes(image, kernel, plain, torch.bfloat16, 1.0) == [True, True, True]
    assert passes((2, 1, 8, 8), (16, 1, 4, 4), plain, slope=1.0) == [True, True, True]
    assert passes((2, 16, 8, 8), (3, 16, 3, 3), same) == [True, True, True]
    # Not thin: too many channels, taps or steps, or most positions of x would be in vain.
    none = [False, False, False]
    assert passes((2, 5, 8, 8), (16, 5, 4, 4), plain) == none
    assert passes((2, 3, 9, 9), (16, 3, 8, 8), plain) == none
    assert passes((2, 3, 9, 9), (16, 3, 4, 4), plain._replace(stride=(5, 5))) == none
    assert passes((2, 16, 4, 4), (1, 16, 4, 4), same._replace(padding=(0, 0))) == none
    assert passes((2, 16, 8, 8), (3, 16, 4, 4), plain) == none
    assert passes(image, kernel, plain, torch.float64) == none
    # With instructions for bfloat16, fewer.
    monkeypatch.setattr(_processor, "fast_in", lambda dtype: True)
    assert passes(wide, kernel, transposed, torch.bfloat16) == [True, False, False]
    assert passes(image, kernel, plain, torch.bfloat16) == [False, True, False]
    assert passes((2, 16, 8, 8), (3, 16, 3, 3), same, torch.bfloat16) == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_thin_kernels_on_any_number_of_threads(thin_always: None, dtype: torch.dtype) -> None:
    geometry = Geometry((2, 2), (1, 1), (0, 0), False)
    x, weight = (
        channels_last(torch.randn(3, 3, 34, 30).to(dtype)),
        torch.randn(40, 3, 4, 4).to(dtype),
    )
    dy = channels_last(torch.randn(3, 40, 17, 15).to(dtype))
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(
                [
                    _convolution.forward(x, weight, None, geometry, LEAKY_RELU, 0.2),
                    _convolution.backward_input(dy, x, weight, geometry),
                    _convolution.backward_weight(dy, x, weight, geometry),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for own, same in zip(found[0], other, strict=True):
            assert torch.equal(own, same)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stride": [5, 1]}, "stride: expected 1 to 4, got 5"),
        ({"padding": [-1, 0]}, "padding: expected 0 to"),
        ({"padding": [1]}, "padding: expected two numbers, got 1"),
        ({"bias": torch.zeros(7)}, "bias: expected 8 contiguous values in float32"),
        ({"weight": torch.zeros(8, 3, 8, 1)}, "kernel: expected 1 to 7, got 8"),
        ({"weight": torch.zeros(8, 2, 4, 4)}, r"weight: expected \(8, 3, \*k\) of x's dtype"),
        ({"image": torch.zeros(1, 3, 8)}, r"image: expected \(N, C, H, W\), got 3 dimensions"),
        ({"image": torch.zeros(1, 5, 8, 8), "weight": torch.zeros(8, 5, 4, 4)}, "1 to 4 channels"),
        ({"activation": 3}, "activation: unknown code 3"),
    ],
)
def test_raw_thin_kernel_checks(native: None, change: dict[str, object], match: str) -> None:
    arguments: dict[str, object] = {
        "image": torch.zeros(1, 3, 8, 8),
        "weight": torch.zeros(8, 3, 4, 4),
        "bias": None,
        "stride": [2, 2],
        "padding": [1, 1],
        "size": [4, 4],
        "activation": 0,
        "negative_slope": 1.0,
        **change,
    }
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fastgan_native.thin_conv(**arguments)
