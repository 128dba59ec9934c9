"""What every room may use: environment variables, JSON, files read and written whole, progress."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON by its standard (RFC 8259), which has no NaN and no infinity: they become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def whole_number(variable: str, default: int | None = None, minimum: int = 0) -> int:
    """The number that an environment variable holds; ``default`` where it is not set.

    Raises:
        ValueError: it is not set and there is no default, is no whole number, or is too small. The
            message names the variable.
    """
    text = os.environ.get(variable)
    if text is None:
        if default is None:
            raise ValueError(f"the environment variable {variable} is not set")
        return default
    # int() would also take "1_0", and digits of other scripts.
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(
            f"the environment variable {variable} must be a whole number, got {text!r}"
        )
    value = int(text)
    if value < minimum:
        raise ValueError(
            f"the environment variable {variable} must be at least {minimum}, got {value}"
        )
    return value


def user_cache() -> Path:
    """fastgan/ in the user's cache: $XDG_CACHE_HOME, else ~/.cache. It may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastgan"


def partial_name(name: str) -> str:
    """Under which :func:`whole_file` writes the file ``name`` until it is whole."""
    return f".{name}.partial"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which stands at ``path`` once all of it is on the disk, or not at all.

    It is written beside and renamed: what stood there before is whole until then. Missing folders
    are made.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        check_writable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        # Before the folder stands there is nothing to remove, and asking may fail again.
        if path.parent.is_dir():
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def check_writable(path: Path) -> None:
    """Raises OSError, naming what is in the way, where ``path`` is no place for a file."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file", str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Raises OSError, naming what is in the way, where files cannot be made in ``path``.

    A folder that does not stand yet will be made in the one above it that does.
    """
    above = path.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, expected a folder", str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write into the folder", str(above))


Progress = Callable[[str, int, int], None]
_listener: Progress | None = None


def tell(what: str, done: int, total: int) -> None:
    """Tells who listens, if anybody does, how far something is that may take long."""
    if _listener is not None:
        _listener(what, done, total)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Inside, who listens is told twice a second that something goes on whose end is not known: the
    seconds that it has taken, of a total of 0."""
    if _listener is None:
        yield
        return
    began, ended = time.monotonic(), threading.Event()

    def beat() -> None:
        while not ended.wait(0.5):
            tell(what, round(time.monotonic() - began), 0)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        tell(what, 1, 1)


def how_far(done: int, total: int) -> str:
    """As a person reads what `tell` says: of a total of 0, seconds."""
    return f"{done}/{total}" if total else f"{done} s"


@contextmanager
def listening(listener: Progress) -> Iterator[None]:
    """Inside, ``listener`` is told of progress, and nobody else."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its type where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warns of a name that goes with the next release, by default the caller's caller."""
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=stacklevel)
