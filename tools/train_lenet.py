"""Train the LeNet that ships as a feature network, on the 60,000 training digits of MNIST.

    python tools/train_lenet.py            # writes fastgan/metrics/lenet.safetensors

Every number measured in the old network's features changes its meaning when this is run again: the
file is committed, and its digest is printed with each number.
"""

from __future__ import annotations

from typing import cast

from safetensors.torch import save_file
from torch import Tensor

from fastgan.data import load
from fastgan.metrics import digit_accuracy, train_lenet
from fastgan.metrics.pretrained import LENET_FILE


def main() -> None:
    train, test = load("mnist"), load("mnist", split="test")
    model = train_lenet(train.images, cast(Tensor, train.labels), epochs=6, batch_size=128)
    accuracy = digit_accuracy(model, test.images, cast(Tensor, test.labels))
    save_file(model.state_dict(), LENET_FILE)
    print(f"{LENET_FILE}: {accuracy:.2%} of the {len(test)} test digits")


if __name__ == "__main__":
    main()
