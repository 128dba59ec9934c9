"""Score a generator of digits: does a classifier trained on real digits recognise its samples?

    python examples/score_digits.py runs/digits -n 1000

A LeNet is trained on 4,000 of the 5,000 embedded digits. For the 1,000 held-out digits, for samples
of the checkpoint, and for uniform noise it prints the mean confidence, how many of the ten digits
appear (in at least 1 % of the images), the entropy over digits as a share of the largest, ln 10,
and the count of each.
"""

from __future__ import annotations

import argparse
import math
from typing import cast

import torch
from torch import Tensor

from fastgan.data import load
from fastgan.engine import load_generator, sample_images
from fastgan.metrics import digit_accuracy, score_digits, train_lenet

HELD_OUT = 1000


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="a run or checkpoint folder, of 28x28 grey digits")
    parser.add_argument("-n", type=positive, default=1000, help="samples to draw (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples and the classifier (0)")
    args = parser.parse_args()

    try:
        samples = sample_images(load_generator(args.checkpoint), args.n, seed=args.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if samples.shape[1:] != (1, 28, 28):
        parser.error(
            f"{args.checkpoint} draws images of shape {list(samples.shape[1:])}, not digits"
        )
    data = load("mnist5k")
    rng = torch.Generator().manual_seed(args.seed)
    held_out, train = torch.randperm(len(data), generator=rng).tensor_split([HELD_OUT])
    labels = cast(Tensor, data.labels)
    classifier = train_lenet(data.images[train], labels[train], seed=args.seed)
    accuracy = digit_accuracy(classifier, data.images[held_out], labels[held_out])
    print(f"classifier: {accuracy:.1%} right on {HELD_OUT} held-out digits\n")

    noise = torch.rand(args.n, *data.images.shape[1:], generator=rng) * 2 - 1
    rows = {
        "held-out digits": data.images[held_out],
        "samples": samples,
        "uniform noise": noise,
    }
    print(f"{'':16}{'images':>7} {'confidence':>10} {'digits':>6}  {'entropy':>7}  count of each")
    for name, images in rows.items():
        score = score_digits(images, classifier)
        counts = " ".join(f"{count:4d}" for count in score.class_counts)
        print(
            f"{name:16}{len(images):7d} {score.mean_confidence:10.3f} {score.coverage:6d}  "
            f"{score.entropy / math.log(10):7.0%}  {counts}"
        )


if __name__ == "__main__":
    main()
