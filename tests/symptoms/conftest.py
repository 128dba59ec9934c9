"""What the tests of symptoms share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ways import WAYS, Way

from fastgan.ops import backend, convolution_form

# Small tensors would run as the layers that stand there, hence the forms that are asked for.
SETTINGS = {
    "auto": ("auto", "auto"),
    "cpu": ("cpu", "recompute"),
    "reference": ("reference", "recompute"),
    "in one kernel": ("reference", "fused"),
}
OF_ANY_MODULE = [
    ("fuse for speed", "auto"),
    ("fuse for speed", "cpu"),
    ("fuse for memory", "reference"),
    ("fuse for memory", "in one kernel"),
]
OF_SEQUENTIAL = [
    ("FusedSequential", "auto"),
    ("FusedSequential", "cpu"),
    ("FusedSequential for speed", "reference"),
    ("FusedSequential", "in one kernel"),
]


@contextmanager
def set_up(request: pytest.FixtureRequest, setting: str) -> Iterator[None]:
    name, form = SETTINGS[setting]
    if name == "cpu":
        request.getfixturevalue("native")
    with backend(name), convolution_form(form):
        yield


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backends and forms of blocks that run on CPU tensors; "auto" is what a user gets."""
    with set_up(request, request.param):
        yield request.param


@pytest.fixture(params=OF_ANY_MODULE + OF_SEQUENTIAL, ids=", ".join)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """What makes fastgan's model of an `nn.Sequential`, in all settings."""
    name, setting = request.param
    with set_up(request, setting):
        yield WAYS[name]


@pytest.fixture(params=OF_ANY_MODULE, ids=", ".join)
def fuse(request: pytest.FixtureRequest) -> Iterator[Way]:
    """What makes fastgan's model of any module, in all settings."""
    name, setting = request.param
    with set_up(request, setting):
        yield WAYS[name]
