"""The gathered convolutions in Triton's interpreter against float64, every output poisoned."""

from __future__ import annotations

import random

import pytest
import torch
from conv_case import ConvCase, Shape
from tolerance import FLOOR

from fastgan.kernels.conv_block import forward as conv_forward
from fastgan.kernels.conv_block import geometry as _conv_geometry
from fastgan.kernels.conv_block import partials as _conv_partials
from fastgan.kernels.conv_block.geometry import ConvConfig, conv_geometry

SMALL = ConvConfig(32, 16, 16, 1, 2)
HALVED: Shape = (False, (4, 5, 5, 4), 3, [4, 3], [2, 1], [1, 1], [0, 0])
DOUBLED: Shape = (True, (4, 5, 2, 3), 3, [4, 3], [2, 1], [1, 1], [0, 0])
KINDS = pytest.mark.parametrize("shape", [HALVED, DOUBLED], ids=["direct", "transposed"])
ACTIVATIONS = {"identity": (0, 1.0), "relu": (0, 0.0), "tanh": (1, 0.0), "sigmoid": (2, 0.0)}


def drawn(generator: random.Random, dims: int, transposed: bool) -> Shape:
    """A geometry with an output: odd sizes, single positions, rectangles, any output padding."""
    longest = {1: 9, 2: 7, 3: 3}[dims]
    kernel = [generator.randint(1, longest) for _ in range(dims)]
    stride = [generator.randint(1, 4) for _ in range(dims)]
    padding = [generator.randint(0, k // 2) for k in kernel]
    extra = [generator.randint(0, s - 1) if transposed else 0 for s in stride]
    most = {1: 8, 2: 3, 3: 1}[dims]
    least = [1 if transposed else max(1, k - 2 * p) for k, p in zip(kernel, padding, strict=True)]
    if transposed:  # at least one output
        least = [
            next(n for n in range(1, 50) if (n - 1) * s - 2 * p + k + e > 0)
            for k, s, p, e in zip(kernel, stride, padding, extra, strict=True)
        ]
    size = [generator.randint(n, n + most) for n in least]
    channels = generator.choice([1, 3, 5, 16, 17]), generator.choice([1, 3, 5, 16, 17])
    return transposed, (2, channels[0], *size), channels[1], kernel, stride, padding, extra


@pytest.mark.parametrize("transposed", [False, True], ids=["direct", "transposed"])
@pytest.mark.parametrize(("dims", "draws"), [(1, 3), (2, 8), (3, 2)])
def test_drawn_geometries(dims: int, draws: int, transposed: bool) -> None:
    generator, kernels = random.Random(10 * dims + transposed), set()
    for seed in range(draws):
        segments = (generator.choice([0, 1, 2]), generator.choice([0, 1, 2]))
        c = ConvCase(drawn(generator, dims, transposed), segments=segments, seed=seed)
        c.check(c.launch(SMALL))
        kernels.update(c.shape[3])
    assert dims != 2 or max(kernels) == 7


@pytest.mark.parametrize(
    "shape",
    [
        (True, (3, 16, 1, 1), 5, [4, 4], [1, 1], [0, 0], [0, 0]),  # a generator's first layer
        (False, (3, 5, 4, 4), 1, [4, 4], [1, 1], [0, 0], [0, 0]),  # a discriminator's last
        (True, (2, 3, 3, 3), 4, [1, 1], [2, 2], [0, 0], [1, 1]),  # three phases without a tap
        (True, (2, 3, 1, 2), 4, [2, 2], [4, 4], [0, 0], [0, 0]),  # phases without a position
        (True, (2, 3, 2, 2), 4, [3, 3], [2, 2], [1, 1], [1, 1]),
        (False, (2, 3, 9), 4, [41], [4], [20], [0]),
        (True, (2, 3, 3), 4, [8], [4], [2], [0]),
        (False, (1, 3, 8, 3, 9), 2, [8, 2, 7], [4, 2, 3], [2, 1, 0], [0, 0, 0]),
        (True, (1, 3, 2, 1, 2), 2, [4, 2, 4], [2, 2, 2], [1, 0, 1], [0, 0, 0]),
    ],
    ids=str,
)
def test_shapes(shape: Shape) -> None:
    """In the configuration that ships."""
    c = ConvCase(shape, biased=True)
    c.check(c.launch())


@KINDS
@pytest.mark.parametrize("normed", [True, False], ids=["norm", "no norm"])
def test_every_prologue_with_every_epilogue(shape: Shape, normed: bool) -> None:
    """Every activation in either place, with and without statistics and bias."""
    codes = list(ACTIVATIONS.values())
    for i, pre in enumerate(codes):
        statistics = 2 * ((i + normed) % 2)
        post = codes[(i + 1 + shape[0]) % 4]
        c = ConvCase(
            shape, segments=(2 * normed, statistics), pre=pre, post=post, biased=i < 2, seed=i
        )
        c.check(c.launch(SMALL))


@pytest.mark.parametrize(
    ("dtype", "precision", "transposed"),
    [
        (torch.bfloat16, "ieee", False),
        (torch.bfloat16, "ieee", True),
        (torch.float16, "ieee", False),
        (torch.float32, "tf32", True),
        (torch.float32, "ieee", False),
    ],
    ids=str,
)
def test_every_configuration(dtype: torch.dtype, precision: str, transposed: bool) -> None:
    """More than one tile of rows and columns and more than one step of channels, none of them full;
    and the steps of the data gradient. Warps and stages mean nothing to the interpreter.
    """
    x, extra = ((2, 40, 6, 11), [1, 0]) if transposed else ((2, 40, 13, 11), [0, 0])
    shape: Shape = (transposed, x, 72, [2, 1], [2, 1], [0, 0], extra)
    forward, back = (
        _conv_geometry.configs(dtype, precision, tensors)
        + _conv_geometry.configs(dtype, precision, tensors, narrow=True)
        for tensors in (1, 2)
    )
    if dtype == torch.float16:  # the tiles of bfloat16
        forward, back = forward[-1:], back[-1:]
    c = ConvCase(shape, dtype, post=(1, 0.0))
    # TF32 has as many digits as float16, in which PyTorch can be asked on a CPU.
    like = torch.float16 if precision == "tf32" else dtype
    for config, config_back in zip(forward, back, strict=True):
        c.check(c.launch(config, config_back, precision), like)


def test_segments_that_differ_and_an_image_each() -> None:
    for segments, images in (((2, 3), 6), ((3, 6), 6), ((9, 9), 9)):
        for transposed in (False, True):
            shape: Shape = (transposed, (images, 5, 3, 2), 3, [2, 2], [2, 1], [0, 0], [0, 0])
            c = ConvCase(shape, segments=segments)
            c.check(c.launch(SMALL))


@KINDS
def test_64_bit_offsets_inside_a_tile(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conv_geometry, "INDEX_LIMIT", 1)
    c = ConvCase(shape, segments=(2, 2))
    c.check(c.launch(SMALL))


@KINDS
def test_partials_merged_in_chunks(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conv_partials, "MERGE_PARTIALS", 1)
    monkeypatch.setattr(_conv_partials, "MERGE_CHUNK", 2)
    c = ConvCase(shape, segments=(2, 2))
    c.check(c.launch(SMALL))


def test_large_means_and_small_spreads() -> None:
    """|mean| / std of 1e4 before and after: both norms keep their digits."""
    c = ConvCase(HALVED, segments=(2, 2), scale=1e-2, shift=100.0, biased=True)
    c.inputs["gamma"].mul_(1e-2)
    c.inputs["beta"].mul_(1e-2)
    c.inputs["bias"].fill_(100.0)
    got = c.launch(SMALL)
    c.check(got)
    exact = c.of_torch(torch.float64, torch.float64)["y_var"]
    assert ((got["y_var"] - exact).abs() < 2000 * FLOOR[torch.float32] * exact).all()


def test_a_constant_output_has_variance_zero() -> None:
    c = ConvCase(HALVED, biased=True)
    c.inputs["weight"].zero_()
    got = c.launch(SMALL)
    assert (got["y_var"] == 0).all()
    assert torch.equal(got["y_mean"][0], c.inputs["bias"])


@KINDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_spoils_what_it_reaches_only(shape: Shape, bad: float) -> None:
    for precision in ("ieee", "tf32"):
        c = ConvCase(shape, segments=(2, 2), pre=(0, 1.0))
        c.inputs["x"][3, 1, 0, 0] = bad
        got = c.launch(SMALL, precision=precision)
        expected = c.outputs(c.inputs)[0]
        assert torch.equal(got["y"].isfinite(), expected.isfinite())
        assert 0 < (~expected.isfinite()).sum() < expected[3].numel()
        assert got["y_mean"].isfinite().tolist() == [[True] * 3, [False] * 3]


def test_weights_of_any_strides_and_dtype() -> None:
    for shape in (HALVED, DOUBLED):
        c = ConvCase(shape, torch.bfloat16)
        want = c.launch(SMALL)
        weight = c.inputs["weight"]
        spread = torch.full((*weight.shape, 2), float("nan"))[..., 0]
        spread.copy_(weight)
        for other in (weight.to(memory_format=torch.channels_last), spread):
            c.inputs["weight"] = other
            got = c.launch(SMALL)
            assert all(torch.equal(got[name], want[name]) for name in want)


def test_an_empty_batch() -> None:
    nothing = conv_forward.Activation()
    rows = torch.ones(1, 3, 5)
    for transposed, _, _, kernel, *geometry in (HALVED, DOUBLED):
        weight = torch.randn(*((5, 3) if transposed else (3, 5)), *kernel)
        x = torch.empty(0, 5, 6, 6)
        geo = conv_geometry(x, weight, *geometry, transposed)
        y, mean, var = conv_forward.conv_forward(x, rows, nothing, weight, None, geo, nothing, 2)
        assert y.shape == (0, 3, *geo.size_out[1:])
        assert torch.equal(mean, torch.zeros(2, 3))
        assert torch.equal(var, torch.zeros(2, 3))
        g_x, *sums = conv_forward.conv_data_gradient(
            y, None, None, nothing, weight, geo, x, rows, nothing
        )
        assert g_x.shape == x.shape
        of_norm = _conv_partials.conv_norm_gradients(*sums, torch.ones(1, 5), None, 1e-5)
        assert all((g == 0).all() for g in of_norm)


def test_segments_that_do_not_divide_the_batch() -> None:
    c = ConvCase(HALVED)
    c.segments = (1, 3)
    with pytest.raises(ValueError, match="segments: 3 does not divide the batch of 4"):
        c.launch(SMALL)
