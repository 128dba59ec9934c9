"""Feature networks out of timm and torchvision, with the preprocessing of their own configuration.

Images are brought to the network's size as a whole: nothing is cropped, as published distances have
it, whatever a library does to classify.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode
from torch import Tensor, nn

from fastgan.checks import did_you_mean, needed
from fastgan.metrics.features import FeatureNetwork

_EXTRA = "features"


def timm_network(name: str, weights: Path | None = None) -> FeatureNetwork:
    """A model of timm by its name, such as ``vit_small_patch14_dinov2.lvd142m``: what it gives to
    its classifier, and the classes where it has some.

    Args:
        weights: a file of its own weights, in place of a download; see `read_weights`.

    Raises:
        ValueError: no such model, an input that is no square, or a file of other weights.
        FileNotFoundError: `weights` is not there.
        ModuleNotFoundError: timm is missing.
        OSError: weights that are neither here nor to be had.
    """
    full = f"timm:{name}"
    timm = needed("timm", by=full, extra=_EXTRA)
    if not timm.is_model(name):
        plain = name.partition(".")[0]
        raise ValueError(f"there is no model {name!r} in timm{did_you_mean(plain, _models(timm))}")
    model = _made(full, weights, lambda own: timm.create_model(name, pretrained=own))
    config = needed("timm.data", by=full, extra=_EXTRA).resolve_data_config(model=model)
    channels, *sides = config["input_size"]
    return _network(
        full, _TimmOutputs(model), channels, sides,
        {name: config[name] for name in ("interpolation", "mean", "std")},
        classes=model.num_classes > 0,
    )  # fmt: skip


def torchvision_network(name: str, weights: Path | None = None) -> FeatureNetwork:
    """A classifier of torchvision by its name, ``resnet18`` or with the name of its weights,
    ``resnet50.IMAGENET1K_V2``: what its last dense layer is given, and the classes.

    Args and Raises as of `timm_network`; ValueError also for a model without a dense layer.
    """
    full = f"torchvision:{name}"
    models = needed("torchvision.models", by=full, extra=_EXTRA)
    plain, _, which = name.partition(".")
    known = models.list_models(module=models)
    if plain not in known:
        raise ValueError(f"there is no model {name!r} in torchvision{did_you_mean(plain, known)}")
    entries = models.get_model_weights(plain)
    if which and which not in entries.__members__:
        raise ValueError(
            f"torchvision's {plain} has no weights {which!r}: there are "
            f"{', '.join(entries.__members__)}"
        )
    entry = entries[which] if which else entries.DEFAULT
    model = _made(
        full, weights, lambda own: models.get_model(plain, weights=entry if own else None)
    )
    config = entry.transforms()
    (size,) = config.crop_size
    settings = {name: getattr(config, name) for name in ("mean", "std")}
    settings["interpolation"] = config.interpolation.value
    return _network(full, _LastDense(full, model), 3, (size, size), settings, classes=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that torch.save wrote; no code of it is run.

    FileNotFoundError, or ValueError for a file that holds no such tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return decode(path.read_bytes())
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's, torch's: whatever a file of other content gives
        kind = "as safetensors" if isinstance(error, SafetensorError) else "as a file of torch.save"
        raise ValueError(f"weights: {path} cannot be read {kind}: {error}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not (isinstance(found, dict) and all(isinstance(v, Tensor) for v in found.values())):
        raise ValueError(f"weights: {path} must hold tensors by their names")
    return found


def _models(timm: Any) -> list[str]:
    return [entry.partition(".")[0] for entry in timm.list_models()]


def _made(full: str, weights: Path | None, make: Callable[[bool], Any]) -> Any:
    """The model with its own weights (``make(True)``), or without and then with those of a file."""
    if weights is None:
        try:
            return make(True)
        except Exception as error:  # of the network, of the hub, of torch
            raise OSError(
                f"the weights of {full} are not here and could not be fetched ({error}). Fetch "
                "them where there is a network and give them as --feature-weights, or choose "
                "another network with --features"
            ) from error
    tensors, model = read_weights(weights), make(False)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"weights: {weights} is of another model than {full}: {error}") from error
    return model


def _network(
    full: str,
    outputs: nn.Module,
    channels: int,
    sides: Sequence[int],
    settings: Mapping[str, Any],
    *,
    classes: bool,
) -> FeatureNetwork:
    if sides[0] != sides[1]:
        raise ValueError(f"{full} takes images of {sides[0]}x{sides[1]}: squares alone are resized")
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    facts = {"mean": " ".join(map(str, mean)), "std": " ".join(map(str, std))}
    # Others, such as Lanczos's, are not torch's; what stands in is printed with each number.
    mode = "bilinear" if settings["interpolation"] == "bilinear" else "bicubic"
    module = Standardized(outputs, mean, std)
    return FeatureNetwork(
        full, module, channels, sides[0], classes, interpolation=mode, facts=facts
    )


class Standardized(nn.Module):
    """Gives a module images in [-1, 1] as it was trained with them: those in [0, 1] less their
    mean, over their deviation, a number a channel.
    """

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = module
        self.mean: Tensor
        self.std: Tensor
        # No weights: what is digested as such is the library's alone.
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        return self.module(((images + 1) / 2 - self.mean) / self.std)


class _TimmOutputs(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        maps = self.model.forward_features(images)
        features = self.model.forward_head(maps, pre_logits=True)
        return features, self.model.forward_head(maps) if self.model.num_classes else None


class _LastDense(nn.Module):
    """What the last dense layer of a classifier is given, and its logits."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ValueError(
                f"{name} has no dense layer, whose input would be the features: make a "
                "FeatureNetwork of it (package.module:attribute)"
            )
        self._given: Tensor | None = None
        layers[-1].register_forward_pre_hook(self._take)

    def _take(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._given = given[0]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        features, self._given = self._given, None
        assert features is not None
        return features.flatten(1), logits
