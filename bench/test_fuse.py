"""`fuse` on the architectures of tests/zoo: a training pass, forward and backward, on the CPU.

Each model runs as it is and fused, with the same weights, contiguous and channels-last, in turn
within one run (see paired.py). Float32, at a width and batch that take some ten to some hundred
milliseconds.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from paired import interleave, ratio
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastgan import fuse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "zoo"))
from zoo import ZOO

ROUNDS = 9
SIZES = {  # width, batch
    "dcgan-generator": (32, 32), "dcgan-discriminator": (32, 32), "torchgan-generator": (32, 64),
    "torchgan-discriminator": (32, 64), "tensorflow-generator": (32, 64),
    "tensorflow-discriminator": (32, 64), "pix2pix-unet-256": (16, 2), "patchgan": (32, 16),
    "latent-diffusion-patchgan": (32, 16), "cyclegan-generator": (32, 8),
    "srgan-discriminator": (32, 16), "esrgan-discriminator": (32, 8), "r3gan-stage": (8, 32),
    "hifigan-generator": (64, 4), "hifigan-periods": (4, 16), "hifigan-scales": (64, 8),
    "melgan-generator": (64, 4), "wavegan-generator": (16, 8), "wavegan-discriminator": (16, 8),
    "encodec-discriminator": (16, 8), "dac-period": (8, 32), "dac-bands": (16, 8),
    "darknet-53": (8, 8), "nnunet-2d": (16, 32), "nnunet-3d": (16, 4), "3dgan-generator": (16, 8),
    "3dgan-discriminator": (16, 8), "calogan-generator": (64, 64),
    "calogan-discriminator": (64, 64),
}  # fmt: skip


def training_pass(model: nn.Module, inputs: list[Tensor]) -> Callable[[], object]:
    parameters = list(model.parameters())

    def run() -> object:
        outputs = tree_leaves(model(*inputs))
        return torch.autograd.grad(sum(y.square().mean() for y in outputs), parameters)

    return run


def in_layout(x: Any, layout: torch.memory_format) -> Any:
    dims = {torch.channels_last: 4, torch.channels_last_3d: 5}
    return x.to(memory_format=layout) if x.dim() == dims.get(layout, x.dim()) else x


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ZOO)
def test_training_pass(benchmark: Callable[..., object], name: str, layout: str) -> None:
    model = ZOO[name]
    width, batch = SIZES[name]
    original = model.build(width=width)
    widest = max(p.dim() for p in original.parameters())
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if layout == "channels_last":
        if widest not in formats:
            pytest.skip("one dimension has no channels-last in PyTorch")
        original.to(memory_format=formats[widest])
    wanted = torch.contiguous_format if layout == "contiguous" else formats[widest]
    inputs = [in_layout(torch.randn(batch, *shape), wanted) for shape in model.inputs]
    fused = fuse(copy.deepcopy(original))
    runs = {"original": training_pass(original, inputs), "fused": training_pass(fused, inputs)}
    times = interleave(runs, ROUNDS)
    benchmark.pedantic(runs["fused"], rounds=1)
    benchmark.extra_info["fused over original"] = value = ratio(times, "original", "fused")
    report = fused.fusion_report
    print(
        f"\n{name:26} {layout:13} {report.fused:2} of {len(report):2} blocks, "
        f"{median(times['original']) * 1e3:6.1f} ms, fused {value:.2f}x"
    )
