"""Writing a model to a file that runs, or loads, without fastgan."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.fusion.folding import fold_norms
from fastgan.nn.runner import unfused
from fastgan.system import check_writable, whole_file

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
_ONNX = ("onnx", "onnxscript")


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Inside, torch.onnx does not tell of packages that it could serve too and that are not
    installed, nor of calls of its own that are deprecated."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def export(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    path: str | Path,
    format: str = "onnx",
    metadata: dict[str, str] | None = None,
    any_length: bool = False,
) -> Path:
    """Writes the inference model of `model` to `path` and returns that.

    Args:
        format: "onnx" and "torch-export" write what `fold` makes, of PyTorch's own operators alone,
            for any batch size (the first dimension of each of `example_inputs`, at least 2 there);
            "safetensors" writes the weights of `model` itself, under its state_dict's keys, and
            `metadata`.
        any_length: leaves the last dimension of each of `example_inputs` open, too.

    The file stands there when all of it is written, in the place of what stood there before.

    ValueError for another format; ModuleNotFoundError where fastgan[onnx] is needed and missing;
    OSError, naming the path, where it cannot be written.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format: {format!r} is not one of {', '.join(SUFFIXES)}")
    path = Path(path)
    check_writable(path)
    if format == "safetensors":
        from safetensors.torch import save

        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        with whole_file(path) as file:
            file.write(save(tensors, metadata))
        return path
    if format == "onnx" and not all(importlib.util.find_spec(name) for name in _ONNX):
        raise ModuleNotFoundError(
            "writing ONNX needs the packages onnx and onnxscript: pip install 'fastgan[onnx]'"
        )
    if (least := min(x.shape[0] for x in example_inputs)) < 2:
        raise ValueError(
            f"example_inputs: expected a batch of at least 2, to leave its size open, got {least}"
        )
    folded = fold_norms(model)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2)
    shapes = ({0: batch} | ({x.dim() - 1: length} if any_length else {}) for x in example_inputs)
    options: dict[str, Any] = {"dynamic_shapes": tuple(shapes)}
    with unfused(), torch.no_grad():
        if format == "torch-export":
            exported = torch.export.export(folded, example_inputs, **options)
        else:
            with _without_remarks():
                program: Any = torch.onnx.export(
                    folded, example_inputs, dynamo=True, verbose=False, **options
                )
    with whole_file(path) as file:
        if format == "torch-export":
            torch.export.save(exported, file)
        else:
            file.write(program.model_proto.SerializeToString())
    return path
