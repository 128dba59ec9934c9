"""Augmentation of what the discriminator sees, of real and generated images alike.

>>> from fastgan.augment import get_augmentation
>>> augment = get_augmentation("ada").to(device)
>>> logits = discriminator(augment(images))

Each is a module from images `[N, C, H, W]` to images of that shape and dtype, differentiable with
respect to them to any order: generators learn through it, and gradient penalties may take the
discriminator with it, `lambda x: discriminator(augment(x))`. Every call draws anew, for each image,
from the default random numbers of the images' device; nothing waits for the device, so a step can
be captured as a CUDA graph.

How an engine uses one: apply it to reals and fakes before every pass of the discriminator, the
generator's step included, and call `augment.update(real_logits)` after each update of the
discriminator. State (ADA's p, the noise's schedule) is in buffers: a checkpoint holds the module's
state_dict.
"""

from fastgan.augment._base import Augmentation, Chain, get_augmentation, list_augmentations
from fastgan.augment.ada import ADA
from fastgan.augment.diffaugment import DiffAugment
from fastgan.augment.noise import InstanceNoise, instance_noise

__all__ = [
    "ADA",
    "Augmentation",
    "Chain",
    "DiffAugment",
    "InstanceNoise",
    "get_augmentation",
    "instance_noise",
    "list_augmentations",
]
