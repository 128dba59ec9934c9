"""Every test runs with poisoned memory, a fixed seed and its own backend setting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastgan.ops import _dispatch, _native


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """`torch.empty` and its like return NaN (the largest integer), so unwritten output is seen."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _setting() -> Iterator[None]:
    with _dispatch.backend("auto"):
        yield


@pytest.fixture
def native() -> None:
    """Skips, with the reason, where the compiled library is not there."""
    reason = _native.load()
    if reason is not None:
        pytest.skip(f"no native library: {reason}")


@pytest.fixture(params=["reference", "cpu"])
def host_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backends that run on CPU tensors, each chosen explicitly."""
    if request.param == "cpu":
        request.getfixturevalue("native")
    with _dispatch.backend(request.param):
        yield request.param
