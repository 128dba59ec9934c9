"""Downloads of public data sets, checked by SHA-256, into a cache folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from fastgan.data._checks import check_choice
from fastgan.data.files import expanded

_BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file to download: its name on the mirror and on disk, size in bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Remote:
    """A data set on the network: URLs of folders with equal content, tried in order."""

    mirrors: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    licence: str
    classes: tuple[str, ...]


REMOTES: dict[str, Remote] = {
    "mnist": Remote(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
        classes=tuple("0123456789"),
    ),
    "fashion-mnist": Remote(
        mirrors=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                26421880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                29515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                4422102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                5148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
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
    """Return the folder of all downloads: $FASTGAN_DATA, else fastgan/data in the user's cache.

    The user's cache is $XDG_CACHE_HOME, else ~/.cache. The folder may not exist yet.
    """
    chosen = os.environ.get("FASTGAN_DATA")
    if chosen:
        return expanded(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastgan" / "data"


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
    for file in remote.files:
        path = folder / file.name
        if path.with_suffix("").is_file() or (path.is_file() and _sha256(path) == file.sha256):
            continue
        failures = []
        for mirror in remote.mirrors:
            failure = _download(f"{mirror}/{file.name}", path, file, timeout)
            if failure is None:
                break
            failures.append(f"  {mirror}/{file.name}: {failure}")
        else:
            raise FetchError(_by_hand(name, folder, remote, failures))
    return folder


def _download(url: str, path: Path, file: RemoteFile, timeout: float) -> str | None:
    """Download to a temporary file, check, rename. Return why the mirror failed, or None."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            digest = hashlib.sha256()
            size = 0
            try:
                with urllib.request.urlopen(url, timeout=timeout) as response:
                    # One block too many is enough to know that it is another file.
                    while size <= file.size and (block := response.read(_BLOCK)):
                        size += len(block)
                        digest.update(block)
                        _write(out.fileno(), block)
            except _LocalError as error:
                raise error.cause from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                return f"{type(error).__name__}: {error}"
            if size != file.size:
                return f"expected {file.size} bytes, got {size}{'+' if size > file.size else ''}"
            if digest.hexdigest() != file.sha256:
                return f"SHA-256 is {digest.hexdigest()}, expected {file.sha256}"
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        return None
    finally:
        Path(temporary).unlink(missing_ok=True)


class _LocalError(Exception):
    """A failure of this machine's disk, kept apart from the network's, which are OSError too."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise _LocalError(error) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _by_hand(name: str, folder: Path, remote: Remote, failures: list[str]) -> str:
    names = "\n".join(f"  {folder / file.name}" for file in remote.files)
    return (
        f"could not download {name}:\n" + "\n".join(failures) + "\n"
        f"Put these files there by hand (with .gz, or unpacked without it) and try again:\n{names}"
    )
