"""pytorch#147303: float16 images in channels-last memory, and a gradient in contiguous memory.

The norm's backward gave NaN. Right: its gradients are finite in either layout of the two, also
where a sum over the batch would not fit float16, and as close to float64's as PyTorch's.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from ways import Results, Way, assert_right, like

FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def measured(model: nn.Module, images: Tensor, gradient: Tensor, dtype: torch.dtype) -> Results:
    exact = next(model.parameters()).dtype is torch.float64
    given = like(model, images) if exact else images.to(dtype, copy=True).requires_grad_()
    y = model(given)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(y, [given, *parameters.values()], gradient.to(y.dtype))
    named = {f"d {k}": g for k, g in zip(("x", *parameters), found, strict=True)}
    return named | {"y": y} | {k: b.clone() for k, b in model.named_buffers() if b.dim()}


@pytest.mark.parametrize("of_gradient", FORMATS)
@pytest.mark.parametrize("of_images", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_are_finite_and_close(
    way: Way, dtype: torch.dtype, of_images: str, of_gradient: str
) -> None:
    # The sum of a channel's 77,000 values is more than float16 can hold.
    images = 1 + torch.rand(3, 2, 160, 160).to(dtype)
    images = images.contiguous(memory_format=FORMATS[of_images])
    gradient = torch.rand_like(images).contiguous(memory_format=FORMATS[of_gradient])
    model = nn.Sequential(nn.BatchNorm2d(2), nn.LeakyReLU(0.2))

    def compute(model: nn.Module) -> Results:
        return measured(model, images, gradient, dtype)

    assert_right(way, model, compute, floor=dtype)
