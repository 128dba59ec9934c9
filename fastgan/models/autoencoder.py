"""Encoder and decoder in one: for autoencoders, variational ones and VAE-GANs.

The decoder is a DCGAN generator and the encoder a DCGAN discriminator with more outputs, so that a
trained decoder is a generator like any other.

Sources: Hinton, Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks";
Kingma, Welling 2014, "Auto-Encoding Variational Bayes" (arXiv:1312.6114).
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from fastgan.checks import check_choice

from ._base import Generator, ImageSize
from ._registry import register_model
from .dcgan import DCGANDiscriminator, DCGANGenerator

Likelihood = Literal["bernoulli", "gaussian"]


@register_model("autoencoder")
class Autoencoder(Generator):
    """Images [N, channels, H, W] → z [N, latent_dim] → images in [-1, 1].

    `model(z)` decodes, as any generator draws. `model.encode(images)` gives z,
    `model.reconstruct(images)` both in a row.

    Args:
        latent_dim: length of the latent vector.
        image_size, channels, width, max_width: as DCGANGenerator's, of both halves.
        negative_slope: of the LeakyReLU, in both halves.

    Its state_dict has the keys `encoder.*` and `decoder.*`, each as of the DCGAN networks. Raises
    ValueError for arguments that cannot be built, and for images or z of another shape.
    """

    numbers_per_dimension = 1

    def __init__(
        self,
        latent_dim: int = 32,
        image_size: ImageSize = 28,
        channels: int = 1,
        width: int = 32,
        *,
        max_width: int = 1024,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        self.encoder = DCGANDiscriminator(
            image_size,
            channels,
            width,
            max_width=max_width,
            negative_slope=negative_slope,
            outputs=latent_dim * self.numbers_per_dimension,
        )
        self.decoder = DCGANGenerator(
            latent_dim,
            image_size,
            channels,
            width,
            max_width=max_width,
            negative_slope=negative_slope,
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def logits(self, z: Tensor) -> Tensor:
        """The images of z before their tanh."""
        return self.decoder.logits(z)

    def encode(self, images: Tensor) -> Tensor:
        """z [N, latent_dim] of images."""
        return self.encoder(images).view(len(images), -1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images like those given, by way of z."""
        return self(self.encode(images))


@register_model("vae")
class VAE(Autoencoder):
    """An Autoencoder whose encoder gives a distribution.

    `posterior(images)` is (mean, log variance), each [N, latent_dim]; `encode` gives the mean.

    Args:
        likelihood: what the decoder models: "bernoulli", pixels that are black or white; or
            "gaussian", with variance 1 in the images' range of [-1, 1].
        others: as Autoencoder's.
    """

    numbers_per_dimension = 2

    def __init__(
        self,
        latent_dim: int = 32,
        image_size: ImageSize = 28,
        channels: int = 1,
        width: int = 32,
        *,
        likelihood: Likelihood = "bernoulli",
        max_width: int = 1024,
        negative_slope: float = 0.2,
    ) -> None:
        check_choice("likelihood", likelihood, get_args(Likelihood))
        super().__init__(
            latent_dim,
            image_size,
            channels,
            width,
            max_width=max_width,
            negative_slope=negative_slope,
        )
        self.likelihood = likelihood

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        # In half precision exp() of it would overflow.
        return mean.float(), log_variance.float()

    def encode(self, images: Tensor) -> Tensor:
        return self.posterior(images)[0]
