"""Scores of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.data import ImageDataset, load
from fastgan.data.options import Split
from fastgan.engine import find_checkpoint, load_generator
from fastgan.engine.autoencoding import binarized, encoded_and_back
from fastgan.engine.checkpoint import MANIFEST
from fastgan.engine.sampling import draw_noise, fitting_labels, images_of
from fastgan.metrics import METRICS, Options, Reconstruction, Score, evaluate, get_network
from fastgan.recipes.recipe import DataConfig, data_of

RECONSTRUCTIONS = ("psnr", "ssim", "elbo")
Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Evaluation:
    """What to measure of a checkpoint, and how."""

    metrics: tuple[str, ...] = ("fid", "kid")
    """fid, kid, is, prdc and classes of samples; psnr, ssim and elbo of reconstructions."""
    data: str | None = None
    """The real images; by default those of the run."""
    split: Split = "train"
    """train or test, of data that has splits."""
    reals: int | None = None
    """Use so many real images only, evenly spaced over the source."""
    samples: int = 5000
    """Images to draw."""
    seed: int = 0
    """Of the noise, and of random subsets and splits."""
    features: str = "lenet"
    """The feature network: lenet, efficientnet-lite0, inception, or package.module:attribute."""
    inception_weights: Path | None = None
    """A file with Inception's weights, where they cannot be downloaded."""
    weights: Weights = "ema"
    """The moving average of the generator, or the weights that were being trained."""


def evaluate_checkpoint(
    path: Path, chosen: Evaluation, device: str | torch.device = "cpu"
) -> list[Score]:
    """The scores of a run's or checkpoint's generator.

    Raises:
        ValueError: an unknown metric; data, feature network or model that do not fit each other.
        OSError, ModuleNotFoundError: data, weights or packages that are not there.
    """
    known = (*METRICS, *RECONSTRUCTIONS)
    for name in chosen.metrics:
        if name not in known:
            raise ValueError(f"unknown metric {name!r}: there are {', '.join(known)}")
    if not chosen.metrics:
        raise ValueError(f"metrics must name at least one of {', '.join(known)}")
    generator = load_generator(path, weights=chosen.weights, device=device)
    run_data = run_data_of(path)
    scores = []
    of_samples = [name for name in chosen.metrics if name in METRICS]
    of_pairs = [name for name in chosen.metrics if name in RECONSTRUCTIONS]
    if of_pairs:
        _check_encodes(generator, of_pairs)
    reals = _reals(generator, chosen, run_data) if {*chosen.metrics} - {"is", "classes"} else None
    if of_samples:
        scores += _sample_scores(generator, reals, of_samples, chosen)
    if of_pairs:
        assert reals is not None
        scores += reconstruction_scores(generator, reals, of_pairs, chosen.seed)
    return scores


def run_data_of(path: Path) -> DataConfig:
    """The data of a run's or checkpoint's run."""
    checkpoint = find_checkpoint(path)
    return data_of(checkpoint.manifest, checkpoint.path / MANIFEST)


def _reals(generator: Any, chosen: Evaluation, run: DataConfig) -> ImageDataset:
    return load(
        chosen.data or run.data,
        image_size=generator.image_size,
        channels=generator.channels,
        resize=run.resize,
        limit=chosen.reals,
        split=chosen.split,
    ).as_bytes()


def _sample_scores(
    generator: nn.Module, reals: ImageDataset | None, metrics: list[str], chosen: Evaluation
) -> list[Score]:
    network = get_network(chosen.features, chosen.inception_weights)
    check_int("samples", chosen.samples, 1)
    noise = draw_noise(generator, chosen.samples, chosen.seed)
    labels = fitting_labels(generator, chosen.samples, None)
    options = Options(seed=chosen.seed)

    def fakes() -> Iterator[Tensor]:
        for start in range(0, chosen.samples, options.batch_size):
            part = slice(start, start + options.batch_size)
            yield images_of(generator, noise[part], None if labels is None else labels[part])

    setting = {"seed": chosen.seed}
    return evaluate(fakes(), reals, network, metrics, options, labels=labels, setting=setting)


def _check_encodes(generator: nn.Module, metrics: list[str]) -> None:
    for name in metrics:
        if not hasattr(generator, "posterior" if name == "elbo" else "reconstruct"):
            raise ValueError(
                f"{name} needs {'a variational autoencoder' if name == 'elbo' else 'an encoder'}, "
                f"and {type(generator).__name__} has none: take metrics of samples, such as fid"
            )


@torch.no_grad()
def reconstruction_scores(
    generator: Any, reals: ImageDataset, metrics: Sequence[str], seed: int = 0
) -> list[Score]:
    """PSNR, SSIM and evidence lower bound of all images of a set.

    The bound of a Bernoulli decoder is that of binarised images (every pixel drawn black or white,
    from `seed`), in nats an image, with one sample of z an image.
    """
    device = next(generator.parameters()).device
    near = Reconstruction()
    terms = torch.zeros(2, dtype=torch.float64)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for part in reals.images.split(250):
            images = (part.float() / 127.5 - 1).to(device)
            if "psnr" in metrics or "ssim" in metrics:
                near.update(images, generator.reconstruct(images))
            if "elbo" in metrics:
                binary = generator.likelihood == "bernoulli"
                images = binarized(images) if binary else images
                noise = torch.randn(len(images), generator.latent_dim, device=device)
                pair = torch.stack(encoded_and_back(generator, images, noise)).double().cpu()
                terms += pair * len(images)
    setting = {"reals": len(reals), "data": reals.name, "data_sha256": reals.fingerprint()}
    scores = []
    if "psnr" in metrics:
        scores.append(Score("psnr", near.psnr(), None, setting | {"unit": "dB"}))
    if "ssim" in metrics:
        scores.append(Score("ssim", near.ssim(), None, setting))
    if "elbo" in metrics:
        how = setting | {"likelihood": generator.likelihood, "seed": seed, "unit": "nats"}
        how |= {"images": "binarised"} if generator.likelihood == "bernoulli" else {}
        mean = (terms / len(reals)).tolist()
        scores += [
            Score("elbo", -sum(mean), None, how),
            Score("reconstruction", mean[0], None, how),
            Score("kl", mean[1], None, how),
        ]
    return scores
