"""What the convolutions' launchers decide on the host: geometries, configurations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dcgan64 import geometry

from fastgan.kernels.conv_block import geometry as geometry_module
from fastgan.kernels.conv_block import weight_plan
from fastgan.kernels.conv_block.geometry import (
    ConvGeometry,
    Target,
    configs,
    configure,
    conv_geometry,
)
from fastgan.kernels.core.precision import precision

TARGETS = [Target(), Target(101376, 255), Target(65536)]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (4, 1), (5, 2), (2, 0)])
def test_multiply_adds_are_those_counted_one_by_one(kernel: int, padding: int, stride: int) -> None:
    x = torch.empty(3, 2, 7, device="meta")
    forward = conv_geometry(
        x, torch.empty(5, 2, kernel), [stride], [padding], [0], transposed=False
    )
    assert forward.multiply_adds == 3 * forward.size_out[2] * kernel * 2 * 5
    # The reverse gathers: an output and a tap meet where an input would lie, in the tensor or not.
    met = sum((o + padding - tap) % stride == 0 for o in range(7) for tap in range(kernel))
    assert forward.reversed().multiply_adds == 3 * met * 2 * 5
    assert forward.reversed().reversed() == forward


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee")],
    ids=str,
)
def test_configurations_fit_and_are_all_reachable(
    dtype: torch.dtype, kind: str, target: Target
) -> None:
    for tensors in (1, 2):
        narrow = configs(dtype, kind, tensors, target, narrow=True)
        available = configs(dtype, kind, tensors, target) + narrow
        assert all(c.shared(dtype.itemsize, tensors) <= target.shared for c in available)
        shapes = product((1, 8, 40, 512), (3, 64, 512), (4, 16, 64), (16, 64, 512))
        chosen = {configure(geometry(*shape), dtype, kind, tensors, 1, target) for shape in shapes}
        assert chosen == set(available)


def test_an_old_compiler_gets_tiles_that_leave_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Triton 3.6 and 3.10; which tiles spill is read off the kernel report."""
    triton = pytest.importorskip("triton")
    for version, old in (("3.6.0", True), ("3.7.1", False), ("3.10.0+git1", False)):
        monkeypatch.setattr(triton, "__version__", version)
        assert geometry_module.old_compiler.__wrapped__() is old
    half = torch.bfloat16, "ieee"
    new, new_weight = configs(*half, 2), weight_plan.configs(*half)
    for module in (geometry_module, weight_plan):
        monkeypatch.setattr(module, "old_compiler", lambda: True)
    assert configs(*half, 2) == new[1:]
    assert configs(*half, 1)[0].block_m * configs(*half, 1)[0].block_n == 128 * 128
    assert weight_plan.configs(*half) == [replace(config, warps=8) for config in new_weight]
    assert {config.warps for config in new_weight} == {4, 8}


def test_the_tile_follows_the_shape() -> None:
    def tile(geo: ConvGeometry, segments: int = 1) -> tuple[int, int]:
        config = configure(geo, torch.bfloat16, "ieee", 1, segments, Target())
        return config.block_m, config.block_n

    assert tile(geometry(512, 128, 16, 256)) == (128, 128)
    assert tile(geometry(512, 128, 16, 64)) == (128, 64)
    assert tile(geometry(512, 32, 32, 16)) == (128, 32)
    assert tile(geometry(512, 128, 16, 255)) == tile(geometry(512, 3, 64, 64)) == (64, 32)
    assert tile(geometry(512, 256, 8, 512), segments=512) == (64, 128)
    assert tile(geometry(48, 256, 16, 512)) == (64, 128)
    assert tile(geometry(16, 256, 8, 512)) == (64, 64)
    assert geometry(1, 3, 1, 3, True).positions == 1


def test_offsets_in_a_tile_of_large_images_take_64_bits() -> None:
    config = configs(torch.bfloat16, "ieee")[0]
    assert not geometry(64, 64, 64, 64).wide(config)
    assert geometry(64, 64, 4096, 64).wide(config)
    # Small images, but many of them in a tile.
    x, weight = torch.empty(8, 2**22, 4, device="meta"), torch.empty(1, 2**22, 4, device="meta")
    assert conv_geometry(x, weight, [1], [0], [0], False).wide(config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.empty(2, 3, 8, 8, dtype=torch.float64)}, TypeError, "x: expected float32"),
        ({"x": torch.empty(2, 3)}, ValueError, "x: expected .* 1 to 3 dimensions"),
        ({"x": torch.empty(2, 5, 8, 8)}, ValueError, "weight: shape"),
        ({"weight": torch.empty(4, 3, 4)}, ValueError, "weight: shape"),
        ({"weight": torch.empty(0, 3, 4, 4)}, ValueError, "weight: shape"),
        ({"transposed": True}, ValueError, "weight: shape .* transposed"),
        ({"stride": [2]}, ValueError, "stride: expected 2 values"),
        ({"padding": [1, 1, 1]}, ValueError, "padding: expected 2 values"),
        ({"stride": [0, 1]}, ValueError, "expected positive strides"),
        ({"padding": [-1, 1]}, ValueError, "nothing negative"),
        ({"x": torch.empty(2, 3, 1, 8)}, ValueError, "leaves an output of"),
    ],
)
def test_shapes_that_do_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "x": torch.empty(2, 3, 8, 8),
        "weight": torch.empty(4, 3, 4, 4),
        "stride": [2, 2],
        "padding": [1, 1],
        "output_padding": [0, 0],
        "transposed": False,
    }
    with pytest.raises(error, match=message):
        conv_geometry(**arguments | changes)


@pytest.fixture
def torch_precision() -> Iterator[None]:
    """Gives every setting of float32's precision back: they belong to the process."""
    backends = torch.backends
    legacy, cudnn = backends.cudnn.allow_tf32, backends.cudnn.fp32_precision
    general, conv = backends.fp32_precision, backends.cudnn.conv.fp32_precision
    yield
    backends.cudnn.allow_tf32 = legacy
    backends.fp32_precision, backends.cudnn.fp32_precision = general, cudnn
    backends.cudnn.conv.fp32_precision = conv


def on(device: str, dtype: torch.dtype = torch.float32) -> Any:
    """What precision() reads of a tensor: no device is needed."""
    return SimpleNamespace(dtype=dtype, device=torch.device(device))


def test_tf32_follows_the_settings_of_pytorch(
    torch_precision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The legacy flag and the newer settings: the narrowest that is not "none" holds."""
    monkeypatch.setattr(torch.version, "hip", None)
    backends, x = torch.backends, on("cuda")
    for allowed in (False, True):
        backends.cudnn.allow_tf32 = allowed
        assert precision(x) == ("tf32" if allowed else "ieee")
    backends.cudnn.conv.fp32_precision = "ieee"
    assert precision(x) == "ieee"
    backends.cudnn.conv.fp32_precision = "tf32"
    backends.cudnn.fp32_precision = "ieee"
    assert precision(x) == "tf32"
    backends.cudnn.conv.fp32_precision = "none"
    assert precision(x) == "ieee"
    backends.cudnn.fp32_precision = "none"
    assert precision(x) == "ieee"  # nobody asked for less than float32
    backends.fp32_precision = "tf32"
    assert precision(x) == "tf32"
    backends.fp32_precision = "ieee"
    assert precision(x) == "ieee"


def test_ieee_where_there_is_no_tf32(
    torch_precision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert precision(on("cuda")) == "tf32"
    assert precision(on("cpu")) == "ieee"
    assert all(precision(on("cuda", dtype)) == "ieee" for dtype in (torch.bfloat16, torch.float16))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert precision(on("cuda")) == "ieee"
