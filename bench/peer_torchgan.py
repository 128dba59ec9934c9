"""TorchGAN's DCGAN by its own trainer, as its documentation has it: an arm of `bench.quality`.

Needs the package torchgan. That imports torchvision, to write grids of samples, which are not what
is measured: where it does not load, no grids are written.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

NOISE = 100
ADAM = {"name": torch.optim.Adam, "args": {"lr": 2e-4, "betas": (0.5, 0.999)}}


class Cropped(nn.Module):
    """A generator of images of a power of two, cut to the size that is measured."""

    latent_dim = NOISE

    def __init__(self, generator: nn.Module, margin: int) -> None:
        super().__init__()
        self.generator, self.margin = generator, margin

    def forward(self, noise: Tensor) -> Tensor:
        images: Tensor = self.generator(noise)
        return F.pad(images, (-self.margin,) * 4)


def train(images: Tensor, batch_size: int, after_step: Callable[[nn.Module], None]) -> None:
    """Train on `images` (N, C, H, H) in [-1, 1] until `after_step`, told of the generator after
    each step, raises.

    Raises:
        ModuleNotFoundError: without the package.
        ValueError: images that are no squares of an even side.
    """
    channels, side = images.shape[1:3]
    size = max(32, 1 << (side - 1).bit_length())
    if images.shape[3] != side or (size - side) % 2:
        raise ValueError(f"images: expected squares of an even side, got {tuple(images.shape)}")
    margin = (size - side) // 2
    placeholders = _without_grids()
    sys.modules.update(placeholders)
    try:
        from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
        from torchgan.models import DCGANDiscriminator, DCGANGenerator
        from torchgan.trainer import Trainer
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the arm torchgan needs the package torchgan ({error})"
        ) from error
    finally:  # others take what can be imported for the real one
        for name in placeholders:
            del sys.modules[name]
    padded = F.pad(images, (margin,) * 4, value=-1.0)
    data = TensorDataset(padded, torch.zeros(len(padded), dtype=torch.int64))

    class Watched(Trainer):
        def train_iter(self) -> tuple[float, float, int, int]:
            done: tuple[float, float, int, int] = super().train_iter()
            after_step(generator)
            return done

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        trainer = Watched(
            {
                "generator": {
                    "name": DCGANGenerator, "optimizer": ADAM,
                    "args": {"out_size": size, "out_channels": channels, "step_channels": 16},
                },
                "discriminator": {
                    "name": DCGANDiscriminator, "optimizer": ADAM,
                    "args": {"in_size": size, "in_channels": channels, "step_channels": 16},
                },
            },
            [MinimaxGeneratorLoss(), MinimaxDiscriminatorLoss()],
            device=torch.device("cpu"), epochs=10**9, sample_size=8,
            checkpoints=f"{folder}/gan", recon=f"{folder}/images", log_dir=f"{folder}/log",
        )  # fmt: skip
        generator = Cropped(trainer.generator, margin)
        trainer(DataLoader(data, batch_size, shuffle=True, drop_last=True))


def _without_grids() -> dict[str, ModuleType]:
    """Modules to import in the place of a torchvision that does not load."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        top, utils = ModuleType("torchvision"), ModuleType("torchvision.utils")
        top.utils = utils  # type: ignore[attr-defined]
        top.__spec__ = ModuleSpec("torchvision", None)  # for who asks whether there is one
        utils.save_image = utils.make_grid = lambda *_, **__: None  # type: ignore[attr-defined]
        return {"torchvision": top, "torchvision.utils": utils}
    return {}
