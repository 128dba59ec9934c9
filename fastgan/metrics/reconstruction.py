"""How near images are to what they should be: PSNR and SSIM, through torchmetrics; sharpness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.checks import needed


class Reconstruction:
    """PSNR in dB and SSIM of images in [-1, 1], accumulated batch by batch in float64.

    Both are of brightness (x + 1) / 2 in [0, 1]. PSNR is of the mean squared error over all pixels
    of all images; SSIM is the mean over images, with the Gaussian window of 11 pixels and σ = 1.5
    of Wang et al. 2004, which is mirrored at the edges.
    """

    def __init__(self) -> None:
        metrics = needed("torchmetrics.image", by="Reconstruction", extra="metrics")
        psnr = metrics.PeakSignalNoiseRatio(data_range=1.0)
        ssim = metrics.StructuralSimilarityIndexMeasure(data_range=1.0)
        self._psnr, self._ssim = (m.set_dtype(torch.float64) for m in (psnr, ssim))
        self._inside = torch.zeros(2, dtype=torch.float64)

    def update(self, images: Tensor, again: Tensor, mask: Tensor | None = None) -> None:
        """Add images [N, C, H, W], and what should be them.

        Args:
            mask: [N, 1, H, W]: only pixels where it is above 0 count; SSIM is then the mean over
                these pixels of all images. Given always or never.

        ValueError for shapes that differ.
        """
        if images.shape != again.shape:
            raise ValueError(
                "images and again must have one shape, got "
                f"{list(images.shape)} and {list(again.shape)}"
            )
        pair = [((x.double().cpu() + 1) / 2).clamp(0, 1) for x in (again, images)]
        if mask is None:
            self._psnr.update(*pair)
            self._ssim.update(*pair)
            return
        functional = needed("torchmetrics.functional.image", by="Reconstruction", extra="metrics")
        inside = (mask > 0).cpu().expand_as(pair[0])
        self._psnr.update(*(x[inside] for x in pair))
        _, similar = functional.structural_similarity_index_measure(
            *pair, data_range=1.0, reduction=None, return_full_image=True
        )
        self._inside += torch.stack([similar[inside].sum(), inside.sum().double()])

    def psnr(self) -> float:
        return float(self._psnr.compute())

    def ssim(self) -> float:
        if self._inside[1]:
            return float(self._inside[0] / self._inside[1])
        return float(self._ssim.compute())


def video_luma(images: Tensor) -> Tensor:
    """Y [N, 1, H, W] of RGB in [-1, 1], as papers on super-resolution take it: BT.601 in 16 to 235
    of 255, here mapped to [-1, 1] by 0 to 255.
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=images.dtype, device=images.device)
    y = 16 + ((images + 1) / 2 * weights.view(3, 1, 1)).sum(1, keepdim=True)
    return y / 127.5 - 1


def sharpness(images: Tensor) -> Tensor:
    """Mean magnitude of the Laplacian of images [N, C, H, W] in [-1, 1], of brightness in 0 to 255,
    an image: [N]. It needs no reference, and blur lowers it.
    """
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).to(images)
    flat = images.flatten(0, 1)[:, None] * 127.5
    return (
        F.conv2d(flat, kernel.view(1, 1, 3, 3)).abs().mean((1, 2, 3)).view(len(images), -1).mean(1)
    )
