"""Of which of two sets is an image? A small network that was trained on both says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_int

_BATCH = 64
_SHIFT = 2


def domain_classifier(
    first: Tensor, second: Tensor, *, epochs: int = 12, seed: int = 0
) -> nn.Module:
    """A network from images [N, C, H, W] in [-1, 1] to logits [N], above 0 where it takes an image
    for one of the second set; in eval mode, on the sets' device.

    Three convolutions of stride 2, the mean over positions, and a linear layer. It is trained by
    Adam under a one-cycle schedule on as many images of either set, mirrored and shifted by chance;
    the global random state is left as it was.

    Args:
        first, second: uint8 [N, C, H, W], of one size and channels.
        epochs: of as many images as the smaller set has.

    ValueError for other images.
    """
    check_int("epochs", epochs, 1)
    for name, images in (("first", first), ("second", second)):
        if images.dtype != torch.uint8 or images.dim() != 4 or not len(images):
            raise ValueError(
                f"{name} must be images [N, C, H, W] of uint8, got {images.dtype} "
                f"{list(images.shape)}"
            )
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"both sets must have images of one shape, got {list(first.shape[1:])} and "
            f"{list(second.shape[1:])}"
        )
    devices = [first.device] if first.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        network = _network(first.shape[1]).to(first.device)
        optimizer = torch.optim.Adam(network.parameters())
        count = min(len(first), len(second))
        steps = epochs * -(-count // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        for _ in range(epochs):
            orders = (torch.randperm(len(images))[:count] for images in (first, second))
            for chosen in zip(*(order.split(_BATCH) for order in orders), strict=True):
                images = torch.cat([first[chosen[0]], second[chosen[1]]])
                truth = (torch.arange(len(images)) >= len(chosen[0])).float().to(images.device)
                logits = network(_varied(images.float() / 127.5 - 1))
                loss = F.binary_cross_entropy_with_logits(logits, truth)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


def _network(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (16, 32, 64):
        layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU()]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1), nn.Flatten(0)]
    return nn.Sequential(*layers)


def _varied(images: Tensor) -> Tensor:
    """The batch shifted by some pixels, its borders going on, and perhaps mirrored."""
    height, width = images.shape[2:]
    padded = F.pad(images, (_SHIFT,) * 4, mode="replicate")
    y, x = torch.randint(0, 2 * _SHIFT + 1, (2,)).tolist()
    cut = padded[..., y : y + height, x : x + width]
    return cut.flip(-1) if torch.rand(()) < 0.5 else cut
