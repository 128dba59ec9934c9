"""Writing a model to a file that runs, or loads, without fastgan."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.fusion.folding import fold_norms
from fastgan.nn.sequential import unfused

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
_ONNX = ("onnx", "onnxscript")


def export(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    path: str | Path,
    format: str = "onnx",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes the inference model of `model` to `path` and returns that.

    format: "onnx" and "torch-export" write what `fold` makes, of PyTorch's own operators alone, for
    any batch size (the first dimension of each of `example_inputs`, at least 2 there);
    "safetensors" writes the weights of `model` itself, under its state_dict's keys, and `metadata`.

    ValueError for another format; ModuleNotFoundError where fastgan[onnx] is needed and missing.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format: {format!r} is not one of {', '.join(SUFFIXES)}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "safetensors":
        from safetensors.torch import save_file

        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, path, metadata)
        return path
    if format == "onnx" and not all(importlib.util.find_spec(name) for name in _ONNX):
        raise ModuleNotFoundError(
            "writing ONNX needs the packages onnx and onnxscript: pip install 'fastgan[onnx]'"
        )
    if any(x.shape[0] < 2 for x in example_inputs):
        raise ValueError("example_inputs: expected a batch of at least 2, to leave its size open")
    folded = fold_norms(model)
    batch = torch.export.Dim("batch")
    options: dict[str, Any] = {"dynamic_shapes": tuple({0: batch} for _ in example_inputs)}
    with unfused(), torch.no_grad():
        if format == "torch-export":
            torch.export.save(torch.export.export(folded, example_inputs, **options), path)
        else:
            torch.onnx.export(
                folded, example_inputs, path, dynamo=True, external_data=False, verbose=False,
                **options,
            )  # fmt: skip
    return path
