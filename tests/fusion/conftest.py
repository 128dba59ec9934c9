"""What the tests of fused models share."""

from collections.abc import Iterator

import pytest

from fastgan.ops import convolution_form


@pytest.fixture
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small tensors would run in the layers' own steps: blocks are made to run as such, instead."""
    with convolution_form(getattr(request, "param", "recompute")):
        yield
