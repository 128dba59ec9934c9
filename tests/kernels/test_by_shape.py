"""What launchers keep by shapes has a most, however many shapes a training has."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import fastgan
from fastgan.kernels.core import geometry
from fastgan.kernels.core.by_shape import MAX_SHAPES
from fastgan.kernels.norm_act import planned

KERNELS = Path(fastgan.__file__).parent / "kernels"
OF_SHAPES = ("fastgan.ops.conv.tma", "fastgan.ops.norm_act_conv.fused")


def caches() -> Iterator[tuple[str, Any]]:
    """The caches of functions and methods in kernels/ and of what plans for them."""
    paths = [p.relative_to(KERNELS.parent).with_suffix("") for p in KERNELS.rglob("*.py")]
    names = [".".join(("fastgan", *p.parts)).removesuffix(".__init__") for p in paths]
    for name in (*names, *OF_SHAPES):
        module = importlib.import_module(name)
        classes = [c for c in vars(module).values() if inspect.isclass(c)]
        for holder in (module, *classes):
            for function in vars(holder).values():
                own = getattr(function, "__module__", None) == name
                if own and hasattr(function, "cache_parameters"):
                    yield f"{name}.{function.__qualname__}", function


def test_every_cache_has_a_most_unless_it_is_of_devices() -> None:
    found = dict(caches())
    assert len(found) > 12
    for name, function in found.items():
        of_devices = set(inspect.signature(function).parameters) <= {"device"}
        assert of_devices or function.cache_parameters()["maxsize"] == MAX_SHAPES, name


def test_changing_sizes_do_not_pile_up() -> None:
    config = geometry.TILED[4]
    for n in range(1, MAX_SHAPES + 100):
        planned("tiled", (n, 2), (2, 1), torch.float32, torch.device("cpu"), 1, 0, False, None)
        geo = geometry.Geometry(True, 1, 2, 1, n)
        geometry.plan(geo, config, "whole")
        geo.folded()
    for cache in (planned, geometry.plan, geometry.Geometry.folded):
        assert cache.cache_info().currsize == MAX_SHAPES
