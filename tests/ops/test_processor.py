"""Which precision and products are taken to be fast, by vendor and instructions."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest
import torch

from fastgan.ops.conv.problem import arithmetic
from fastgan.ops.core import processor

CASES = [
    # vendor, instructions, (bfloat16, float16, matrix products)
    ("AuthenticAMD", ("_is_avx512_bf16_supported",), (True, False, False)),
    ("AuthenticAMD", (), (False, False, False)),
    ("GenuineIntel", ("_is_avx512_bf16_supported",), (False, False, True)),
    ("GenuineIntel", ("_is_avx512_bf16_supported", "_is_amx_tile_supported"), (True, False, True)),
    ("GenuineIntel", ("_is_amx_tile_supported", "_is_amx_fp16_supported"), (True, True, True)),
]


@pytest.fixture
def fresh() -> Iterator[None]:
    asked = (
        processor.fast_in, processor.fast_products, processor.dot_products, processor.matrix_unit,
    )  # fmt: skip
    for function in asked:
        function.cache_clear()
    yield
    for function in asked:
        function.cache_clear()


@pytest.mark.parametrize(("vendor", "instructions", "fast"), CASES, ids=str)
def test_by_vendor_and_instructions(
    fresh: None,
    vendor: str,
    instructions: tuple[str, ...],
    fast: tuple[bool, bool, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "vendor", lambda: vendor)
    monkeypatch.setattr(processor, "_has", lambda name: name in instructions)
    of_dtypes = processor.fast_in(torch.bfloat16), processor.fast_in(torch.float16)
    assert (*of_dtypes, processor.fast_products()) == fast
    assert processor.matrix_unit() is ("_is_amx_tile_supported" in instructions)
    assert processor.dot_products() is (fast[0] and vendor == "AuthenticAMD")
    for dtype, known in zip((torch.bfloat16, torch.float16), fast, strict=False):
        assert arithmetic(dtype, "cpu") is (dtype if known else torch.float32)


def test_other_architectures_are_left_to_pytorch(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor.fast_in(torch.bfloat16)
    assert processor.fast_in(torch.float16)


def test_the_vendor_is_a_name() -> None:
    assert isinstance(processor.vendor(), str)
