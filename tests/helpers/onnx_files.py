"""ONNX files, run by onnxruntime."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tolerance import assert_as_exact
from torch import Tensor, nn

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
NEEDS_ONNX = pytest.mark.skipif(
    not all(map(find_spec, _PACKAGES)), reason=f"needs {', '.join(_PACKAGES)}"
)


def assert_onnx(file: Path | bytes, model: nn.Module, given: Tensor) -> None:
    """Holds what the network in a file makes of its one input to the model's, by the rule."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (argument,) = session.get_inputs()
    (found,) = session.run(None, {argument.name: given.numpy()})
    with torch.no_grad():
        expected, exact = model(given), copy.deepcopy(model).double()(given.double())
    assert_as_exact("output", torch.from_numpy(found), expected, exact)
