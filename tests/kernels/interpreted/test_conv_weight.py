"""The weight gradient in Triton's interpreter against float64 autograd, outputs and workspace
poisoned with NaN beforehand.
"""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest
import torch
from conv_weight_case import NONE, WeightCase

from fastgan.kernels.conv_block import weight as conv_weight
from fastgan.kernels.conv_block import weight_plan as plan
from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.geometry import ConvConfig, Target, conv_geometry

SMALL = ConvConfig(16, 32, 16, 1, 2)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = ((torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee"))


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Launches, compares and returns; every slice is one tile long, so that there are many."""
    monkeypatch.setattr(plan, "MIN_TILES", 1)

    def run(case: WeightCase, config: Any = SMALL, **options: Any) -> dict[str, torch.Tensor]:
        got = case.launch(config, **options)
        case.check(got)
        return got

    return run


def geometries(seed: int, count: int) -> list[dict[str, Any]]:
    """Random rectangular convolutions in one to three dimensions that leave an output."""
    pick = random.Random(seed)
    found: list[dict[str, Any]] = []
    while len(found) < count:
        dims = pick.choice((1, 2, 2, 2, 3))
        most = {1: 9, 2: 7, 3: 3}[dims]
        size, kernel, stride, padding = (
            tuple(pick.randint(low, high) for _ in range(dims))
            for low, high in ((1, most), (1, most), (1, 4), (0, 2))
        )
        transposed = pick.random() < 0.5
        axes = list(zip(size, kernel, stride, padding, strict=True))
        if transposed:
            leaves = all((i - 1) * s - 2 * p + k > 0 for i, k, s, p in axes)
        else:
            leaves = all(i + 2 * p >= k for i, k, s, p in axes)
        if not leaves:
            continue
        channels = (1, 3, 5, 16, 17)
        found.append(
            {
                "transposed": transposed,
                "x_shape": (4, pick.choice(channels), *size),
                "c_out": pick.choice(channels),
                "kernel": kernel,
                "stride": stride,
                "padding": padding,
                "output_padding": tuple(pick.randrange(s) if transposed else 0 for s in stride),
                "rows": (pick.choice((0, 1, 2, 4)), pick.choice((0, 1, 2, 4))),
                "pre": pick.choice((NONE, (0, 0.2), (1, 0.0))),
                "post": pick.choice((NONE, (0, 0.2), (2, 0.0))),
                "last": pick.random() < 0.5,
                "seed": len(found),
            }
        )
    return found


def test_random_geometries(check: Any) -> None:
    drawn = geometries(seed=4, count=20)
    assert {6, 7} <= {
        k for options in drawn for k in options["kernel"] if len(options["kernel"]) == 2
    }
    for options in drawn:
        check(WeightCase(**options))


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_every_configuration(check: Any, transposed: bool) -> None:
    """Blocks of columns of several taps and of one; tiles that channels fill and do not fill."""
    kinds = product(KINDS, (Target(), Target(101376), Target(65536)))
    every = [c for (dtype, kind), target in kinds for c in plan.configs(dtype, kind, target)]
    # warps and stages mean nothing to the interpreter
    for config in {(c.block_m, c.block_n, c.block_k): c for c in every}.values():
        check(WeightCase(transposed, (2, 17, 3, 2), 17, (2, 2), (1, 1), (0, 0)), config)
    one_tap = WeightCase(transposed, (1, 128, 2, 2), 128, (1, 2), (1, 1), (0, 0))
    check(one_tap, ConvConfig(64, 128, 16, 4, 2))


def test_tf32_rounds_to_nearest_where_values_are_formed() -> None:
    case = WeightCase(x_shape=(4, 16, 6, 6))
    got, truth = case.launch(SMALL, "tf32")["g_weight"], case.of_torch(torch.float64)["g_weight"]
    error = ((got - truth).norm() / truth.norm()).item()
    assert 2**-14 < error < 2**-11  # 10 bits, of either operand, at random


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_every_pair_of_prologues(check: Any, transposed: bool) -> None:
    acts = (NONE, (0, 0.2), (1, 0.0), (2, 0.0))
    for i, (pre, post) in enumerate(product(acts, acts)):
        # Each activation on either side meets rows and none.
        rows = (2 * (i // 2 % 2), 2 * ((i + i // 4) % 2))
        check(
            WeightCase(
                transposed, (2, 3, 2, 3), 4, (2, 3), (2, 1), (1, 1), rows=rows, pre=pre, post=post
            )
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_dtypes(check: Any, transposed: bool, dtype: torch.dtype) -> None:
    for last in (False, True):
        check(WeightCase(transposed, (2, 16, 3, 3), 17, (2, 3), dtype=dtype, last=last))


def test_the_mean_may_dwarf_the_spread(check: Any) -> None:
    check(WeightCase(scale=1e-2, shift=100.0))


@pytest.mark.parametrize(
    "options",
    [
        {"x_shape": (2, 2, 50), "kernel": (41,), "stride": (4,), "padding": (20,)},
        {"x_shape": (1, 1, 5, 3, 4), "kernel": (8, 6, 7), "stride": (2,) * 3, "padding": (3,) * 3},
        {"x_shape": (4, 3, 1, 1), "kernel": (4, 4), "stride": (1, 1), "padding": (0, 0)},
    ],
    ids=["1-D", "3-D", "from 1x1"],
)
def test_large_kernels(check: Any, options: dict[str, Any]) -> None:
    dims = len(options["kernel"])
    transposed = options["x_shape"][2] == 1
    check(WeightCase(transposed=transposed, c_out=3, output_padding=(0,) * dims, **options))


def test_outputs_that_no_tap_reaches_count_in_the_bias(check: Any) -> None:
    gap = WeightCase(True, kernel=(2, 1), stride=(3, 2), padding=(0, 0), output_padding=(2, 1))
    end = WeightCase(True, kernel=(3, 3), padding=(0, 1), output_padding=(1, 1), rows=(0, 2))
    for case in (gap, end):
        check(case)


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_only_what_is_needed_is_computed(
    check: Any,
    monkeypatch: pytest.MonkeyPatch,
    transposed: bool,
) -> None:
    case = WeightCase(transposed)
    both = check(case)
    alone = case.launch(SMALL, bias=False)
    assert torch.equal(alone["g_weight"], both["g_weight"])
    assert alone["g_bias"].shape == (0,)
    monkeypatch.setattr(conv_weight, "weight_kernel", None)
    alone = case.launch(SMALL, weight=False)
    assert alone["g_weight"].shape == (0,)
    case.check({"g_bias": alone["g_bias"]})
    monkeypatch.setattr(conv_weight, "bias_kernel", None)
    nothing = case.launch(SMALL, weight=False, bias=False)
    assert nothing["g_weight"].shape == nothing["g_bias"].shape == (0,)


def test_the_weight_gives_dtype_and_layout(check: Any) -> None:
    case = WeightCase(True, x_shape=(4, 16, 3, 3), dtype=torch.bfloat16)
    got = check(case)["g_weight"]
    case.weight = case.weight.float()
    wide = case.launch(SMALL)["g_weight"]
    assert wide.dtype == torch.float32
    assert torch.equal(wide.bfloat16(), got)
    case.weight = channels_swapped = case.weight.transpose(0, 1).contiguous().transpose(0, 1)
    assert not channels_swapped.is_contiguous()
    other = case.launch(SMALL)["g_weight"]
    assert other.is_contiguous()
    assert torch.equal(other, wide)


def test_one_slice_writes_a_channels_last_weight_itself(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv_weight, "reduce_kernel", None)
    one = ConvConfig(16, 32, 64, 1, 2)
    check(WeightCase(last=True, dtype=torch.bfloat16), one)
    with pytest.raises(TypeError):
        check(WeightCase(last=False), one)


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_runs_repeat_bit_for_bit(check: Any, transposed: bool) -> None:
    case = WeightCase(transposed, x_shape=(8, 3, 4, 3), rows=(2, 4))
    first, second = check(case), case.launch(SMALL)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_offsets_of_64_bits_give_the_same(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for transposed in (False, True):
        case = WeightCase(transposed)
        narrow = check(case)
        with monkeypatch.context() as patch:
            patch.setattr(plan.Product, "wide", lambda self, config: True)
            wide = case.launch(SMALL)
        assert all(torch.equal(narrow[name], wide[name]) for name in narrow)


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_an_empty_batch_gives_zeros(transposed: bool) -> None:
    case = WeightCase(transposed)
    case.x, case.g, case.y = case.x[:0], case.g[:0], case.y[:0]
    got = case.launch()
    assert got["g_weight"].shape == case.weight.shape
    assert not got["g_weight"].any()
    assert got["g_bias"].tolist() == [0.0] * 7


def test_errors() -> None:
    case = WeightCase()
    geo = conv_geometry(case.x, case.weight, [2, 2], [1, 1], [0, 0], False)

    def launch(**changed: Any) -> None:
        names = {"x": case.x, "rows": case.x_rows, "g": case.g, "y": case.y}
        given = names | {"gradient_rows": case.dy_rows, "input_precision": "ieee"} | changed
        conv_weight.conv_weight_gradient(
            pre=Activation(0, 0.2), post=Activation(1), weight=case.weight, geo=geo,
            need_weight=True, need_bias=True, **given,
        )  # fmt: skip

    launch()
    with pytest.raises(ValueError, match=r"input_precision: expected one of .*, got 'bf16x3'"):
        launch(input_precision="bf16x3")
    with pytest.raises(TypeError, match=r"g: expected a tensor of x's dtype, got torch.float64"):
        launch(g=case.g.double())
    with pytest.raises(TypeError, match=r"y: expected a tensor of x's dtype, got None"):
        launch(y=None)
    with pytest.raises(ValueError, match=r"x: expected shape .* in channels-last memory"):
        launch(x=case.x.contiguous())
    with pytest.raises(ValueError, match=r"g: expected shape \(4, 7, 2, 2\)"):
        launch(g=case.g[:, :, :1])
    with pytest.raises(TypeError, match=r"gradient_rows: expected float32, got torch.bfloat16"):
        launch(gradient_rows=torch.zeros(1, 3, 7, dtype=torch.bfloat16))
    for rows in (torch.zeros(3, 3, 5), torch.zeros(1, 3, 7), torch.zeros(3, 5)):
        with pytest.raises(ValueError, match=r"rows: expected \(segments that divide 4 images, 3,"):
            launch(rows=rows)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 7, 64, 100, 641, 2**20 + 1, 2**30, 2**31 - 1])
def test_divisions_by_multiplication_are_exact(d: int) -> None:
    multiplier, shift = plan.divider(d)
    assert -(2**31) <= multiplier < 0
    multiplier += 2**32
    edges = [k * d + r for k in (0, 1, 2, (2**31 - 1) // d) for r in (-1, 0, 1)]
    for n in [*edges, *random.Random(d).sample(range(2**31), 1000)]:
        if 0 <= n < 2**31:
            assert (2 * n * multiplier >> 32) >> shift == n // d


def shaped(transposed: bool, n: int, c_in: int, c_out: int, side: int) -> Any:
    """The product of a layer with kernel 4, stride 2, padding 1."""
    x = torch.empty(n, c_in, side, side, device="meta")
    ends = (c_in, c_out) if transposed else (c_out, c_in)
    weight = torch.empty(*ends, 4, 4, device="meta")
    return plan.product(conv_geometry(x, weight, [2, 2], [1, 1], [0, 0], transposed))


def test_slices_cover_the_positions_and_bound_the_workspace() -> None:
    layers = [(128, 64, 128, 32), (128, 256, 512, 8), (4096, 3, 64, 64), (1, 16, 16, 8)]
    for transposed, layer in product((False, True), [*layers, (64, 1024, 2048, 8)]):
        work = shaped(transposed, *layer)
        for config in conv_weight.configs(torch.bfloat16, "ieee"):
            count, length = work.slices(config)
            tiles = work.segments * work.segment_tiles(config)
            assert (count - 1) * length < tiles <= count * length
            columns = work.blocks(config)[1] * config.block_n
            size = 4 * count * work.blocks(config)[0] * config.block_m * columns
            assert count == 1 or size <= 36e6


def test_the_choice_of_tiles() -> None:
    def tile(*layer: Any) -> tuple[int, int]:
        config = plan.configure(shaped(*layer), torch.bfloat16, "ieee", Target())
        return config.block_m, config.block_n

    assert tile(False, 64, 128, 256, 16) == (128, 128)
    assert tile(True, 64, 256, 128, 16) == (128, 128)
    assert tile(False, 64, 128, 3, 16) == (16, 64)
    assert tile(False, 64, 3, 64, 64) == (64, 64)
    assert tile(True, 64, 64, 3, 32) == (64, 64)


def test_segments_are_split_where_positions_pass_32_bits() -> None:
    assert shaped(False, 2**15, 1, 1, 512).segments == 2
    with pytest.raises(ValueError, match="x: expected at most 2147482624 positions an image"):
        shaped(True, 1, 1, 1, 2**16)
    assert not shaped(False, 2**16, 16, 16, 512).wide(SMALL)
    assert shaped(False, 2, 1024, 16, 2048).wide(SMALL)
