"""Every test runs with poisoned memory, a fixed seed and its own backend setting."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

# Several workers have more threads than there are cores: one that spins holds up those that work.
# Read when torch is imported, also by the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from devices import BACKENDS, ON_GPU
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.ops.core import dispatch
from fastgan.ops.core.native import load

TESTS = Path(__file__).parent
# The files that take longest, longest first.
LONGEST = ["test_interpreter.py", "test_backends.py", "test_zoo.py", "test_gpu_stages.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first: where files run side by side, none is then waited for in the end."""
    items.sort(key=lambda i: LONGEST.index(i.path.name) if i.path.name in LONGEST else len(LONGEST))


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


@pytest.fixture
def own_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of real images are kept where no other test finds them."""
    monkeypatch.setenv("FASTGAN_STATISTICS", str(tmp_path / "statistics"))


@pytest.fixture(autouse=True)
def _setting() -> Iterator[None]:
    with dispatch.backend("auto"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where tensors are small, waiting for a busy core costs more than it gives."""
    threads = torch.get_num_threads()
    if request.path.relative_to(TESTS).parts[0] in ("kernels", "metrics", "models", "recipes"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def native() -> None:
    """Skips, with the reason, where the compiled library is not there."""
    reason = load()
    if reason is not None:
        pytest.skip(f"no native library: {reason}")


@pytest.fixture(params=["reference", "cpu"])
def host_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backends that run on CPU tensors, each chosen explicitly."""
    if request.param == "cpu":
        request.getfixturevalue("native")
    with dispatch.backend(request.param):
        yield request.param


@pytest.fixture(params=["reference", "cpu", *ON_GPU])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of each backend, which is chosen explicitly.

    One of a GPU's that cannot run there is a failure, not a skip.
    """
    if request.param == "cpu":
        request.getfixturevalue("native")
    if (on := BACKENDS[request.param]) == "cuda":
        assert dispatch.available()[request.param] is None
    with dispatch.backend(request.param):
        yield on


class _NoHostSync(TorchDispatchMode):
    """Refuses the operators by which the host waits for a value or a data-dependent shape."""

    # lift_fresh is torch.tensor(...), a copy from the host.
    WAITING = (
        "_local_scalar_dense",
        "_unique",
        "equal",
        "is_nonzero",
        "lift_fresh",
        "masked_select",
        "nonzero",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(self.WAITING), f"{func} would make the host wait"
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{func} with a mask would make the host wait"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_host_sync() -> Callable[[], AbstractContextManager[Any]]:
    """`with no_host_sync():` fails where code would not be capturable as a CUDA graph."""
    return _NoHostSync


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package was installed without its C++ extension."""
    monkeypatch.setattr("fastgan.ops.core.native.load", lambda: "no C++ compiler")
    monkeypatch.setattr(dispatch, "choices", {})
