"""Distances between sets of features: FID, KID, Inception Score, through torchmetrics.

All take features [N, D] (or logits) that a feature network gave, and compute in float64.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.checks import needed
from fastgan.metrics.prdc import at_least_two

_MIN_LOGIT = -600.0  # below the largest: exp of it is a normal number in float64


class _Given(nn.Module):
    """Stands where torchmetrics expects a network: the features are made already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _torchmetrics(module: str, name: str, num_features: int, **options: Any) -> Any:
    # Not from torchmetrics.image, which only has them beside torch-fidelity.
    metrics = needed(f"torchmetrics.image.{module}", by=name, extra="metrics")
    with warnings.catch_warnings():
        # It tells that features are kept, which docs/metrics.md does as well.
        warnings.simplefilter("ignore", UserWarning)
        return getattr(metrics, name)(feature=_Given(num_features), **options)


class FrechetDistance:
    """FID, accumulated batch by batch: memory does not grow with the number of images.

    Source: Heusel et al. 2017 (arXiv:1706.08500). |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½) of the means
    and covariances of the two sets' features.
    """

    _STATE = ("features_sum", "features_cov_sum", "features_num_samples")

    def __init__(self, num_features: int) -> None:
        self._metric = _torchmetrics("fid", "FrechetInceptionDistance", num_features)
        self.num_features = num_features

    def update(self, features: Tensor, *, real: bool) -> None:
        self._metric.update(features.double().cpu(), real=real)

    def real_statistics(self) -> dict[str, Tensor]:
        """Sums of the real features and of their products, in float64, and their number."""
        return {name: getattr(self._metric, f"real_{name}").clone() for name in self._STATE}

    def set_real_statistics(self, statistics: dict[str, Tensor]) -> None:
        """Take what `real_statistics` gave in place of updates."""
        for name in self._STATE:
            setattr(self._metric, f"real_{name}", statistics[name].clone())
        # torchmetrics warns of metrics without updates.
        self._metric._update_count += 1

    def note(self, count: int) -> str:
        """The reservation for so many images."""
        if count > self.num_features:
            return ""
        return (
            f"biased upwards: {count} images for {self.num_features} features leave the covariance "
            "singular; take more samples, or KID, which is unbiased"
        )

    def compute(self) -> float:
        """ValueError for fewer than two images of a kind."""
        counts = (
            getattr(self._metric, f"{kind}_features_num_samples") for kind in ("real", "fake")
        )
        at_least_two("fid", *map(int, counts))
        self._metric.orig_dtype = torch.float64
        # Rounding takes it below zero where the sets are alike and their covariance singular.
        return max(float(self._metric.compute()), 0.0)


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID: the unbiased squared MMD with the kernel (x·y / D + 1)³, mean and deviation.

    Args:
        real, fake: features [N, D] and [M, D].
        subsets, subset_size: so many random subsets of so many features; N and M are at least that.
        seed: of the subsets.

    Raises ValueError for a subset larger than the sets. Source: Bińkowski et al. 2018
    (arXiv:1801.01401).
    """
    fewest = at_least_two("kid", len(real), len(fake))
    if not 2 <= subset_size <= fewest:
        raise ValueError(f"kid: subset_size must lie in 2..{fewest}, the images, got {subset_size}")
    metric = _torchmetrics(
        "kid", "KernelInceptionDistance", real.shape[1], subsets=subsets, subset_size=subset_size
    )
    metric.update(real.double().cpu(), real=True)
    metric.update(fake.double().cpu(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """exp E KL(p(y|x) ‖ p(y)) of class logits [N, K], mean and deviation over splits.

    The splits are random and differ in size by one image at most.

    Raises ValueError for fewer images than splits. Source: Salimans et al. 2016 (arXiv:1606.03498).
    """
    if len(logits) < splits:
        raise ValueError(f"is: {splits} splits need as many images at least, got {len(logits)}")
    scores = []
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Of one split there is no deviation.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        shuffled = logits[torch.randperm(len(logits))]
        # As they were published; torchmetrics' own are fewer than asked for of few images.
        bounds = [i * len(logits) // splits for i in range(1, splits)]
        for part in shuffled.tensor_split(bounds):
            metric = _torchmetrics("inception", "InceptionScore", logits.shape[1], splits=1)
            # From there on a class has no share that would count, and its logarithm stays finite.
            certain = part.double() - part.double().amax(1, keepdim=True)
            metric.update(certain.clamp_min(_MIN_LOGIT).cpu())
            scores.append(metric.compute()[0])
        deviation, mean = torch.std_mean(torch.stack(scores))
    return float(mean), float(deviation)
