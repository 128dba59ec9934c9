"""The input of a generator."""

from __future__ import annotations

from torch import Tensor, fx


def latent_vectors(z: Tensor, size: int) -> Tensor:
    """z (N, size) or (N, size, 1, 1) as (N, size); ValueError for another shape.

    One operation of a traced graph, which then checks as well.
    """
    if isinstance(z, fx.Proxy):
        found: Tensor = z.tracer.create_proxy("call_function", latent_vectors, (z, size), {})
        return found
    shape = tuple(z.shape)
    if shape[1:] not in ((size,), (size, 1, 1)):
        raise ValueError(f"z must have shape [N, {size}] or [N, {size}, 1, 1], got {list(shape)}")
    return z.flatten(1)
