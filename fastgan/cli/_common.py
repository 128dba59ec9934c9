"""What the commands share."""

from __future__ import annotations

from typing import Any, TypeVar

import tyro

from fastgan.checks import check_int
from fastgan.cli._help import REGISTRY
from fastgan.engine.config import MAX_SEED
from fastgan.engine.launch import read_launch

T = TypeVar("T")


def parse(kind: type[T], arguments: list[str], *, prog: str, default: Any = None) -> T:
    """A command's flags as the dataclass ``kind``; help and mistakes end the process."""
    settings: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        kind,
        prog=prog,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        registry=REGISTRY,
        **settings,
    )


def is_first() -> bool:
    """Whether this process speaks for all: the first, the only one, or one that knows no others."""
    try:
        launch = read_launch()
    except ValueError:
        return True
    return launch is None or launch.rank == 0


def wants_help(arguments: list[str]) -> bool:
    """Whether a command without flags is asked for its help."""
    return arguments in (["-h"], ["--help"])


def no_more(command: str, arguments: list[str]) -> None:
    """Refuse arguments of a command that has none."""
    if arguments:
        raise ValueError(f"fastgan {command} takes no arguments, got {' '.join(arguments)}")


def check_seed(seed: int) -> None:
    """ValueError for a seed that torch's generators do not take."""
    check_int("seed", seed, 0, MAX_SEED)
