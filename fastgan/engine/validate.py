"""Whether a configuration fits the networks, the data and the processes."""

from __future__ import annotations

from torch import nn

from fastgan.data import ImageDataset
from fastgan.engine.config import TrainConfig
from fastgan.engine.ranks import Ranks
from fastgan.nn import BatchNormAct1d, BatchNormAct2d, BatchNormAct3d

_BatchNorm = nn.modules.batchnorm._BatchNorm
_SEGMENTED = (BatchNormAct1d, BatchNormAct2d, BatchNormAct3d)

# Losses whose slope on a fake's logit is nowhere zero in the discriminator's loss.
_ONE_STAGE_LOSSES = ("non_saturating", "saturating", "wasserstein")


def check_choices(
    config: TrainConfig, discriminator: nn.Module, dataset: ImageDataset, ranks: Ranks
) -> None:
    """Raises ValueError where a choice of ``config`` would not do what it says."""
    share = ranks.share(config.batch_size, "batch_size")
    if share % config.accumulate:
        raise ValueError(
            f"batch_size must be a multiple of accumulate = {config.accumulate} on each of "
            f"{ranks.size} processes, got {config.batch_size}"
        )
    if config.conditional and dataset.labels is None:
        raise ValueError(f"conditional needs labels, and {dataset.name} has none")
    plain = [
        name
        for name, layer in discriminator.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, _SEGMENTED)
    ]
    if config.joint_batch and plain:
        raise ValueError(
            "joint_batch needs batch norm that keeps real and fake images apart "
            f"(fastgan.nn.BatchNormAct); the discriminator's {plain[0]} does not"
        )
    if config.sync_batchnorm and plain:
        raise ValueError(
            "sync_batchnorm needs batch norm that can be synchronised "
            f"(fastgan.nn.BatchNormAct); the discriminator's {plain[0]} cannot"
        )
    if config.update_rule != "alternating" and not config.share_fakes:
        raise ValueError(f"update_rule {config.update_rule} shares the fakes: share_fakes is off")
    if config.update_rule == "one_stage":
        _check_one_stage(config, discriminator)


def _check_one_stage(config: TrainConfig, discriminator: nn.Module) -> None:
    if any(isinstance(layer, _BatchNorm) for layer in discriminator.modules()):
        raise ValueError(
            "update_rule one_stage needs a discriminator that treats images apart: "
            "this one has batch norm (simultaneous works with any)"
        )
    if config.loss not in _ONE_STAGE_LOSSES or config.smooth_fake:
        raise ValueError(
            f"update_rule one_stage works with the losses {', '.join(_ONE_STAGE_LOSSES)} without "
            f"smooth_fake, got {config.loss}"
        )
