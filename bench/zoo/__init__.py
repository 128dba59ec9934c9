"""Published architectures: how to build it narrow, what it takes, and what `fuse` finds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from bench.zoo import audio, images, volumes


class Model(NamedTuple):
    """build(width=...) makes the module; `narrow` and `batch` keep a test short.

    Attributes:
        inputs: the shape of each argument behind the batch. fused of blocks: what `fuse` reports.
    """

    build: Callable[..., nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    fused: int
    blocks: int
    narrow: int = 4
    batch: int = 3


ZOO = {
    "dcgan-generator": Model(images.dcgan_generator, ((100, 1, 1),), 5, 5),
    "dcgan-discriminator": Model(images.dcgan_discriminator, ((3, 64, 64),), 5, 5),
    "torchgan-generator": Model(images.TorchganGenerator, ((100,),), 4, 4),
    "torchgan-discriminator": Model(images.torchgan_discriminator, ((3, 32, 32),), 4, 4),
    "tensorflow-generator": Model(images.TensorflowGenerator, ((100,),), 4, 4),
    "tensorflow-discriminator": Model(images.tensorflow_discriminator, ((1, 28, 28),), 2, 2),
    "pix2pix-unet-256": Model(images.pix2pix_unet, ((3, 256, 256),), 9, 9, 2, 2),
    "patchgan": Model(images.patchgan, ((6, 64, 64),), 4, 4),
    "latent-diffusion-patchgan": Model(
        partial(images.patchgan, channels=3, norm="batch"), ((3, 64, 64),), 4, 4
    ),
    "cyclegan-generator": Model(images.cyclegan_generator, ((3, 32, 32),), 15, 15),
    "srgan-discriminator": Model(images.SRGANDiscriminator, ((3, 32, 32),), 8, 8),
    "esrgan-discriminator": Model(
        partial(images.ESRGANDiscriminator, size=64), ((3, 64, 64),), 10, 10
    ),
    "r3gan-stage": Model(images.r3gan_stage, ((8, 16, 16),), 2, 4, 8),
    "hifigan-generator": Model(audio.HiFiGenerator, ((80, 4),), 14, 42, 16, 2),
    "hifigan-periods": Model(audio.hifi_periods, ((1, 500), (1, 500)), 25, 25, 1, 2),
    "hifigan-scales": Model(audio.hifi_scales, ((1, 512), (1, 512)), 6, 21, 16, 2),
    "melgan-generator": Model(audio.melgan_generator, ((80, 4),), 6, 18, 16, 2),
    "wavegan-generator": Model(audio.WaveGANGenerator, ((100,),), 5, 5, 1),
    "wavegan-discriminator": Model(audio.WaveGANDiscriminator, ((1, 16384),), 5, 5, 1),
    "encodec-discriminator": Model(
        partial(audio.EncodecDiscriminator, n_fft=128), ((1, 512),), 3, 5
    ),
    "dac-period": Model(partial(audio.DACPeriod, 3), ((1, 500),), 5, 5, 1),
    "dac-bands": Model(partial(audio.DACBands, n_fft=128), ((1, 512),), 25, 25),
    "darknet-53": Model(volumes.Darknet53, ((3, 64, 64),), 52, 52, 2),
    "nnunet-2d": Model(partial(volumes.PlainUNet, 2), ((1, 32, 32),), 14, 14),
    "nnunet-3d": Model(partial(volumes.PlainUNet, 3), ((1, 16, 16, 16),), 14, 14, 2, 2),
    "3dgan-generator": Model(volumes.Generator3DGAN, ((200,),), 4, 5, 4, 2),
    "3dgan-discriminator": Model(volumes.Discriminator3DGAN, ((1, 25, 25, 25),), 4, 4, 4, 2),
    "calogan-generator": Model(volumes.CaloGANLayer, ((64,),), 2, 3, 8),
    "calogan-discriminator": Model(volumes.CaloGANDiscriminator, ((1, 12, 6),), 2, 3, 8),
}
