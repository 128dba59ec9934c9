"""Packages that are not fastgan's own requirements, and what to do where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch


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
        raise ModuleNotFoundError(
            f"{by} needs {module}, whose import fails ({error}): torchvision must be the one that "
            f"was built for torch {torch.__version__}; install it from where that torch came from"
        ) from error
