"""Generators as Hugging Face models: `save_pretrained`, `from_pretrained`, `push_to_hub`.

A module by itself, because it needs huggingface_hub: pip install 'fastgan[hub]'.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor, nn

from fastgan.engine.checkpoint import CheckpointError, find_checkpoint, load_module
from fastgan.engine.sampling import load_generator
from fastgan.models import create_model

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:
    raise ModuleNotFoundError(
        "fastgan.engine.hub needs huggingface_hub: pip install 'fastgan[hub]'"
    ) from error


class HubGenerator(  # type: ignore[call-arg, unused-ignore]
    nn.Module, PyTorchModelHubMixin, library_name="fastgan", tags=["gan", "image-generation"]
):
    """A registered generator that knows how it was built, and so can be saved and built again.

    >>> HubGenerator.from_checkpoint("runs/digits").save_pretrained("digits")
    >>> generator = HubGenerator.from_pretrained("digits")      # a folder, or "user/name"
    >>> fastgan.engine.sample_images(generator, 64)

    ``config.json`` holds what ``create_model`` needs, ``model.safetensors`` the generator's
    state_dict under its own names.

    Args:
        name, arguments: of ``create_model``; arguments must be JSON.

    Raises:
        ValueError, TypeError: there is no such model, or it cannot be built so.
    """

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        try:
            json.dumps(arguments)
        except TypeError as error:
            raise TypeError(f"arguments must be JSON to be saved: {error}") from error
        # huggingface_hub saves what stands under this name in place of the model around it.
        self.module = create_model(name, **arguments)
        for attribute in ("latent_dim", "image_size", "channels", "num_classes"):
            setattr(self, attribute, getattr(self.module, attribute, 0))

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, weights: Literal["ema", "raw"] = "ema"
    ) -> HubGenerator:
        """The generator of a run or a checkpoint, as ``load_generator`` finds it.

        Raises:
            FileNotFoundError, CheckpointError: there is none, or it is torn or describes no model.
        """
        spec = find_checkpoint(Path(path)).manifest.get("generator")
        if not (isinstance(spec, dict) and spec.keys() >= {"name", "arguments"}):
            raise CheckpointError(f"{path} does not describe a generator that is registered")
        model = cls(spec["name"], spec["arguments"])
        load_generator(path, weights=weights, generator=model.module)
        return model.eval()

    def forward(self, noise: Tensor, *labels: Tensor) -> Tensor:
        return self.module(noise, *labels)

    @classmethod
    def _load_as_safetensor(  # type: ignore[override, unused-ignore]
        cls, model: HubGenerator, model_file: str, map_location: str, strict: bool
    ) -> HubGenerator:
        load_module(model.module, load_file(model_file, device=map_location), "generator")
        return model.eval()
