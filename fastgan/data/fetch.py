"""Downloads of public data sets, checked by SHA-256, into a cache folder."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch

from fastgan.checks import check_choice
from fastgan.data.files import expanded
from fastgan.system import user_cache


@dataclass(frozen=True)
class Remote:
    """A data set on the network.

    Attributes:
        mirrors: URLs of folders with equal content, tried in order.
        files: the SHA-256 of each file, by its name on the mirrors and on disk.
        classes: the names of the labels, in their order.
    """

    mirrors: tuple[str, ...]
    files: dict[str, str]
    licence: str
    classes: tuple[str, ...]


def _idx(*sha256: str) -> dict[str, str]:
    parts = [
        (split, part) for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")
    ]
    names = (f"{split}-{part}-ubyte.gz" for split, part in parts)
    return dict(zip(names, sha256, strict=True))


REMOTES: dict[str, Remote] = {
    "mnist": Remote(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        files=_idx(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
        classes=tuple("0123456789"),
    ),
    "fashion-mnist": Remote(
        mirrors=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        files=_idx(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        licence="MIT, Zalando SE",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
}


class FetchError(OSError):
    """No mirror gave the file; the message says where to put it by hand."""


def cache_root() -> Path:
    """The folder of all downloads: $FASTGAN_DATA, else data in the user's cache."""
    chosen = os.environ.get("FASTGAN_DATA")
    return expanded(chosen) if chosen else user_cache() / "data"


def fetch(name: str, root: str | os.PathLike[str] | None = None, *, timeout: float = 30.0) -> Path:
    """Download a data set, or what is missing of it, and return its folder, `root`/`name`.

    A file that is there already and has the right SHA-256, or stands there unpacked (without
    `.gz`), is kept. A file appears under its name only when it is complete and checked.

    Args:
        name: "mnist" or "fashion-mnist".
        root: the folder for all sets; None is `cache_root()`.
        timeout: seconds without an answer after which a mirror is given up.

    Raises:
        ValueError: an unknown name.
        FetchError: no mirror could be reached, or none has the right content.
        OSError: the folder cannot be written.
    """
    check_choice("name", name, REMOTES)
    remote = REMOTES[name]
    folder = (expanded(root) if root is not None else cache_root()) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror}; choose another folder with root or $FASTGAN_DATA"
        raise type(error)(error.errno, reason, str(folder)) from error
    for file, sha256 in remote.files.items():
        path = folder / file
        if path.with_suffix("").is_file() or (path.is_file() and _sha256(path) == sha256):
            continue
        failures = []
        for mirror in remote.mirrors:
            failure = _download(f"{mirror}/{file}", path, sha256, timeout)
            if failure is None:
                break
            failures.append(f"  {mirror}/{file}: {failure}")
        else:
            raise FetchError(_by_hand(name, folder, remote, failures))
    return folder


def _download(url: str, path: Path, sha256: str, timeout: float) -> str | None:
    """Download, check, then rename. Return why the mirror failed, or None."""
    try:
        with _timeout(timeout):
            torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Of sockets that are made meanwhile: the download takes none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _by_hand(name: str, folder: Path, remote: Remote, failures: list[str]) -> str:
    names = "\n".join(f"  {folder / file}" for file in remote.files)
    return (
        f"could not download {name}:\n" + "\n".join(failures) + "\n"
        f"Put these files there by hand (with .gz, or unpacked without it) and try again:\n{names}"
    )
