"""Small convolutions for the products by TMA in Triton's interpreter."""

from __future__ import annotations

from typing import Any

from conv_case import Shape


def shape_of(
    transposed: bool, size: tuple[int, ...], k: int, s: int, p: int, *, extra: int = 0,
    images: int = 2, channels: tuple[int, int] = (16, 32),
) -> Shape:  # fmt: skip
    dims = len(size)
    lists = ([n] * dims for n in (k, s, p, extra))
    return (transposed, (images, channels[0], *size), channels[1], *lists)


# Each runs both products, one forward and one as its data gradient: so kinds take turns.
SHAPES = {
    "k4 s2 p1": (False, (4, 4), 4, 2, 1),
    "k4 s2 p1 transposed": (True, (3, 2), 4, 2, 1),
    "k4 s2 p1, odd": (False, (5, 3), 4, 2, 1),
    "k3 s1 p1": (False, (3, 5), 3, 1, 1),
    "k5 s2 p2": (False, (4, 5), 5, 2, 2),
    "k4 s1": (True, (2, 1), 4, 1, 0),
    "k8 s4 p2, 1-D": (False, (8,), 8, 4, 2),
}


def refused(*args: Any, **kwargs: Any) -> Any:
    """In the place of a launcher."""
    raise AssertionError("not to be launched")
