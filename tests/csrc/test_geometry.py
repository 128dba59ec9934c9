"""Index arithmetic of the CUDA kernels: every element once, as the right channel."""

from __future__ import annotations

import ctypes
import math
import random
import struct
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Of batch, channels, positions and segments: odd sizes, ones, many short and few long columns.
SHAPES = [
    (1, 1, 1, 1),
    (2, 8, 1, 1),
    (5, 3, 7, 1),
    (4, 7, 9, 2),
    (6, 24, 5, 3),
    (3, 96, 16, 1),
    (8, 16, 24, 8),
    (64, 8, 40, 2),
    (2, 264, 8, 1),
    (16, 4, 200, 4),
]


def cover(emulator: Any, p: Any, single_pass: bool, tensors: int = 1) -> int:
    """Checks the tiles of p and returns the chunks of a column (0: does not fit)."""
    visits = torch.zeros(math.prod(p.shape), dtype=torch.int32)
    stat = torch.full((math.prod(p.shape),), -1, dtype=torch.int64)
    chunks: int = emulator.library.emulate_cover(
        ctypes.byref(p.struct()), int(single_pass), tensors,
        ctypes.c_void_p(visits.data_ptr()), ctypes.c_void_p(stat.data_ptr()),
    )  # fmt: skip
    if chunks == 0:
        assert not visits.any()
        return 0
    n, c, s = p.shape
    segment = torch.arange(n) // (n // p.segments)
    expected = segment[:, None, None] * p.channels + torch.arange(c)[None, :, None]
    expected = expected.expand(n, c, s)
    if p.channels_last:
        expected = expected.transpose(1, 2)
    assert (visits == 1).all()
    assert torch.equal(stat, expected.reshape(-1))
    return chunks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_is_visited_once(emulator, problem, shape, channels_last, dtype):
    n, c, s, segments = shape
    for sms in (1, 5, 132):
        p = problem(n, c, s, dtype, channels_last, segments, sms=sms)
        assert cover(emulator, p, single_pass=False) >= 1
        for cluster in (1, 8):
            cover(emulator, p.single_pass(99, cluster), single_pass=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    runs=st.integers(1, 6),
    segments=st.integers(1, 6),
    channels=st.integers(1, 70),
    spatial=st.integers(1, 70),
    channels_last=st.booleans(),
    half=st.booleans(),
    sms=st.integers(1, 200),
    tight=st.integers(24, 64),
)
def test_every_element_is_visited_once_anywhere(
    emulator, problem, runs, segments, channels, spatial, channels_last, half, sms, tight
):
    dtype = torch.float16 if half else torch.float32
    p = problem(runs * segments, channels, spatial, dtype, channels_last, segments, sms=sms)
    cover(emulator, p, single_pass=False)
    cover(emulator, p.single_pass(tight, 8), single_pass=True, tensors=2)


def test_clusters_grow_with_the_tensor(emulator, problem):
    found = []
    for rows in (256, 4096, 16384, 65536):
        p = problem(1, 32, rows, torch.bfloat16, sms=132).single_pass(99, 8)
        found.append(cover(emulator, p, single_pass=True))
    # 16, 256 and 1024 KiB in tiles of 64 or 32 bytes a row; 32 bytes of 65536 rows are 2 MiB, more
    # than eight blocks' shared memory.
    assert found == [1, 4, 8, 0]


def test_few_columns_take_clusters_of_sixteen(emulator, problem):
    """Half of 132 SMs for tiles that leave three quarters idle, not for more of them."""
    found = []
    for channels in (64, 96, 128):
        p = problem(32, channels, 1024, torch.bfloat16, sms=132).single_pass(227, 16)
        found.append(cover(emulator, p, single_pass=True))
    assert found == [16, 16, 8]


def test_without_clusters_only_what_one_block_holds_fits(emulator, problem):
    fits = problem(1, 32, 4096, torch.bfloat16).single_pass(163, 1)
    assert cover(emulator, fits, single_pass=True) == 1
    assert cover(emulator, replace(fits, spatial=8192), single_pass=True) == 0
    assert cover(emulator, replace(fits, spatial=8192, max_cluster=8), single_pass=True) >= 2


@pytest.mark.parametrize("channels_last", [True, False])
def test_chunk_counts_add_up(emulator, problem, channels_last):
    for shape in SHAPES:
        n, c, s, segments = shape
        p = problem(n, c, s, torch.float32, channels_last, segments, sms=7)
        counts = torch.zeros(4096)
        emulator.library.emulate_chunk_counts(
            ctypes.byref(p.struct()), ctypes.c_longlong(4096), ctypes.c_void_p(counts.data_ptr())
        )
        assert counts.sum().item() == n // segments * s


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("channels", "spatial"),
    [(40, 1 << 20), (40, (1 << 20) + 1), (40, 1 << 33), (40, (1 << 33) + 5), (1 << 34, 3)],
)
def test_offsets_beyond_32_bits(emulator, problem, channels_last, channels, spatial):
    p = problem(6, channels, spatial, torch.bfloat16, channels_last, segments=2)
    rng = random.Random(0)
    for _ in range(200):
        segment, channel = rng.randrange(2), rng.randrange(channels)
        run, position = rng.randrange(3), rng.randrange(spatial)
        sample = segment * 3 + run
        if channels_last:
            expected = (sample * spatial + position) * channels + channel
        else:
            expected = (sample * channels + channel) * spatial + position
        found = emulator.library.emulate_offset(
            ctypes.byref(p.struct()),
            *(ctypes.c_longlong(v) for v in (segment, channel, run, position)),
        )
        assert found == expected


@settings(max_examples=400, deadline=None)
@given(n=st.integers(0, 2**31 - 1), divisor=st.integers(1, 2**31 - 1))
def test_division_by_multiplication_is_exact(emulator, n, divisor):
    for value in (n, n // divisor * divisor, max(n // divisor * divisor - 1, 0), 2**31 - 1):
        assert emulator.library.emulate_fast_div(value, divisor) == value // divisor


@pytest.mark.parametrize(("code", "dtype"), [(1, torch.bfloat16), (2, torch.float16)])
def test_half_types_convert_as_torch(emulator, code, dtype):
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    expected = bits.view(dtype).float()
    found = torch.tensor([emulator.library.emulate_to_float(code, b) for b in range(65536)])
    assert torch.equal(torch.isnan(found), torch.isnan(expected))
    known = ~torch.isnan(expected)
    assert torch.equal(found[known], expected[known])
    assert torch.equal(torch.signbit(found[known]), torch.signbit(expected[known]))

    # Every half, the midpoints between neighbours and their neighbouring floats, and random bits.
    rng = random.Random(1)
    floats = expected[known & torch.isfinite(expected)].double()
    ordered = floats.sort().values
    middle = ((ordered[1:] + ordered[:-1]) / 2).float()
    infinity = torch.tensor(math.inf)
    values = torch.cat(
        [middle, middle.nextafter(infinity), middle.nextafter(-infinity),
         torch.tensor([math.inf, -math.inf, 65519.99, 65520.0, -65520.0, 3.4e38, 1e-45, -0.0]),
         torch.tensor([struct.unpack("f", struct.pack("I", rng.getrandbits(32)))[0]
                       for _ in range(20000)])]
    )  # fmt: skip
    found_bits = torch.tensor(
        [emulator.library.emulate_from_float(code, v) for v in values.tolist()], dtype=torch.int32
    ).to(torch.uint16)
    wanted = values.to(dtype)
    nan = torch.isnan(wanted)
    assert torch.equal(torch.isnan(found_bits.view(dtype)), nan)
    assert torch.equal(found_bits[~nan], wanted.view(torch.uint16)[~nan])
