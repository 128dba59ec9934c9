"""Plans: every value is in exactly one tile, tails come last, 64-bit extents hold."""

from __future__ import annotations

import pytest
import torch

from fastgan.kernels.core import geometry as _geometry
from fastgan.kernels.core.geometry import TILED, Config, Geometry, configure, geometry, plan


def test_layouts() -> None:
    x = torch.empty(4, 6, 5, 5)
    assert geometry(x) == Geometry(False, 1, 6, 4, 25)
    assert geometry(x.to(memory_format=torch.channels_last), 2) == Geometry(True, 2, 6, 1, 50)
    assert geometry(torch.empty(4, 6)) == Geometry(True, 1, 6, 1, 4)
    assert geometry(torch.empty(4, 1, 5)) == Geometry(False, 1, 1, 1, 20)


@pytest.mark.parametrize(
    ("channels", "rows", "fold"), [(3, 64, 16), (24, 64, 2), (24, 63, 1), (64, 64, 1), (1, 16, 16)]
)
def test_rows_are_folded_to_a_multiple_of_16(channels: int, rows: int, fold: int) -> None:
    folded = Geometry(True, 2, channels, 1, rows).folded()
    assert (folded.fold, folded.count, folded.channels) == (fold, rows, channels)
    assert fold == 1 or folded.vec == 16


@pytest.mark.parametrize("chunked", ["whole", "reduce", "apply"])
@pytest.mark.parametrize("config", [Config(64, 8, 1), Config(64, 8, 1, single=True), TILED[2]])
def test_chunks_cover_all_tiles(config: Config, chunked: str) -> None:
    for geo in (
        Geometry(True, 2, 5, 1, 77),
        Geometry(False, 3, 5, 12, 10),
        Geometry(False, 1, 200, 7, 3),
        Geometry(True, 1, 64, 1, 65536),
        Geometry(True, 1, 64, 1, 2**28),
    ):
        p = plan(geo, config, chunked)
        assert p.block_p * p.block_l * p.block_w <= config.tile
        assert geo.planes % p.block_p == 0
        assert p.tiles * p.block_l * p.block_p >= geo.planes * geo.length
        assert (p.chunks - 1) * p.tiles_per_chunk < p.tiles <= p.chunks * p.tiles_per_chunk
        assert p.grid[0] == geo.segments * p.chunks * p.column_blocks < 2**31


def test_offsets_inside_a_tile_are_32_bits_until_they_do_not_fit() -> None:
    large = plan(Geometry(True, 1, 64, 1, 2**34), TILED[2], "apply")
    assert not large.arguments["WIDE"], "a large tensor has small tiles"
    assert plan(Geometry(True, 1, 2**27, 1, 64), TILED[2], "apply").arguments["WIDE"]
    assert not plan(Geometry(False, 1, 2**20, 8, 2**8), TILED[2], "apply").arguments["WIDE"]
    assert plan(Geometry(False, 1, 2**26, 64, 64), Config(64, 8, 1), "apply").span < 2**31


def test_small_shapes_take_one_launch_and_large_ones_do_not() -> None:
    layer = Geometry(True, 1, 512, 1, 1024)
    assert configure(layer, 2, "forward") == Config(16384, 16, 16, single=True)
    assert configure(layer, 2, "backward") == Config(8192, 8, 8, single=True)
    assert configure(Geometry(True, 64, 64, 1, 4096), 2, "forward").single
    assert not configure(Geometry(True, 1, 64, 1, 65536), 2, "forward").single
    assert not configure(Geometry(False, 1, 64, 64, 1024), 2, "forward").single
    # what a program would have to loop over alone in one launch, many programs share
    assert configure(Geometry(False, 64, 64, 1, 16384), 2, "forward").single
    assert not configure(Geometry(False, 1, 64, 1, 65536), 2, "forward").single


@pytest.mark.parametrize("dtype", _geometry.DTYPES, ids=str)
def test_shipped_configurations_are_those_that_configure_gives(dtype: torch.dtype) -> None:
    shipped = set(_geometry.shipped_configs(dtype))
    given = {
        configure(Geometry(layout, segments, 64, planes, length), dtype.itemsize, direction)
        for layout in (True, False)
        for planes in ((1,) if layout else (1, 64))
        for length in (4, 16, 64, 256, 1024, 2048, 4096, 65536)
        for segments in (1, 64)
        for direction in ("forward", "backward")
    }
    assert given == shipped
