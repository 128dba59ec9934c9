"""Inception Score of logits so far apart that probabilities are zero in float64.

0 log 0 became 0 times infinity, and the score NaN, where a split lacks a class.
Right: such a class adds nothing: the score of k classes, each certain and as frequent, is k.
"""

from __future__ import annotations

import pytest
import torch

from fastgan.metrics.distribution import inception_score

pytest.importorskip("torchmetrics", reason="the score is torchmetrics'")


@pytest.mark.parametrize("certainty", [100.0, 1e4, 1e30])
def test_certain_classes(certainty: float) -> None:
    logits = certainty * torch.eye(10)[torch.arange(40) % 4]
    assert inception_score(logits, splits=1)[0] == pytest.approx(4.0)
    assert 1 <= inception_score(logits, splits=10)[0] <= 4
