"""What a convolution costs at least: operations and bytes, pure functions of the geometry."""

from math import prod

from bench.harness.cost import Cost
from fastgan.kernels.conv_block.geometry import ConvGeometry
from fastgan.kernels.core.geometry import cdiv


def forward_cost(geo: ConvGeometry, itemsize: int, weight_itemsize: int) -> Cost:
    """conv_forward's: x and the weight are read once, y is written once.

    Rows, bias, statistics and the packed weight (of the cache's size) are left out.
    """
    weight = geo.taps * geo.channels_in * geo.channels_out * weight_itemsize
    x = geo.images * prod(geo.size_in) * geo.channels_in * itemsize
    y = geo.images * prod(geo.size_out) * geo.channels_out * itemsize
    return Cost(2 * geo.multiply_adds, x + weight, y)


def data_gradient_cost(
    geo: ConvGeometry, itemsize: int, weight_itemsize: int, reads_y: bool, reads_x: bool
) -> Cost:
    """conv_data_gradient's of a forward geometry: g, the weight, y where statistics or an output
    activation have a gradient, and x where a norm or activation came first; g_x is written.
    """
    cost = forward_cost(geo.reversed(), itemsize, weight_itemsize)
    y = geo.images * prod(geo.size_out) * geo.channels_out * itemsize
    return cost._replace(read=cost.read + reads_y * y + reads_x * cost.written)


def weight_gradient_cost(
    geo: ConvGeometry, itemsize: int, weight_itemsize: int, reads_y: bool
) -> Cost:
    """conv_weight_gradient's of a forward geometry: x and g are read once, and y where statistics
    or an output activation have a gradient; the weight's gradient is written. Partial sums (at most
    35 MB, or one float32 weight, which a cache holds) are left out.
    """
    weight = geo.taps * geo.channels_in * geo.channels_out
    x = geo.images * prod(geo.size_in) * geo.channels_in * itemsize
    y = geo.images * prod(geo.size_out) * geo.channels_out * itemsize
    dense = prod(geo.size_in if geo.transposed else geo.size_out)
    return Cost(2 * geo.images * dense * weight, x + y + reads_y * y, weight * weight_itemsize)


def winograd_operations(geo: ConvGeometry) -> int:
    """Operations of the products of Winograd F(2x2, 2x2), a pass of a convolution with kernel 4 and
    stride 2 in two dimensions: 36 a tile of 2x2 values of the strided map, where the plain sum has
    64. Those of the transforms are left out.
    """
    positions = geo.size_in if geo.transposed else geo.size_out
    tiles = prod(cdiv(size, 2) for size in positions[1:])
    return 2 * geo.images * tiles * 36 * geo.channels_in * geo.channels_out
