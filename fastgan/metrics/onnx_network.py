"""Feature networks out of ONNX files, run by onnxruntime."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import needed
from fastgan.metrics.features import FeatureNetwork
from fastgan.metrics.libraries import Standardized

_EXTRA = "features"
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_BYTES = "tensor(uint8)"
_MODES = ("bilinear", "bicubic")


def onnx_network(name: str) -> FeatureNetwork:
    """The network of ``path.onnx#output``, or of ``path.onnx`` where it has one output alone.

    Its one input is images [N, C, H, W], squares or of any size: float in [-1, 1], or uint8. In the
    file's metadata may stand, as JSON, ``mean`` and ``std``, numbers a channel: the input is then
    images in [0, 1] less the one, over the other; and ``interpolation``, ``"bilinear"`` (the
    default) or ``"bicubic"``. The network's digest is the SHA-256 of the file, and of the files of
    tensors that it names.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: no such output, several inputs, metadata that are something else, no ONNX.
        ModuleNotFoundError: onnxruntime or onnx is missing.
    """
    file, _, output = name.partition("#")
    path, full = Path(file), f"onnx:{name}"
    runtime, onnx = (needed(p, by=full, extra=_EXTRA) for p in ("onnxruntime", "onnx"))
    if not path.is_file():
        raise FileNotFoundError(f"features: there is no file {path}")
    try:
        digest = _digest(onnx, path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # protobuf's, onnxruntime's
        raise ValueError(f"features: {path} is no ONNX model that runs: {error}") from error
    given = session.get_inputs()
    names = [found.name for found in session.get_outputs()]
    output = output or (names[0] if len(names) == 1 else "")
    if output not in names:
        raise ValueError(
            f"features: {path} must be given with one of its outputs, {file}#"
            f"{f', {file}#'.join(names)}; got {name}"
        )
    channels, size = _input(path, given)
    settings = _metadata(path, session.get_modelmeta().custom_metadata_map, channels)
    module: nn.Module = _Session(session, given[0], output)
    facts = {"output": output}
    if "mean" in settings:
        if given[0].type == _BYTES:
            raise ValueError(f"features: {path} takes uint8 as it is: mean and std are of floats")
        module = Standardized(module, settings["mean"], settings["std"])
        facts |= {k: " ".join(map(str, settings[k])) for k in ("mean", "std")}
    return FeatureNetwork(
        f"onnx:{path.name}", module, channels, size, classes=False,
        own_resize="none", interpolation=settings["interpolation"], facts=facts, digest=digest,
    )  # fmt: skip


class _Session(nn.Module):
    """One output of a session, [N, D]; a file that was made for so many images is given so many."""

    def __init__(self, session: Any, given: Any, output: str) -> None:
        super().__init__()
        self._session, self._given, self._output = session, given, output
        self._at_once = given.shape[0] if isinstance(given.shape[0], int) else 0

    def forward(self, images: Tensor) -> Tensor:
        if self._given.type == _BYTES:
            images = ((images + 1) * 127.5).round().to(torch.uint8)
        parts = images.split(self._at_once or len(images))
        found = torch.cat([self._run(part)[: len(part)] for part in parts])
        # Pooled maps are vectors.
        return found.flatten(1) if found.shape[2:].numel() == 1 else found

    def _run(self, images: Tensor) -> Tensor:
        missing = self._at_once - len(images)
        if self._at_once and missing:
            images = F.pad(images, [0] * 7 + [missing])
        values = images.cpu().numpy().astype(_FLOATS.get(self._given.type, np.uint8))
        (found,) = self._session.run([self._output], {self._given.name: values})
        return torch.from_numpy(found).float()


def _input(path: Path, given: list[Any]) -> tuple[int, int]:
    """Channels and side of the input; 0 is any side."""
    shapes = [(found.type, found.shape) for found in given]
    expected = f"features: {path} must take images [N, C, H, W] alone, float or uint8, got {shapes}"
    if len(given) != 1 or given[0].type not in (*_FLOATS, _BYTES) or len(given[0].shape) != 4:
        raise ValueError(expected)
    _, channels, *sides = given[0].shape
    if not isinstance(channels, int):
        raise ValueError(f"{expected}: the number of channels must be known")
    if not any(isinstance(side, int) for side in sides):
        return channels, 0
    if sides[0] != sides[1]:
        raise ValueError(f"{expected}: squares, or of any size")
    return channels, sides[0]


def _metadata(path: Path, stored: dict[str, str], channels: int) -> dict[str, Any]:
    """Mean, deviation and interpolation, as far as they stand there."""
    found: dict[str, Any] = {"interpolation": "bilinear"}
    for name in ("mean", "std", "interpolation"):
        if name in stored:
            try:
                found[name] = json.loads(stored[name])
            except ValueError:
                found[name] = stored[name]
    if found["interpolation"] not in _MODES:
        raise ValueError(
            f"features: interpolation in the metadata of {path} must be "
            f"{' or '.join(_MODES)}, got {found['interpolation']!r}"
        )
    if found.keys() == {"interpolation"}:
        return found
    for name in ("mean", "std"):
        values = found.get(name)
        given = values if isinstance(values, list) else []
        right = [_is_number(v) and (name == "mean" or v > 0) for v in given]
        if len(right) != channels or not all(right):
            raise ValueError(
                f"features: {name} in the metadata of {path} must be {channels} numbers, as JSON"
                f"{'' if name == 'mean' else ', above 0'}, got {values!r}"
            )
    return found


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)


def _digest(onnx: Any, path: Path) -> str:
    """The SHA-256 of the file, or of it and of all files that its tensors lie in."""
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    model = onnx.load_model_from_string(content)
    beside = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(beside):
        digest.update((path.parent / name).read_bytes())
    return digest.hexdigest()
