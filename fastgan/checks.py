"""Checks of arguments that every room shares, with errors that name the argument."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, overload

_Kind = TypeVar("_Kind")


def check_int(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return `value` if it is an int of at least `minimum` and at most `maximum`.

    Raises:
        TypeError: not an int (bool counts as a mistake, not as a number).
        ValueError: too small or too large.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")
    return value


def check_classes(labels: Any, classes: int) -> None:
    """ValueError, which names the first that is wrong, unless int labels are of so many classes."""
    if len(bad := labels[(labels < 0) | (labels >= classes)]):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {int(bad[0])}")


def imported(what: str, name: str) -> Any:
    """What ``package.module:attribute`` is; modules of the current folder are found, too.

    ValueError, which names ``what`` it is for, where it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what} {name!r} cannot be imported, as package.module:attribute: {error}"
        ) from error
    finally:
        sys.path.remove(here)


def imported_as(what: str, name: str, kind: type[_Kind]) -> _Kind:
    """The object of a class that ``package.module:attribute`` is, or makes when it is called.

    ValueError as of `imported`, and for an object of another class.
    """
    found = imported(what, name)
    made = found if isinstance(found, kind) else found()
    if not isinstance(made, kind):
        raise ValueError(f"{name} must be a {kind.__name__} or make one, got {type(made).__name__}")
    return made


def needed(module: str, *, by: str, extra: str) -> Any:
    """The module that `by` needs; ModuleNotFoundError with what to install if it has none.

    torch-fidelity imports torchvision, and torchmetrics imports both where they are installed. A
    torchvision beside a torch that it was not built for fails with a RuntimeError: no metric can be
    had then, in whatever network's features.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ModuleNotFoundError(
            f"{by} needs {package}: pip install 'fastgan[{extra}]' ({error})"
        ) from error
    except RuntimeError as error:
        import torch

        raise ModuleNotFoundError(
            f"{by} needs {module}, whose import fails ({error}): torchvision must be the one that "
            f"was built for torch {torch.__version__}; install it from where that torch came from"
        ) from error


def check_share(name: str, value: float, interval: str = "[0, 1)") -> float:
    """Return `value` if it lies in `interval`, 0 to 1 with or without its ends.

    Raises:
        ValueError: outside it.
    """
    least, most = interval[0] == "[", interval[-1] == "]"
    if not (0 < value < 1 or (least and value == 0) or (most and value == 1)):
        raise ValueError(f"{name} must lie in {interval}, got {value!r}")
    return value


@overload
def sides(image_size: int | tuple[int, int]) -> tuple[int, int]: ...
@overload
def sides(image_size: int | Sequence[int]) -> tuple[int, ...]: ...
def sides(image_size: int | Sequence[int]) -> tuple[int, ...]:
    """Height and width of an image size: one number for a square, or (height, width). The sides of
    what is no image are themselves: (length,) or (depth, height, width)."""
    return (image_size, image_size) if isinstance(image_size, int) else (*image_size,)


def check_size(
    name: str,
    value: object,
    minimum: int = 1,
    maximum: int | None = None,
    dims: Sequence[int] = (2,),
) -> int | tuple[int, ...]:
    """`value` as an image size: an int for a square, else (height, width), or as many sides as
    `dims` allows.

    Raises:
        TypeError: neither an int nor so many of them.
        ValueError: a side that is too small or too large.
    """
    if not isinstance(value, (list, tuple)):
        return check_int(name, value, minimum, maximum)
    if len(value) not in dims:
        raise TypeError(f"{name} must be an int or (height, width), got {value!r}")
    found = tuple(check_int(name, side, minimum, maximum) for side in value)
    return found[0] if len(found) == 2 and found[0] == found[1] else found


def parse_size(name: str, text: str) -> int | tuple[int, ...]:
    """The image size of "96x160" (height x width) or "64"; ValueError for anything else."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"{name} must be a number or HEIGHTxWIDTH, such as 96x160, got {text!r}")
    return check_size(name, [int(part) for part in parts] if len(parts) == 2 else int(text))


def check_module(name: str, value: object) -> None:
    """Raise TypeError if `value` is no `torch.nn.Module`."""
    from torch import nn

    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: expected an nn.Module, got {type(value).__name__}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError, with the nearest spelling, if `value` is not one of `choices`."""
    known = list(choices)
    if value in known:
        return
    raise ValueError(
        f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}"
        f"{did_you_mean(value, known)}"
    )


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)`, or nothing when no known name is near `value`."""
    near = _near(value, known, 1)
    return f" (did you mean {near}?)" if near else ""


def paths_beside(path: Path) -> list[Path]:
    """What stands in the folder that a path that is not there would be in; nothing hidden."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return [other for other in beside if not other.name.startswith(".")]


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if something of its kind has it; else the error of `unknown`."""
    if name not in (names := list(known)):
        raise unknown(kind, name, names)
    return name


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that no thing of its kind has: with near names, or all there are."""
    names = list(known)
    near = _near(name, names, 3)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(names)}"
    return ValueError(f"unknown {kind} {name!r}; {hint}")


def _near(value: object, known: Iterable[str], most: int) -> str:
    near = difflib.get_close_matches(str(value).lower(), list(known), n=most)
    return " or ".join(map(repr, near))
