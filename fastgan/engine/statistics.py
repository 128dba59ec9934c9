"""What a generator's batch norms normalise by when it draws samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastgan.checks import check_int
from fastgan.engine.latents import draw_noise
from fastgan.engine.sampling import fitting_labels, images_of


@contextmanager
def batch_statistics(generator: nn.Module) -> Iterator[None]:
    """Batch norms take the statistics of the batch at hand; running ones stay as they are.

    An image then depends on the others of its batch. Other layers, dropout say, stay as they are.

    Raises:
        ValueError: ``generator`` has no batch norm.
    """
    norms = _batch_norms(generator)
    before = [(n.training, {k: b.clone() for k, b in n.named_buffers()}) for n in norms]
    try:
        for norm in norms:
            norm.train()
        yield
    finally:
        for norm, (training, buffers) in zip(norms, before, strict=True):
            norm.train(training)
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)


def standing_statistics(
    generator: nn.Module,
    *,
    batches: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    labels: Tensor | None = None,
) -> nn.Module:
    """Sets running statistics to the averages over fresh batches, and returns ``generator``.

    Those of a moving average of weights, or of the last updates of training, are of other weights
    than the ones that draw; these are of the right ones (Brock et al. 2019, arXiv:1809.11096,
    appendix D). Training and evaluation mode stay as they are.

    Args:
        labels: int64 ``[batches * batch_size]``; by default all classes in turn.

    Raises:
        ValueError: ``generator`` has no batch norm that tracks statistics, or an argument is out of
            range.
    """
    for name, value in (("batches", batches), ("batch_size", batch_size)):
        check_int(name, value, 1)
    norms = [norm for norm in _batch_norms(generator) if norm.track_running_stats]
    if not norms:
        raise ValueError(f"statistics: no batch norm of {type(generator).__name__} tracks any")
    count = batches * batch_size
    labels = fitting_labels(generator, count, labels)
    before = [(norm.training, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average of all batches
            norm.train()
        images_of(generator, draw_noise(generator, count, seed), labels, batch_size)
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.train(training)
            norm.momentum = momentum
    return generator


def _batch_norms(generator: nn.Module) -> list[_BatchNorm]:
    norms = [module for module in generator.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise ValueError(f"statistics: {type(generator).__name__} has no batch norm")
    return norms
