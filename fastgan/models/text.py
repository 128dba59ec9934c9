"""Networks of characters: a GAN of windows of text, and a recurrent language model.

Sources: Gulrajani et al. 2017, "Improved Training of Wasserstein GANs" (arXiv:1704.00028), appendix
F, for the residual GAN; Graves 2013, "Generating Sequences With Recurrent Neural Networks"
(arXiv:1308.0850), for the other.
"""

from __future__ import annotations

import math
import string
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_choice, check_int
from fastgan.nn import chain

from ._base import Discriminator, Generator
from ._registry import register_model

Cell = Literal["lstm", "gru"]
# Stands in for the characters of a text that is not known yet.
PRINTABLE = "\ufffd\n" + "".join(sorted(set(string.printable) - set(string.whitespace) | {" "}))


def alphabet(characters: str) -> str:
    """`characters`, or ValueError unless they are different ones, at least one."""
    if not characters or len({*characters}) != len(characters):
        raise ValueError(f"characters must be different ones, at least one; got {characters!r}")
    return characters


class ResidualBlock1d(nn.Module):
    """x + 0.3 · conv5(ReLU(conv5(ReLU(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.conv1 = nn.Conv1d(width, width, 5, padding=2)
        self.conv2 = nn.Conv1d(width, width, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        # The first ReLU may not be in place: x is added to what becomes of it.
        h = chain(x, act1=self.act, conv1=self.conv1, act2=self.act, conv2=self.conv2)
        return x + 0.3 * h


@register_model("text_generator")
class TextGenerator(Generator):
    """z [N, latent_dim] → the probabilities of each character, [N, len(characters), length].

    One dense layer, residual blocks of 1-D convolutions, a softmax over the characters.

    Args:
        characters: the alphabet.
        length: characters of a window.
        latent_dim: length of the latent vector.
        width: channels of the blocks.
        blocks: how many.

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape.
    """

    def __init__(
        self,
        characters: str = PRINTABLE,
        length: int = 32,
        latent_dim: int = 128,
        width: int = 512,
        blocks: int = 5,
    ) -> None:
        super().__init__(latent_dim, (length,), len(alphabet(characters)))
        self.characters, self.length = characters, length
        self.width = check_int("width", width, 1)
        self.project = nn.Linear(latent_dim, width * length)
        layers = (ResidualBlock1d(width) for _ in range(check_int("blocks", blocks, 1)))
        self.blocks = nn.Sequential(*layers)
        self.output = nn.Conv1d(width, len(characters), 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(self.latent_vectors(z)).unflatten(1, (self.width, self.length))
        return F.softmax(self.output(self.blocks(x)), dim=1)


@register_model("text_discriminator")
class TextDiscriminator(Discriminator):
    """Windows [N, len(characters), length], one-hot or probabilities → logits [N].

    Arguments and errors: the TextGenerator's.
    """

    def __init__(
        self, characters: str = PRINTABLE, length: int = 32, width: int = 512, blocks: int = 5
    ) -> None:
        super().__init__((length,), len(alphabet(characters)))
        self.input = nn.Conv1d(len(characters), check_int("width", width, 1), 1)
        layers = (ResidualBlock1d(width) for _ in range(check_int("blocks", blocks, 1)))
        self.blocks = nn.Sequential(*layers)
        self.output = nn.Linear(width * length, 1)

    def forward(self, text: Tensor) -> Tensor:
        x = self.blocks(self.input(self.check_images(text)))
        return self.output(x.flatten(1)).flatten()


@register_model("text_rnn")
class TextRNN(Generator):
    """A recurrent language model: each character's probabilities by those before it.

    `model(z)` draws windows as any generator does: z [N, length] is normal, a number a character,
    which says where in the distribution of the next one to draw. So a z gives one text.

    Args:
        characters: the alphabet.
        length: characters of a window; `latent_dim` is the same.
        width: of the recurrent layers.
        layers: how many.
        cell: "lstm" or "gru".

    Attributes: temperature, which logits are divided by where texts are drawn: 1 as they were
    learned, below it likelier and less various texts.

    Raises ValueError for arguments that cannot be built, and for z or text of another shape.
    """

    def __init__(
        self,
        characters: str = PRINTABLE,
        length: int = 32,
        width: int = 512,
        layers: int = 1,
        cell: Cell = "lstm",
    ) -> None:
        super().__init__(length, (length,), len(alphabet(characters)))
        check_choice("cell", cell, get_args(Cell))
        self.characters, self.length = characters, length
        self.temperature = 1.0
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.rnn = kind(
            len(characters),
            check_int("width", width, 1),
            check_int("layers", layers, 1),
            batch_first=True,
        )
        self.output = nn.Linear(width, len(characters))

    def logits(self, text: Tensor) -> Tensor:
        """Of each character by those before it; text [N, len(characters), length] is one-hot."""
        if tuple(text.shape[1:]) != self.item_shape:
            wanted = ", ".join(map(str, self.item_shape))
            raise ValueError(f"text must have shape [N, {wanted}], got {list(text.shape)}")
        before = F.pad(text[..., :-1], (1, 0)).transpose(1, 2)  # nothing stands before the first
        return self.output(self.rnn(before)[0]).transpose(1, 2)

    def forward(self, z: Tensor) -> Tensor:
        places = 0.5 * (1 + torch.erf(self.latent_vectors(z) / math.sqrt(2)))
        x, state, drawn = z.new_zeros(len(z), 1, len(self.characters)), None, []
        for place in places.split(1, dim=1):
            h, state = self.rnn(x, state)
            share = F.softmax(self.output(h[:, 0]) / self.temperature, dim=1)
            # The first character up to which the shares sum to more than the place.
            code = (share.cumsum(1) < place).sum(1).clamp(max=len(self.characters) - 1)
            x = F.one_hot(code, len(self.characters)).to(z.dtype)[:, None]
            drawn.append(x)
        return torch.cat(drawn, 1).transpose(1, 2)
