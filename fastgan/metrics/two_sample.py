"""Are two sets of items of one kind? By distances in one dimension, and by a classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def wasserstein(first: Tensor, second: Tensor) -> float:
    """The 1-Wasserstein distance of two samples of numbers [N] and [M], in their unit.

    The area between the two distribution functions. ValueError for no numbers, or others than
    finite ones.
    """
    for name, values in (("first", first), ("second", second)):
        if values.dim() != 1 or not len(values) or not values.isfinite().all():
            raise ValueError(f"{name} must be finite numbers [N], got {list(values.shape)}")
    first, second = first.double().sort().values, second.double().sort().values
    both = torch.cat([first, second]).sort().values
    below = [torch.searchsorted(v, both[:-1], right=True) / len(v) for v in (first, second)]
    return float(((below[0] - below[1]).abs() * both.diff()).sum())


def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    """The area under the ROC curve of `scores` [N] for bool [N]: the probability that a positive
    scores above a negative, ties counted half."""
    negatives = scores[~positive].sort().values
    above = torch.searchsorted(negatives, scores[positive].contiguous(), right=False)
    level = torch.searchsorted(negatives, scores[positive].contiguous(), right=True)
    return float((above + level).double().mean() / 2 / len(negatives))


def two_sample_auc(real: Tensor, fake: Tensor, *, epochs: int = 10, seed: int = 0) -> float:
    """A classifier two-sample test: the AUC on held-out items of a network that was trained to
    tell `real` [N, ...] from `fake` [N, ...], float of about unit size. 0.5: it cannot.

    Every other item of each is trained on, the rest is held out. The network: two hidden layers of
    64, dropout between, Adam at 1e-3 in batches of 64. The global random state is left as it was.

    Source: Lopez-Paz, Oquab 2017, "Revisiting Classifier Two-Sample Tests" (arXiv:1610.06545).
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        items = torch.cat([real, fake]).flatten(1).float()
        truth = torch.arange(len(items)) < len(real)
        network = nn.Sequential(
            nn.Linear(items.shape[1], 64), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1),
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-4)
        train = torch.cat([torch.arange(0, len(real), 2), torch.arange(len(real), len(items), 2)])
        for _ in range(epochs):
            for chosen in train[torch.randperm(len(train))].split(64):
                logits = network(items[chosen]).flatten()
                loss = F.binary_cross_entropy_with_logits(logits, truth[chosen].float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
        held = torch.ones(len(items), dtype=torch.bool)
        held[train] = False
        with torch.no_grad():
            return area_under_curve(network(items[held]).flatten(), truth[held])
