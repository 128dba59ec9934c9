"""How near reconstructions are to their images: PSNR and SSIM, through torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.metrics._packages import needed


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

    def update(self, images: Tensor, again: Tensor) -> None:
        """ValueError for shapes that differ."""
        if images.shape != again.shape:
            raise ValueError(
                "images and again must have one shape, got "
                f"{list(images.shape)} and {list(again.shape)}"
            )
        pair = [((x.double().cpu() + 1) / 2).clamp(0, 1) for x in (again, images)]
        self._psnr.update(*pair)
        self._ssim.update(*pair)

    def psnr(self) -> float:
        return float(self._psnr.compute())

    def ssim(self) -> float:
        return float(self._ssim.compute())
