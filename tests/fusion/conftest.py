"""Puts the tolerance rule and this folder's models where its tests import them from."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgan.ops import convolution_form

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "ops"), str(HERE)]


@pytest.fixture
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small tensors would run in the layers' own steps: blocks are made to run as such, instead."""
    with convolution_form(getattr(request, "param", "composed")):
        yield
