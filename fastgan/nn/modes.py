"""Training and evaluation mode of networks, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Within, modes may change; afterwards each module, and each in it, has the one that it had."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Within, a module and all in it are in training or in evaluation mode, whatever their `train`
    does; afterwards each is in the one that it was in."""
    with modes_kept(module):
        for part in module.modules():
            part.training = training
        yield


def output_in_eval(network: nn.Module, *given: Any) -> Any:
    """What a network gives in evaluation mode, or None where it fails."""
    with modes_kept(network):
        network.eval()
        try:
            return network(*given)
        except Exception:
            return None
