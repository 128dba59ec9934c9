"""The option that tests/ and bench/ share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark", action="store_true", help="run the benchmarks (pytest --benchmark bench)"
    )
