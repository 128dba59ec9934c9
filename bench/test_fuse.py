"""`fuse` on the architectures of the zoo: forward and backward, as they are and fused.

Float32, at a width and batch that take some ten to some hundred milliseconds on a CPU. Dropout is
off: what it draws depends on the layout, so results could not be checked.
"""

from __future__ import annotations

from torch import nn

from bench.conftest import Compared, on_devices
from bench.harness.case import BOTH, Case
from bench.harness.peers import PEERS
from bench.harness.workload import Implementation, Workload
from bench.zoo import ZOO
from fastgan import fuse

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
QUICK = ("dcgan-discriminator",)
IMPLEMENTATIONS = {
    "fused": Implementation(fuse, "channels last", own=True),
    "eager": Implementation(PEERS["eager"], "contiguous"),
    "eager (channels last)": Implementation(PEERS["eager"], "channels last"),
}


def cases(device: str) -> list[Case]:
    shared = "float32", "channels last", BOTH, device
    return [Case(name, f"batch {SIZES[name][1]}", *shared) for name in ZOO]


def workload(case: Case) -> Workload:
    width, batch = SIZES[case.op]
    model: nn.Module = ZOO[case.op].build(width=width)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    shapes = [(batch, *shape) for shape in ZOO[case.op].inputs]
    return Workload(case, model, shapes, IMPLEMENTATIONS, input_gradients=False, network=True)


@on_devices(cases, lambda case: case.op in QUICK)
def test_training_pass(case: Case, compared: Compared) -> None:
    compared(case, workload)
