"""From two sets of images to scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan.metrics.distribution import FrechetDistance, inception_score, kernel_distance
from fastgan.metrics.features import FeatureNetwork
from fastgan.metrics.nearest import nearest_real
from fastgan.metrics.prdc import prdc
from fastgan.metrics.score import Score, setting_of
from fastgan.metrics.sliced import sliced_distance
from fastgan.metrics.statistics import cached
from fastgan.system import tell

METRICS = ("fid", "kid", "sliced", "is", "prdc", "nearest", "classes")
_NEEDS_REALS = {"fid", "kid", "sliced", "prdc", "nearest"}
_NEEDS_CLASSES = {"is", "classes"}
_NEEDS_FEATURES = {"kid", "sliced", "prdc", "nearest"}


class Images(Protocol):
    """Real images, as `fastgan.data.ImageDataset` holds them: uint8 [N, C, H, W]."""

    @property
    def images(self) -> Tensor: ...
    @property
    def name(self) -> str: ...
    def __len__(self) -> int: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Options:
    """Numbers that a metric depends on; they are part of every score's setting."""

    seed: int = 0
    """Of random subsets and splits."""
    splits: int = 10
    """Of the Inception Score."""
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    """Of the features in a subset; fewer where there are fewer images."""
    directions: int = 1000
    """Of the sliced distance."""
    neighbours: int = 5
    """k of precision, recall, density and coverage."""
    batch_size: int = 250
    """Images at a time; it changes no score but in its last bits."""


@dataclass
class _Seen:
    """What is kept of the fakes as they go by."""

    features: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    count: int = 0


def evaluate(
    fakes: Iterable[Tensor],
    reals: Images | None,
    network: FeatureNetwork,
    metrics: Sequence[str] = ("fid", "kid"),
    options: Options | None = None,
    *,
    labels: Tensor | None = None,
    setting: dict[str, Any] | None = None,
) -> list[Score]:
    """Scores of generated images.

    Args:
        fakes: batches [N, C, H, W], float in [-1, 1].
        reals: the images that they are compared with, of the fakes' size and channels; needed for
            fid, kid, sliced, prdc and nearest. Their statistics are cached by content.
        network: measures images.
        metrics: of METRICS. "is" is the Inception Score of the network's classes; "classes" the
            share of fakes that the network is sure of (probability ≥ 0.9), the number of classes
            that at least 1 % of them fall into and, with `labels`, the share that is of the class
            asked for.
        labels: int64, the class asked for, of each fake.
        setting: what else a number depends on, to be kept with it, such as the sampling seed.

    Memory holds a batch of images, and of all of them features (kid, sliced, prdc, nearest) or
    logits (is, classes).

    Raises:
        ValueError: an unknown metric, images that are not finite or do not fit the reals or the
            network, too few of them, or labels that do not match.
        ModuleNotFoundError: torchmetrics is missing.
    """
    options = options or Options()
    _check(metrics, reals, network)
    seen, fid = _Seen(), None
    for batch in fakes:
        _check_pair(batch, reals)
        found = network(batch)
        if "fid" in metrics:
            fid = fid or FrechetDistance(found.features.shape[1])
            fid.update(found.features, real=False)
        if _NEEDS_FEATURES.intersection(metrics):
            seen.features.append(found.features.cpu())
        if _NEEDS_CLASSES.intersection(metrics):
            seen.logits.append(_logits(found.logits, network))
        seen.count += len(batch)
    if seen.count == 0:
        raise ValueError("fakes: there must be at least one image")
    common = {
        "features": network.name,
        "features_sha256": network.digest,
        "resize": network.resize,
        **network.facts,
        "fakes": seen.count,
        **(setting or {}),
    }
    scores: list[Score] = []
    if _NEEDS_REALS.intersection(metrics):
        assert reals is not None
        common_reals = common | setting_of(reals, len(reals))
        scores += _against(reals, network, metrics, options, fid, seen, common_reals)
    if "is" in metrics:
        value = inception_score(torch.cat(seen.logits), splits=options.splits, seed=options.seed)
        scores.append(Score("is", *value, common | {"splits": options.splits}))
    if "classes" in metrics:
        scores += _class_scores(torch.cat(seen.logits), labels, common)
    return scores


def _against(
    reals: Images,
    network: FeatureNetwork,
    metrics: Sequence[str],
    options: Options,
    fid: FrechetDistance | None,
    seen: _Seen,
    common: dict[str, Any],
) -> list[Score]:
    """The scores that compare with real images."""
    keep = bool(_NEEDS_FEATURES.intersection(metrics))
    known = real_statistics(reals, network, keep_features=keep, batch_size=options.batch_size)
    scores = []
    if fid is not None:
        fid.set_real_statistics(known)
        note = fid.note(min(seen.count, len(reals)))
        scores.append(Score("fid", fid.compute(), None, common, note))
    if not keep:
        return scores
    fakes = torch.cat(seen.features)
    if "kid" in metrics:
        size = min(options.kid_subset_size, len(reals), len(fakes))
        subsets = {"subsets": options.kid_subsets, "subset_size": size}
        value = kernel_distance(known["features"], fakes, seed=options.seed, **subsets)
        scores.append(Score("kid", *value, common | subsets))
    if "sliced" in metrics:
        sliced = {"directions": options.directions}
        distance = sliced_distance(known["features"], fakes, seed=options.seed, **sliced)
        scores.append(Score("sliced", distance, None, common | sliced))
    if "prdc" in metrics:
        # As many of each: the measures depend on the counts. Evenly spaced over the source.
        chosen = torch.linspace(0, len(reals) - 1, min(len(reals), len(fakes))).long()
        values = prdc(known["features"][chosen], fakes, neighbours=options.neighbours)
        setting = common | {"reals": len(chosen), "neighbours": options.neighbours}
        scores += [Score(k, value, None, setting) for k, value in values._asdict().items()]
    if "nearest" in metrics:
        found = nearest_real(known["features"], fakes)
        named = {"authentic": found.authentic, "nearest": found.fake, "nearest_real": found.real}
        scores += [Score(name, value, None, common) for name, value in named.items()]
    return scores


def real_statistics(
    reals: Images, network: FeatureNetwork, *, keep_features: bool, batch_size: int = 250
) -> dict[str, Tensor]:
    """What `FrechetDistance.set_real_statistics` takes and, if asked for, "features" [N, D].

    Cached by the content of images and network.
    """

    def make() -> dict[str, Tensor]:
        fid, kept = None, []
        for number, part in enumerate(reals.images.split(batch_size)):
            tell("measuring real images", number * batch_size, len(reals))
            features = network(part.float() / 127.5 - 1).features.cpu()
            fid = fid or FrechetDistance(features.shape[1])
            fid.update(features, real=True)
            kept.append(features)
        assert fid is not None
        made = fid.real_statistics()
        return made | ({"features": torch.cat(kept)} if keep_features else {})

    facts = (f"{name} {value}" for name, value in network.facts.items())
    parts = ("statistics.1", reals.fingerprint(), network.digest, network.resize, *facts)
    return cached((*parts, f"features {keep_features}"), make)


def _class_scores(logits: Tensor, labels: Tensor | None, common: dict[str, Any]) -> list[Score]:
    confidence, classes = logits.double().softmax(1).max(1)
    share = torch.bincount(classes, minlength=logits.shape[1]) / len(logits)
    scores = [
        Score("confident", (confidence >= 0.9).double().mean().item(), None, common),
        Score("classes", float((share >= 0.01).sum()), None, common | {"of": logits.shape[1]}),
    ]
    if labels is None:
        return scores
    if labels.shape != classes.shape:
        raise ValueError(f"labels must be [{len(classes)}], one a fake, got {list(labels.shape)}")
    right = (classes == labels.cpu()).double().mean().item()
    return [*scores, Score("accuracy", right, None, common)]


def _check(metrics: Sequence[str], reals: Images | None, network: FeatureNetwork) -> None:
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}: there are {', '.join(METRICS)}")
        if name in _NEEDS_REALS and reals is None:
            raise ValueError(f"{name} compares with real images: reals is None")
        if name in _NEEDS_CLASSES and not network.classes:
            raise ValueError(f"{name} needs a network with classes, {network.name} has none")


def _check_pair(batch: Tensor, reals: Images | None) -> None:
    if reals is not None and batch.shape[1:] != reals.images.shape[1:]:
        raise ValueError(
            "fakes and reals must have one size and number of channels, got "
            f"{list(batch.shape[1:])} and {list(reals.images.shape[1:])}: load the real images "
            "with the generator's image_size and channels"
        )


def _logits(logits: Tensor | None, network: FeatureNetwork) -> Tensor:
    if logits is None:
        raise ValueError(
            f"the feature network {network.name} must give logits for is and classes, got None"
        )
    return logits.cpu()
