"""Do samples look like digits? A small classifier trained on the real ones says how sure it is,
and which digits it sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_classes, check_int

DIGITS = 10
_SIZE = 28


class LeNet(nn.Module):
    """Images [N, 1, 28, 28], uint8 or floating point in [-1, 1] → logits [N, 10].

    LeNet-5 (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition") with
    today's ReLU and max pooling. Raises ValueError for images of another shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * 5 * 5, 128),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(128, DIGITS),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(_normalised(images)))


def _normalised(images: Tensor) -> Tensor:
    """`images` as floating point in [-1, 1], or ValueError."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1:] != (1, _SIZE, _SIZE):
        raise ValueError(f"images must have shape [N, 1, {_SIZE}, {_SIZE}], got {list(shape)}")
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or floating point in [-1, 1], got {images.dtype}")
    return images.float()


def _check_labels(images: Tensor, labels: Tensor) -> None:
    if labels.dtype != torch.int64 or tuple(labels.shape) != (len(images),):
        raise ValueError(
            f"labels must be int64 of shape [{len(images)}], one an image, "
            f"got {labels.dtype} of shape {list(labels.shape)}"
        )
    if len(images) == 0:
        raise ValueError("images must not be empty")
    check_classes(labels, DIGITS)


def train_lenet(
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int = 12,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> LeNet:
    """A LeNet trained on labelled digits, in eval mode, on the images' device.

    Args:
        images: [N, 1, 28, 28], uint8 or floating point in [-1, 1].
        labels: [N] int64 in 0..9.
        epochs, batch_size, learning_rate: of Adam under a one-cycle schedule.
        seed: of the weights, the order, the shifts and the dropout. The global random state is
            left as it was.

    Each image is shifted by up to two pixels, anew in each epoch. Raises ValueError for shapes,
    dtypes, labels and numbers that do not fit.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_int(name, value, 1)
    images = _normalised(images)
    _check_labels(images, labels)
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = LeNet().to(images.device)
        optimizer = torch.optim.Adam(model.parameters())
        steps = epochs * -(-len(images) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
        for _ in range(epochs):
            for index in torch.randperm(len(images)).to(images.device).split(batch_size):
                loss = F.cross_entropy(model(_shifted(images[index])), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def _shifted(images: Tensor, most: int = 2) -> Tensor:
    """The batch moved by one random offset of up to `most` pixels each way, on background."""
    dy, dx = torch.randint(0, 2 * most + 1, (2,)).tolist()
    padded = F.pad(images, (most, most, most, most), value=-1.0)
    return padded[:, :, dy : dy + _SIZE, dx : dx + _SIZE]


@torch.no_grad()
def _logits(classifier: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Logits [N, 10] of `classifier` in eval mode; its own mode is restored."""
    training = classifier.training
    classifier.eval()
    try:
        return torch.cat([classifier(batch) for batch in images.split(batch_size)])
    finally:
        classifier.train(training)


def digit_accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that `classifier` labels rightly, in [0, 1].

    Shapes and dtypes as in `train_lenet`; ValueError if they do not fit.
    """
    _normalised(images)
    _check_labels(images, labels)
    return (_logits(classifier, images).argmax(1) == labels).float().mean().item()


@dataclass(frozen=True)
class DigitScore:
    """What a classifier sees in a set of images.

    Attributes:
        mean_confidence: mean over images of the largest class probability, in [0.1, 1].
        class_counts: images assigned to each digit, 0 to 9.
        coverage: number of digits that at least 1 % of the images are assigned to.
        entropy: of the distribution over digits, in nats: 0 for a single digit, ln 10 ≈ 2.303 if
            even.
    """

    mean_confidence: float
    class_counts: tuple[int, ...]
    coverage: int
    entropy: float


def score_digits(images: Tensor, classifier: nn.Module) -> DigitScore:
    """Score images [N, 1, 28, 28], uint8 or floating point in [-1, 1], with a digit classifier.

    Args:
        images: N ≥ 1; on the classifier's device.
        classifier: from images to logits [N, 10], as `train_lenet` makes it; run in eval mode.

    Raises ValueError for images of another shape or dtype, and for none.
    """
    if len(images) == 0:
        raise ValueError("images must not be empty")
    _normalised(images)
    confidence, digits = _logits(classifier, images).softmax(1).max(1)
    counts = torch.bincount(digits, minlength=DIGITS)
    share = counts.double() / len(images)
    return DigitScore(
        mean_confidence=confidence.mean().item(),
        class_counts=tuple(counts.tolist()),
        coverage=int((share >= 0.01).sum()),
        entropy=torch.special.entr(share).sum().item(),
    )
