"""Initialisation of weights."""

from __future__ import annotations

from torch import Tensor, nn

_LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def init_weights(module: nn.Module, std: float = 0.02) -> nn.Module:
    """Initialise `module` and all its children as DCGAN does; returns `module`.

    Convolution and linear weights are drawn from N(0, std²), normalisation weights from
    N(1, std²); biases become zero. Statistics and all other parameters are left alone.
    Source: Radford, Metz, Chintala 2016, "Unsupervised Representation Learning with Deep
    Convolutional Generative Adversarial Networks", section 4, and the authors' code for the norm.
    """
    if std < 0:
        raise ValueError(f"std must be at least 0, got {std!r}")
    for child in module.modules():
        if isinstance(child, _LINEAR):
            nn.init.normal_(child.weight, 0.0, std)
        elif hasattr(child, "running_mean") and isinstance(child.weight, Tensor):
            # Any affine batch or instance norm, torch.nn's and fastgan.nn's.
            nn.init.normal_(child.weight, 1.0, std)
        else:
            continue
        if isinstance(child.bias, Tensor):
            nn.init.zeros_(child.bias)
    return module
