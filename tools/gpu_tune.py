"""Tunes DCGAN-64 on this GPU: python -m tools.gpu_tune FOLDER writes the table there.

Like `fastgan tune dcgan-64`, for two batches and two dtypes, and in an environment that holds no
more than torch, triton and numpy.
"""

from __future__ import annotations

import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from bench.dcgan_step import LATENT, discriminator, generator
from fastgan.fusion import tune
from fastgan.nn import FusedSequential
from fastgan.ops.conv.tuning import user_table

BATCHES = (64, 512)
DTYPES = (torch.float32, torch.bfloat16)


def main(folder: Path) -> None:
    for batch in BATCHES:
        for dtype in DTYPES:
            for model, shape in ((generator(), (LATENT, 1, 1)), (discriminator(), (3, 64, 64))):
                report(model, (batch, *shape), dtype)
            # After each, so that what was measured is kept if the rest is cut off.
            shutil.copyfile(user_table(), folder / "tuning.json")


def report(model: nn.Sequential, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    fused = FusedSequential(OrderedDict(model.named_children()))
    fused = fused.to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(shape, device="cuda")
    with torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
        for layer, times in tune(fused, x).items():
            ranked = sorted(times, key=lambda form: times[form])
            print(layer, dtype, ", ".join(f"{f} {times[f]:.0f} us" for f in ranked), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
