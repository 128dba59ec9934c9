"""Make fastgan/data/embedded/mnist5k.npz from the MNIST training files.

Usage: python tools/make_mnist_subset.py FOLDER_WITH_IDX_FILES [--out FILE]

FOLDER holds train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastgan.data.idx import find_idx, read_idx

PER_CLASS = 500
OUT = Path(__file__).parents[1] / "fastgan/data/embedded/mnist5k.npz"

# SHA-256 of the values of MNIST's training files, without the IDX headers.
IMAGES_SHA256 = "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"
LABELS_SHA256 = "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"


def first_of_each_class(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Return the indices, ascending, of the first `count` labels of every class.

    Raises:
        ValueError: a class has fewer.
    """
    chosen = []
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)[:count]
        if len(indices) < count:
            raise ValueError(f"class {label} has {len(indices)} labels, {count} are needed")
        chosen.append(indices)
    return np.sort(np.concatenate(chosen))


def check(name: str, array: NDArray[np.uint8], sha256: str) -> None:
    found = hashlib.sha256(array.tobytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{name}: not MNIST's training file: SHA-256 {found}, expected {sha256}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder with MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()

    images_path = find_idx(arguments.folder, "train")
    if images_path is None:
        raise SystemExit(f"{arguments.folder}: no train-images-idx3-ubyte")
    labels_name = images_path.name.replace("images", "labels").replace("idx3", "idx1")
    images, labels = read_idx(images_path), read_idx(images_path.with_name(labels_name))
    check(images_path.name, images, IMAGES_SHA256)
    check(labels_name, labels, LABELS_SHA256)

    chosen = first_of_each_class(labels, PER_CLASS)
    np.savez_compressed(arguments.out, images=images[chosen], labels=labels[chosen])
    print(f"{arguments.out}: {len(chosen)} images, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
