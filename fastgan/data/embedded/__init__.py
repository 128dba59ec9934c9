"""mnist5k: 5,000 real digits that ship with the package (CC BY-SA 3.0, see LICENSE.mnist)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastgan.data.dataset import ImageDataset, spread
from fastgan.data.image import conform
from fastgan.data.options import LoadOptions

MNIST5K = Path(__file__).with_name("mnist5k.npz")


def load_mnist5k(options: LoadOptions) -> ImageDataset:
    """Load the first 500 images of each digit of MNIST's training set, 28x28, grey.

    Raises:
        ValueError: `options.split` is "test": all of them are training images.
    """
    if options.split != "train":
        raise ValueError(f"mnist5k has only the train split, got split={options.split!r}")
    with np.load(MNIST5K, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    chosen = spread(len(images), options.limit)
    return ImageDataset(
        conform(torch.from_numpy(images[chosen])[:, None], options),
        torch.from_numpy(labels[chosen].astype(np.int64)),
        tuple("0123456789"),
        "mnist5k",
    )
