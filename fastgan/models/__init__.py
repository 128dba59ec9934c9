"""Generators and discriminators, registered by name.

>>> from fastgan.models import create_model, list_models
>>> generator = create_model("dcgan_generator", image_size=28, channels=1)
"""

from ._base import Discriminator, Generator, Translator
from ._registry import create_model, list_models, register_model
from .autoencoder import VAE, Autoencoder
from .conditional import ACGANDiscriminator, CDCGANDiscriminator, CDCGANGenerator
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .init import init_weights, initialize
from .mlp import MLPDiscriminator, MLPGenerator
from .r3gan import R3GANDiscriminator, R3GANGenerator
from .resnet import ResNetDiscriminator, ResNetGenerator
from .spectral import spectral_norm
from .tf_dcgan import TFDCGANDiscriminator, TFDCGANGenerator
from .tile import TileGenerator
from .translation import PatchDiscriminator, UNet
from .volume import VideoGenerator, VolumeDiscriminator, VolumeGenerator

__all__ = [
    "VAE",
    "ACGANDiscriminator",
    "Autoencoder",
    "CDCGANDiscriminator",
    "CDCGANGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "Generator",
    "MLPDiscriminator",
    "MLPGenerator",
    "PatchDiscriminator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "TFDCGANDiscriminator",
    "TFDCGANGenerator",
    "TileGenerator",
    "Translator",
    "UNet",
    "VideoGenerator",
    "VolumeDiscriminator",
    "VolumeGenerator",
    "create_model",
    "init_weights",
    "initialize",
    "list_models",
    "register_model",
    "spectral_norm",
]
