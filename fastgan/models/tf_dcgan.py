"""The DCGAN of TensorFlow's tutorial: 5×5 convolutions, LeakyReLU of slope 0.3, dropout.

Source: TensorFlow tutorials, "Deep Convolutional Generative Adversarial Network". Keras' defaults
are part of the model: Glorot-uniform weights, batch norm with ε = 1e-3 and a running average that
keeps 0.99 (torch's momentum 0.01), and "same" padding.

"Same" padding of kernel 5 and stride 2 on an even side pads three in total; TensorFlow puts the odd
one after the data, `padding=2` puts it before. The two are reflections of each other: spatially
flipped kernels give flipped images.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fastgan.checks import check_int, check_share
from fastgan.nn import BatchNormAct1d, chain

from ._base import Discriminator, Generator, ImageSize, quartered, slope
from ._blocks import conv_block
from ._registry import register_model
from .init import initialize

# Keras' defaults.
_EPS = 1e-3
_MOMENTUM = 0.01


@register_model("tf_dcgan_generator")
class TFDCGANGenerator(Generator):
    """z [N, latent_dim] → images [N, channels, H, W] in [-1, 1], channels-last.

    Dense to a quarter of the image's side → k5 s1 → k5 s2 → k5 s2 transposed convolutions.

    Args:
        latent_dim: length of the latent vector.
        image_size: side of a square image or (H, W), multiples of 4.
        channels: colour channels of the image.
        width: channels of the largest feature map; 4·width at the smallest.
        negative_slope: of the LeakyReLU.

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape
    ([N, latent_dim, 1, 1] is accepted).
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_size: ImageSize = 28,
        channels: int = 1,
        width: int = 64,
        *,
        negative_slope: float = 0.3,
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        check_int("width", width, 1)
        negative_slope = slope("negative_slope", negative_slope)
        self.base = quartered(image_size)
        features = self.base[0] * self.base[1] * 4 * width

        def block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
            conv = nn.ConvTranspose2d(c_in, c_out, 5, stride, 2, stride - 1, bias=False)
            return conv_block(
                conv, batch_norm=True, negative_slope=negative_slope, eps=_EPS, momentum=_MOMENTUM
            )

        # The norm of the dense layer is over each feature, not each channel, as in the tutorial.
        norm = BatchNormAct1d(features, negative_slope=negative_slope, eps=_EPS, momentum=_MOMENTUM)
        self.project = nn.Sequential(
            OrderedDict(dense=nn.Linear(latent_dim, features, bias=False), norm=norm)
        )
        self.blocks = nn.Sequential(block(4 * width, 2 * width, 1), block(2 * width, width, 2))
        self.output = nn.ConvTranspose2d(width, channels, 5, 2, 2, 1, bias=False)
        self.tanh = nn.Tanh()
        initialize(self, "xavier_uniform")

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(self.latent_vectors(z))
        # Features are ordered row, column, channel, which is channels-last memory as it stands.
        x = x.unflatten(1, (*self.base, -1)).permute(0, 3, 1, 2)
        return chain(x, blocks=self.blocks, output=self.output, tanh=self.tanh)


@register_model("tf_dcgan_discriminator")
class TFDCGANDiscriminator(Discriminator):
    """Images [N, channels, H, W] → logits [N].

    Two k5 s2 convolutions with LeakyReLU and dropout, a dense layer with batch norm and LeakyReLU
    if asked for, then one dense unit.

    Args:
        image_size, channels: of the images; multiples of 4.
        width: channels of the first convolution; the second has twice as many.
        negative_slope: of the LeakyReLU.
        dropout: rate of dropout after each convolution's activation, in [0, 1).
        hidden: features of the dense layer, whose units see the whole image; 0 for none, as in the
            tutorial. InfoGAN's discriminator of digits has 1024 (Chen et al. 2016).

    Raises ValueError for arguments that cannot be built, and in `forward` for images of another
    shape.
    """

    def __init__(
        self,
        image_size: ImageSize = 28,
        channels: int = 1,
        width: int = 64,
        *,
        negative_slope: float = 0.3,
        dropout: float = 0.3,
        hidden: int = 0,
    ) -> None:
        super().__init__(image_size, channels)
        check_int("width", width, 1)
        if hidden != 0:
            check_int("hidden", hidden, 1)
        negative_slope = slope("negative_slope", negative_slope)
        dropout = check_share("dropout", dropout)
        base = quartered(image_size)

        def block(c_in: int, c_out: int) -> nn.Sequential:
            conv = nn.Conv2d(c_in, c_out, 5, 2, 2)
            return conv_block(
                conv, batch_norm=False, negative_slope=negative_slope, dropout=dropout
            )

        self.blocks = nn.Sequential(block(channels, width), block(width, 2 * width))
        features = base[0] * base[1] * 2 * width
        if hidden:
            linear = nn.Linear(features, hidden, bias=False)
            norm = BatchNormAct1d(hidden, negative_slope=negative_slope)
            self.dense = nn.Sequential(OrderedDict(linear=linear, norm=norm))
        else:
            self.dense = nn.Sequential()
        self.output = nn.Linear(hidden or features, 1)
        initialize(self, "xavier_uniform")

    def forward(self, images: Tensor) -> Tensor:
        x = self.check_images(images).to(memory_format=torch.channels_last)
        x = chain(x, blocks=self.blocks)
        # Row, column, channel: a view of channels-last memory.
        return self.output(self.dense(x.permute(0, 2, 3, 1).flatten(1))).flatten()
