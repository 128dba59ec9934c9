"""norm_act in Triton's interpreter against float64, every output poisoned with NaN beforehand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from kernel_case import Case, assert_close

from fastgan.kernels import norm_act
from fastgan.kernels.core import geometry as _geometry
from fastgan.kernels.core.geometry import Config

TILED = Config(128, 8, 1)
RESIDENT = Config(512, 8, 1, single=True)
LOOPED = Config(128, 8, 1, stages=2, single=True)
CONFIGS = (TILED, RESIDENT, LOOPED)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("config", CONFIGS, ids=["tiled", "resident", "looped"])
@pytest.mark.parametrize("activation", [0, 1, 2], ids=["leaky_relu", "tanh", "sigmoid"])
def test_everything_that_is_a_constant_in_the_kernel(
    channels_last: bool, config: Config, activation: int
) -> None:
    """Every pair of two of the constants."""
    odd = (channels_last + CONFIGS.index(config) + activation) % 2
    for act_first, training in ((False, bool(odd)), (True, not odd)):
        Case(
            (4, 5, 3, 7),
            channels_last=channels_last,
            activation=activation,
            act_first=act_first,
            training=training,
            segments=2,
        ).check(norm_act, config)


SHAPES = [
    (2, 3),  # no spatial extent
    (33, 7),
    (2, 1, 9),  # one channel
    (16, 1, 4, 4),
    (5, 2, 1),  # spatial extent 1
    (6, 12, 5),  # 1-D
    (16, 3, 4, 4),  # 16 rows of 3 channels make a row of 48
    (3, 24, 3, 3),  # folded by 2, were the rows even
    (4, 24, 3, 3),
    (8, 9, 2, 2),  # planes share a tile
    (7, 9, 2, 2),  # an odd number of planes does not
    (1, 6, 11, 13),
    (2, 5, 3, 4, 5),  # 3-D
    (1, 130, 2, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    """In every configuration, the layouts in turn."""
    for turn, config in enumerate((*CONFIGS, None), start=SHAPES.index(shape)):
        channels_last = turn % 2 == 0
        Case(shape, channels_last=channels_last).check(norm_act, config)
        if config in (TILED, None):  # evaluation knows no other path
            Case(shape, channels_last=channels_last, training=False).check(norm_act, config)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_configuration(dtype: torch.dtype) -> None:
    """Once for each tile it comes to: warps and stages mean nothing to the interpreter."""
    candidates = norm_act.configs(dtype)
    assert set(norm_act.shipped_configs(dtype)) <= set(candidates)
    tried = set()
    if dtype == torch.float16:
        candidates = []  # the tiles of bfloat16
    for config in (*norm_act.shipped_configs(dtype), *candidates):
        for channels_last in (True, False):
            c = Case((4, 36, 5, 7), dtype, channels_last, segments=2)
            p = _geometry.plan(_geometry.geometry(c.x, 2), config, "whole")
            tile = (channels_last, config.single, p.block_p, p.block_l, p.block_w)
            if tile not in tried:
                tried.add(tile)
                c.check(norm_act, config)
    assert len(tried) >= (10 if candidates else 5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "contiguous"])
def test_instance_norm_is_a_segment_an_image(dtype: torch.dtype, channels_last: bool) -> None:
    # 9 segments: more than one merging program takes, so the parameters have a launch of their own
    for turn, config in enumerate(CONFIGS, start=DTYPES.index(dtype)):
        if turn % 2 == channels_last:
            Case((9, 6, 3, 5), dtype, channels_last, segments=9).check(norm_act, config)


@pytest.mark.parametrize("config", CONFIGS, ids=["tiled", "resident", "looped"])
def test_64_bit_offsets_inside_a_tile(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_geometry, "INDEX_LIMIT", 1)
    for cached in (_geometry.plan, norm_act.planned):
        cached.cache_clear()
    for channels_last in (True, False):
        Case((4, 5, 3, 7), channels_last=channels_last, segments=2).check(norm_act, config)
    for cached in (_geometry.plan, norm_act.planned):
        cached.cache_clear()


@pytest.mark.parametrize("config", CONFIGS, ids=["tiled", "resident", "looped"])
def test_large_mean_small_spread(config: Config) -> None:
    """|mean| / std of 1e4: the variance keeps its digits (E[x^2] - E[x]^2 would keep none)."""
    for channels_last in (True, False):
        got = Case((8, 5, 6, 6), channels_last=channels_last, scale=1e-2, shift=100.0).check(
            norm_act, config
        )
        assert (got["var"] > 0.5e-4).all()


def test_a_constant_channel_has_variance_zero() -> None:
    for config in CONFIGS:
        c = Case((4, 3, 5, 5), scale=0.0, shift=0.1)
        _, mean, var = norm_act.norm_act_train(c.x, None, None, *c.code, config=config)
        assert (var == 0).all()
        assert (mean == c.x[0, 0, 0, 0]).all()


def test_no_affine_parameters_and_one_of_two() -> None:
    for config, training in product((TILED, RESIDENT), (True, False)):
        Case((4, 5, 3, 3), affine=False, training=training).check(norm_act, config)
    c = Case((4, 5, 3, 3))
    ones, zeros = torch.ones(5), torch.zeros(5)
    for config in (TILED, RESIDENT):
        for given, full in (
            ((c.weight, None), (c.weight, zeros)),
            ((None, c.bias), (ones, c.bias)),
        ):
            got = norm_act.norm_act_train(c.x, *given, *c.code, config=config)
            want = norm_act.norm_act_train(c.x, *full, *c.code, config=config)
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_spoils_its_channel_and_segment_only(bad: float) -> None:
    for channels_last, config in product((True, False), CONFIGS):
        c = Case((4, 3, 4, 4), channels_last=channels_last, segments=2)
        got = c.check_spoiled(norm_act, bad, config)
        assert got["var"].isfinite().tolist() == [[True] * 3, [True, False, True]]
        assert got["dweight"].isfinite().tolist() == [True, False, True]


def test_a_bad_value_in_eval_stays_where_it_is() -> None:
    c = Case((4, 3, 4, 4), training=False, segments=2)
    c.x[3, 1, 2, 2] = float("nan")
    got = c.launch(norm_act, TILED)
    for name in ("z", "dx"):
        want = c.compose(torch.float32, torch.float32)[name].isnan()
        assert torch.equal(got[name].isnan(), want), name


@pytest.mark.parametrize("training", [True, False])
def test_only_what_is_asked_for(training: bool) -> None:
    for segments, config in product((1, 2), CONFIGS):
        c = Case((4, 5, 3, 3), training=training, segments=segments)
        mean, var = c.mean, c.var
        if training:
            _, mean, var = norm_act.norm_act_train(c.x, *c.parameters, *c.code, config=config)
        fixed = (c.dz, c.x, mean, var, *c.parameters, *c.code, training)
        full = norm_act.norm_act_backward(*fixed, True, True, config=config)
        only_dx = norm_act.norm_act_backward(*fixed, True, False, config=config)
        only_dparams = norm_act.norm_act_backward(*fixed, False, True, config=config)
        nothing = norm_act.norm_act_backward(*fixed, False, False, config=config)
        assert torch.equal(only_dx[0], full[0])
        assert [t.numel() for t in only_dx[1:]] == [0, 0]
        assert only_dparams[0].numel() == 0
        # one launch and three add up in another order
        torch.testing.assert_close(only_dparams[1:], full[1:])
        assert [t.numel() for t in nothing] == [0, 0, 0]
        pointers = {t.untyped_storage().data_ptr() for t in full}
        assert len(pointers) == 3, "outputs must not share memory"


def test_one_row_of_statistics_serves_all_segments() -> None:
    c = Case((4, 5, 3, 3), training=False, segments=2)
    row = c.mean[:1], c.var[:1]
    rows = tuple(t.expand(2, 5).contiguous() for t in row)
    for config in (TILED, RESIDENT):
        a = norm_act.norm_act_eval(c.x, *row, *c.parameters, *c.code, config=config)
        b = norm_act.norm_act_eval(c.x, *rows, *c.parameters, *c.code, config=config)
        assert torch.equal(a, b)


@pytest.mark.parametrize("average", [False, True])
def test_running_statistics(average: bool) -> None:
    """As F.batch_norm called on each slice in turn, or as F.instance_norm."""
    c = Case((6, 150, 3, 3), segments=3)
    count = 2 * 9 if not average else 9
    if average:
        c = Case((6, 150, 3, 3), segments=6)
    _, mean, var = norm_act.norm_act_train(c.x, *c.parameters, *c.code)
    results = []
    for dtype in (torch.float32, torch.float64):
        running = torch.zeros(150, dtype=dtype), torch.ones(150, dtype=dtype)
        if average:
            torch.nn.functional.instance_norm(c.x.to(dtype), *running, momentum=0.3)
        else:
            for part in c.x.to(dtype).chunk(3):
                torch.nn.functional.batch_norm(part, *running, training=True, momentum=0.3)
        results.append(running)
    got = torch.zeros(150), torch.ones(150)
    norm_act.update_running_stats_(*got, mean, var, 0.3, count, average)
    for name, value, own, truth in zip(("mean", "var"), got, *results, strict=True):
        assert_close(name, value, truth, own)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    code = (1e-5, 0, 0.2, 1, False)
    z, mean, var = norm_act.norm_act_train(x, None, None, *code)
    assert z.shape == x.shape
    assert mean.shape == var.shape == (1, shape[1])
    assert not mean.any()
    assert norm_act.norm_act_eval(x, mean, var, None, None, *code).shape == x.shape
    backward = norm_act.norm_act_backward(x, x, mean, var, None, None, *code, True, True, True)
    assert [t.shape for t in backward] == [x.shape, (shape[1],), (shape[1],)]
    assert not backward[1].any()
    assert not backward[2].any()


def test_errors() -> None:
    c = Case((4, 3, 4, 4))
    none = (None, None)
    with pytest.raises(TypeError, match=r"x: expected float32, bfloat16 or float16.*float64"):
        norm_act.norm_act_train(c.x.double(), *none, *c.code)
    with pytest.raises(ValueError, match=r"x: expected \(N, C, \*spatial\), got shape \(3,\)"):
        norm_act.norm_act_train(torch.ones(3), *none, *c.code)
    with pytest.raises(ValueError, match=r"x: expected contiguous or channels-last memory"):
        norm_act.norm_act_train(c.x.transpose(2, 3)[:, :, ::2], *none, *c.code)
    with pytest.raises(ValueError, match=r"segments: 3 does not divide the batch"):
        norm_act.norm_act_train(c.x, *none, 1e-5, 0, 0.2, 3, False)
    with pytest.raises(ValueError, match=r"mean: expected \(2, 3\) or \(3,\), got \(1, 4\)"):
        norm_act.norm_act_eval(
            c.x, torch.zeros(1, 4), torch.ones(1, 4), *none, 1e-5, 0, 0.2, 2, False
        )
    with pytest.raises(ValueError, match=r"dz: expected x's shape \(4, 3, 4, 4\) and strides"):
        norm_act.norm_act_backward(
            c.dz.contiguous(), c.x, c.mean, c.var, *none, *c.code, True, True, True
        )
    with pytest.raises(ValueError, match="count: expected at least 2 values per channel, got 1"):
        norm_act.update_running_stats_(*c.mean, *c.var, c.mean, c.var, 0.1, 1, False)
