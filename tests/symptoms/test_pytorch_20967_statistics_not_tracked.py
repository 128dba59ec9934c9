"""pytorch#20967, #37823: `track_running_stats` is turned off on a layer that has statistics.

The statistics moved all the same, or were not used in evaluation any more.
Right: what torch.nn does today: training leaves them alone, evaluation normalises by them.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ways import Results, Way, assert_right, backward, like


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_statistics_stay_and_serve(way: Way, training: bool) -> None:
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    norm.track_running_stats = False
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3)).train(training)
    images = torch.randn(4, 3, 7, 7)

    def compute(model: nn.Module) -> Results:
        x = like(model, images)
        y = model(x)
        assert model[1].num_batches_tracked == 0
        return backward(model, y.pow(3).sum(), x=x) | {"y": y}

    assert_right(way, model, compute)
