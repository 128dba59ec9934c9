"""mean_loss against its definition, on every backend."""

from __future__ import annotations

import pytest
from mean_loss_case import CASES, check


@pytest.mark.parametrize(("terms", "dtype", "scale"), CASES)
def test_follows_its_definition(device, terms, dtype, scale):
    check(terms, dtype, scale, device)
