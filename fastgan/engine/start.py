"""New runs from weights that were trained before: any networks, and only a part of them trained."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as decode_tensors
from torch import Tensor, nn

from fastgan.engine.checkpoint import (
    CheckpointError,
    find_checkpoint,
    kind_of,
    load_tensors,
    plain_names,
)

_NETWORKS = ("generator", "discriminator")
_LISTED = 6  # names in an error


def init_from(
    path: str | Path,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    *,
    partial: bool = False,
) -> list[str]:
    """Load weights into networks that a new run will train, before the trainer is made.

    Weights alone are taken (of a checkpoint those that were being trained, not their average): the
    new run has its own optimizers, settings and random numbers. Floating-point weights are
    converted to the dtype that a network has.

    Args:
        path: a checkpoint's folder, a run's (its newest checkpoint), or a ``.safetensors`` file:
            the names of one network, or of both behind ``generator.`` and ``discriminator.``.
        generator, discriminator: what to load into; None leaves one out.
        partial: names that only one side has are left alone, and told of; shapes must still agree.

    Returns:
        What was left alone, a line a network.

    Raises:
        FileNotFoundError: nothing stands at ``path``.
        CheckpointError: a torn checkpoint, no safetensors file, or weights of another architecture,
            with what is missing, what is unexpected and which shapes differ. Nothing is loaded.
    """
    path = Path(path)
    given = zip(_NETWORKS, (generator, discriminator), strict=True)
    networks = {name: module for name, module in given if module is not None}
    found = _weights_of(path, networks)
    notes, fitting = [], {}
    for name, tensors in found.items():
        own = plain_names(networks[name].state_dict())
        fitting[name], note = _fitting(tensors, own, f"{path}: the {name}", partial)
        notes += note
    for name, tensors in fitting.items():
        load_tensors(networks[name], tensors)
    return notes


def freeze_first(module: nn.Module, layers: int) -> None:
    """The first ``layers`` layers of ``module`` are not trained (FreezeD, Mo et al. 2020,
    arXiv:2002.10964).

    A layer is a module that itself holds a weight of two dimensions or more, in the order in which
    they were made, with what follows it up to the next one (its norm, say). A frozen norm's running
    statistics still move.

    Raises:
        ValueError: ``module`` has no more layers than that.
    """
    frozen: list[nn.Parameter] = []
    begun = 0
    for inner in module.modules():
        own = list(inner.parameters(recurse=False))
        begun += any(p.dim() > 1 for p in own)
        if begun > layers:
            break
        frozen += own
    else:
        raise ValueError(
            f"freeze_d must leave a layer to train: {type(module).__name__} has {begun} layers "
            f"with weights, got {layers}"
        )
    for parameter in frozen:
        parameter.requires_grad_(False)


def _weights_of(path: Path, networks: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """What ``path`` holds for each of the networks."""
    if path.is_file():
        return _of_file(path, networks)
    checkpoint = find_checkpoint(path)
    held = [n for n in networks if f"{n}.safetensors" in checkpoint.manifest["files"]]
    found = {name: plain_names(checkpoint.tensors(name)) for name in held}
    # A run without a discriminator has an empty one.
    return _some({name: tensors for name, tensors in found.items() if tensors}, path, networks)


def _of_file(path: Path, networks: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    try:
        tensors = plain_names(decode_tensors(path.read_bytes()))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    if all(name.startswith("module.") for name in tensors):  # of DistributedDataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    if all(name.partition(".")[0] in _NETWORKS for name in tensors):
        found: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            network, _, rest = name.partition(".")
            if network in networks:
                found.setdefault(network, {})[rest] = value
        return _some(found, path, networks)
    # One network's own names: it is the one that has most of them, in these shapes.
    shared = {name: _shared(tensors, module) for name, module in networks.items()}
    best = max(shared, key=lambda name: shared[name])
    if len(shared) > 1 and len(set(shared.values())) == 1:
        raise CheckpointError(
            f"{path} fits the generator as well as the discriminator ({shared[best]} weights of "
            "each): name one of them (init_networks)"
        )
    return {best: tensors}


def _some(
    found: dict[str, dict[str, Tensor]], path: Path, networks: dict[str, nn.Module]
) -> dict[str, dict[str, Tensor]]:
    if not found:
        raise CheckpointError(f"{path} holds no {' and no '.join(networks)}")
    return found


def _shared(tensors: dict[str, Tensor], module: nn.Module) -> int:
    own = plain_names(module.state_dict())
    return sum(tensors[n].shape == own[n].shape for n in tensors.keys() & own.keys())


def _fitting(
    saved: dict[str, Tensor], own: dict[str, Tensor], what: str, partial: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """All that a network's state is to be, and what was left alone."""
    common = saved.keys() & own.keys()
    missing, unexpected = sorted(own.keys() - common), sorted(saved.keys() - common)
    other = [
        f"{n}: {kind_of(saved[n])} there, {kind_of(own[n])} here"
        for n in sorted(common)
        if saved[n].shape != own[n].shape
        or saved[n].is_floating_point() != own[n].is_floating_point()
    ]
    lists = {"missing": missing, "unexpected": unexpected}
    told = [f"{kind} {_listed(names)}" for kind, names in lists.items() if names]
    if other or not common or (told and not partial):
        told += [f"other shapes: {_listed(other)}"] if other else []
        hint = "" if other or not common else " (init_partial takes what fits)"
        raise CheckpointError(f"{what} is of another architecture: {'; '.join(told)}{hint}")
    notes = [f"{what} is taken in part: {'; '.join(told)}"] if told else []
    return own | {n: saved[n] for n in common}, notes


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
