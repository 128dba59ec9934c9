"""Generators and discriminators, registered by name.

>>> from fastgan.models import create_model, list_models
>>> generator = create_model("dcgan_generator", image_size=28, channels=1)
"""

from ._base import Discriminator, Generator, Translator
from ._registry import create_model, list_models, register_model
from .autoencoder import VAE, Autoencoder
from .backbones import Backbone, get_backbone
from .conditional import ACGANDiscriminator, CDCGANDiscriminator, CDCGANGenerator
from .cycle import CycleDiscriminator, CycleGenerator, ResNetTranslator
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .few_shot import FewShotDiscriminator, FewShotGenerator
from .hifigan import HiFiGANDiscriminator, HiFiGANGenerator
from .init import init_weights, initialize
from .mlp import MLPDiscriminator, MLPGenerator
from .modern import ModernDiscriminator, ModernGenerator
from .projected import ProjectedDiscriminator
from .r3gan import R3GANDiscriminator, R3GANGenerator
from .resnet import ResNetDiscriminator, ResNetGenerator
from .restoration import Inpainter, InpaintingDiscriminator, SRResNet
from .spectral import spectral_norm
from .text import TextDiscriminator, TextGenerator, TextRNN
from .tf_dcgan import TFDCGANDiscriminator, TFDCGANGenerator
from .tile import TileGenerator
from .translation import PatchDiscriminator, UNet
from .volume import VideoGenerator, VolumeDiscriminator, VolumeGenerator
from .wavegan import PhaseShuffle, WaveGANDiscriminator, WaveGANGenerator

__all__ = [
    "VAE",
    "ACGANDiscriminator",
    "Autoencoder",
    "Backbone",
    "CDCGANDiscriminator",
    "CDCGANGenerator",
    "CycleDiscriminator",
    "CycleGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "FewShotDiscriminator",
    "FewShotGenerator",
    "Generator",
    "HiFiGANDiscriminator",
    "HiFiGANGenerator",
    "Inpainter",
    "InpaintingDiscriminator",
    "MLPDiscriminator",
    "MLPGenerator",
    "ModernDiscriminator",
    "ModernGenerator",
    "PatchDiscriminator",
    "PhaseShuffle",
    "ProjectedDiscriminator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "ResNetTranslator",
    "SRResNet",
    "TFDCGANDiscriminator",
    "TFDCGANGenerator",
    "TextDiscriminator",
    "TextGenerator",
    "TextRNN",
    "TileGenerator",
    "Translator",
    "UNet",
    "VideoGenerator",
    "VolumeDiscriminator",
    "VolumeGenerator",
    "WaveGANDiscriminator",
    "WaveGANGenerator",
    "create_model",
    "get_backbone",
    "init_weights",
    "initialize",
    "list_models",
    "register_model",
    "spectral_norm",
]
