"""The repeating block: (transposed) convolution → batch norm → LeakyReLU (→ dropout)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d, BatchNormAct3d, InstanceNormAct2d


class LatentProjection(nn.ConvTranspose2d):
    """A transposed convolution of vectors [N, C_in] to maps [N, C_out, H, W], channels-last.

    On a 1×1 input a transposed convolution is one matrix product, and as such several times faster.
    Its weight is `nn.ConvTranspose2d`'s; in channels-last memory it is the matrix as it stands.
    """

    is_product = True  # nothing else is done with its weight, which may be given rounded

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], bias: bool
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=bias)

    def forward(self, z: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight = self.weight.permute(0, 2, 3, 1)
        x = (z @ weight.flatten(1)).unflatten(1, weight.shape[1:])
        if self.bias is not None:
            x = x + self.bias
        return x.permute(0, 3, 1, 2)


def conv_block(
    conv: nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d | nn.ConvTranspose3d,
    *,
    batch_norm: bool,
    negative_slope: float,
    instance_norm: bool = False,
    dropout: float = 0.0,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """`conv`, then batch or instance norm (if asked for) and LeakyReLU, then dropout (if not 0).

    Parameters are named `conv.*` and `norm.*`, as they are for the three separate torch.nn layers,
    so weights interchange with models that are built of those.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if batch_norm:
        norm = BatchNormAct3d if conv.weight.dim() == 5 else BatchNormAct2d
        layers["norm"] = norm(
            conv.out_channels, eps=eps, momentum=momentum, negative_slope=negative_slope
        )
    elif instance_norm:
        layers["norm"] = InstanceNormAct2d(
            conv.out_channels, eps=eps, negative_slope=negative_slope
        )
    else:
        layers["act"] = nn.LeakyReLU(negative_slope, inplace=True)
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(layers)
