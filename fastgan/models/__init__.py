"""Generators and discriminators, registered by name.

>>> from fastgan.models import create_model, list_models
>>> generator = create_model("dcgan_generator", image_size=28, channels=1)
"""

from ._base import Discriminator, Generator
from ._registry import create_model, list_models, register_model
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .init import init_weights, initialize
from .mlp import MLPDiscriminator, MLPGenerator
from .spectral import spectral_norm
from .tf_dcgan import TFDCGANDiscriminator, TFDCGANGenerator

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "Generator",
    "MLPDiscriminator",
    "MLPGenerator",
    "TFDCGANDiscriminator",
    "TFDCGANGenerator",
    "create_model",
    "init_weights",
    "initialize",
    "list_models",
    "register_model",
    "spectral_norm",
]
