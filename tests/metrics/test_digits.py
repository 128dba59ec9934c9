"""The digit score: exact on made-up classifiers, sensible on drawn and on real digits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fastgan.data import load
from fastgan.metrics import DigitScore, LeNet, digit_accuracy, score_digits, train_lenet

# Which of the seven segments of a digital clock each digit lights, and where the segments are.
LIT = ["abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg"]
SEGMENTS = {
    "a": (slice(4, 6), slice(8, 20)),
    "b": (slice(5, 14), slice(18, 20)),
    "c": (slice(14, 23), slice(18, 20)),
    "d": (slice(22, 24), slice(8, 20)),
    "e": (slice(14, 23), slice(8, 10)),
    "f": (slice(5, 14), slice(8, 10)),
    "g": (slice(13, 15), slice(8, 20)),
}


def _clock_digits(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """`n` noisy seven-segment digits, uint8 [n, 1, 28, 28], and their labels."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (n,), generator=rng)
    images = torch.randint(0, 60, (n, 1, 28, 28), generator=rng)
    for image, label in zip(images, labels.tolist(), strict=True):
        for segment in LIT[label]:
            image[0][SEGMENTS[segment]] = 220
    return images.to(torch.uint8), labels


class FromFirstPixel(nn.Module):
    """Confidence 1/(1 + 9/e^k) in digit d where the first pixel is d/10 and the next k/10."""

    def forward(self, images: Tensor) -> Tensor:
        digit = (images[:, 0, 0, 0] * 10).round().long()
        return nn.functional.one_hot(digit, 10) * (images[:, 0, 0, 1] * 10)[:, None]


def _coded(digits: list[int], strength: float) -> Tensor:
    images = torch.zeros(len(digits), 1, 28, 28)
    images[:, 0, 0, 0] = torch.tensor(digits) / 10
    images[:, 0, 0, 1] = strength / 10
    return images


def test_score_of_known_predictions() -> None:
    digits = [0] * 150 + [3] * 148 + [9] * 2
    score = score_digits(_coded(digits, strength=4.0), FromFirstPixel())
    assert score.class_counts == (150, 0, 0, 148, 0, 0, 0, 0, 0, 2)
    assert score.coverage == 2  # two images in 300 are less than 1 %
    assert score.mean_confidence == pytest.approx(math.exp(4) / (math.exp(4) + 9), rel=1e-6)
    entropy = -sum(c / 300 * math.log(c / 300) for c in (150, 148, 2))
    assert score.entropy == pytest.approx(entropy, rel=1e-12)


def test_one_percent_is_covered() -> None:
    score = score_digits(_coded([7] * 99 + [1], strength=1.0), FromFirstPixel())
    assert score.coverage == 2


@pytest.mark.parametrize("digits", [list(range(10)) * 3, [5] * 30])
def test_extremes_of_entropy(digits: list[int]) -> None:
    score = score_digits(
        _coded(digits, strength=0.0 if len(set(digits)) == 1 else 9.0), FromFirstPixel()
    )
    if len(set(digits)) == 10:
        assert score.entropy == pytest.approx(math.log(10))
        assert score.coverage == 10
    else:
        # All logits are equal, so the first digit wins with the least confidence there is.
        assert score == DigitScore(pytest.approx(0.1), (30, *[0] * 9), 1, 0.0)


@pytest.fixture(scope="module")
def clock_reader() -> LeNet:
    return train_lenet(*_clock_digits(600, seed=0), epochs=5, batch_size=32)


def test_learns_to_read_a_clock(clock_reader: LeNet) -> None:
    images, labels = _clock_digits(300, seed=1)
    assert digit_accuracy(clock_reader, images, labels) > 0.97
    # Rolled labels are wrong wherever the digits are right.
    assert digit_accuracy(clock_reader, images, (labels + 1) % 10) < 0.03
    score = score_digits(images, clock_reader)
    assert score.coverage == 10
    assert score.mean_confidence > 0.9
    one_digit = score_digits(images[labels == 4], clock_reader)
    assert one_digit.coverage == 1
    assert one_digit.entropy < 0.2


def test_uint8_and_float_images_score_alike(clock_reader: LeNet) -> None:
    images, _ = _clock_digits(50, seed=2)
    assert score_digits(images, clock_reader) == score_digits(
        images.float() / 127.5 - 1, clock_reader
    )


def test_batches_do_not_matter(clock_reader: LeNet) -> None:
    images, _ = _clock_digits(501, seed=3)
    whole, first, last = (
        score_digits(part, clock_reader).class_counts
        for part in (images, images[:500], images[500:])
    )
    assert whole == tuple(a + b for a, b in zip(first, last, strict=True))


def test_training_is_reproducible_and_leaves_the_random_state_alone() -> None:
    images, labels = _clock_digits(64, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train_lenet(images, labels, epochs=1, seed=1)
    assert torch.equal(torch.rand(3), expected)
    again = train_lenet(images, labels, epochs=1, seed=1)
    other = train_lenet(images, labels, epochs=1, seed=2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.classifier[1].weight, other.classifier[1].weight)
    assert not first.training


def test_scoring_is_in_eval_mode_and_restores_the_mode() -> None:
    model = LeNet().train()
    images, labels = _clock_digits(20, seed=0)
    assert score_digits(images, model) == score_digits(images, model)
    digit_accuracy(model, images, labels)
    assert model.training


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28), (4, 1, 32, 32), (4, 784)])
def test_wrong_image_shape(shape: tuple[int, ...]) -> None:
    images, labels, model = torch.zeros(shape), torch.zeros(4, dtype=torch.int64), LeNet()
    for call in (
        lambda: model(images),
        lambda: score_digits(images, FromFirstPixel()),
        lambda: digit_accuracy(model, images, labels),
        lambda: train_lenet(images, labels),
    ):
        with pytest.raises(ValueError, match=r"images must have shape \[N, 1, 28, 28\], got"):
            call()


def test_wrong_image_dtype() -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 or floating point .* torch\.int64"):
        score_digits(torch.zeros(4, 1, 28, 28, dtype=torch.int64), LeNet())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), r"labels must be int64 of shape \[4\]"),
        (torch.zeros(4), r"labels must be int64 of shape \[4\].*got torch\.float32"),
        (torch.tensor([0, 1, 2, 10]), r"labels must lie in 0\.\.9, got 10"),
        (torch.tensor([0, 1, 2, -1]), r"labels must lie in 0\.\.9, got -1"),
    ],
)
def test_wrong_labels(labels: Tensor, message: str) -> None:
    images = torch.zeros(4, 1, 28, 28)
    with pytest.raises(ValueError, match=message):
        train_lenet(images, labels)
    with pytest.raises(ValueError, match=message):
        digit_accuracy(LeNet(), images, labels)


def test_no_images() -> None:
    images, labels = torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="images must not be empty"):
        score_digits(images, LeNet())
    with pytest.raises(ValueError, match="images must not be empty"):
        train_lenet(images, labels)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        train_lenet(*_clock_digits(4, seed=0), **{name: 0})


@pytest.mark.slow
def test_reads_real_digits_and_not_noise() -> None:
    data = load("mnist5k")
    assert data.labels is not None
    held_out, train = torch.randperm(
        len(data), generator=torch.Generator().manual_seed(0)
    ).tensor_split([1000])
    reader = train_lenet(data.images[train], data.labels[train], epochs=6)
    assert digit_accuracy(reader, data.images[held_out], data.labels[held_out]) > 0.97
    real = score_digits(data.images[held_out], reader)
    assert real.coverage == 10
    assert real.entropy > 0.99 * math.log(10)
    rng = torch.Generator().manual_seed(0)
    noise = score_digits(torch.rand(1000, 1, 28, 28, generator=rng) * 2 - 1, reader)
    assert noise.coverage < real.coverage
    assert noise.mean_confidence < real.mean_confidence
