"""Launchers of the TMA products for operands of one geometry: all that follows from shapes, dtypes
and options is decided when one is made. A call allocates outputs, describes operands and launches.
"""

from collections.abc import Sequence
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.tma.packing import as_read, is_packed
from fastgan.kernels.conv_block.tma.plan import ProductPlan, WeightPlan
from fastgan.kernels.conv_block.tma.product import tma_conv_kernel
from fastgan.kernels.conv_block.tma.split import tma_add_slices_kernel, tma_slice_kernel
from fastgan.kernels.conv_block.tma.weight import tma_weight_kernel
from fastgan.kernels.conv_block.weight import add_slices, weight_like
from fastgan.kernels.core.geometry import device_guard, is_channels_last
from fastgan.kernels.core.launch import Launch
from fastgan.kernels.core.outputs import Layout, Layouts, channels_last, contiguous, made

Tensor = torch.Tensor
Strides = tuple[int, ...]

# Channels of a tile that a program adds up the slices of, and its warps.
ADD_COLUMNS, ADD_WARPS = 32, 4


class Product:
    """The forward product of a plan, or its data gradient.

    Args:
        act: what follows: the activation of a forward pass, or the one whose derivative the
            gradient is multiplied by.
        counted: of a forward pass: whether it leaves statistics of its output.
        masked: of a data gradient: whether it reads x, for a norm or an activation before.
    """

    def __init__(
        self,
        plan: ProductPlan,
        dtype: torch.dtype,
        act: Activation,
        *,
        counted: bool = False,
        masked: bool = False,
    ) -> None:
        geo, config = plan.geo, plan.config
        self._plan, self._dtype, self._counted, self._masked = plan, dtype, counted, masked
        self._out = channels_last(geo.images, geo.channels_out, *geo.size_out[3 - geo.dims :])
        counts = contiguous(plan.segments, plan.tiles)
        partials = contiguous(plan.segments, plan.tiles, geo.channels_out)
        self._statistics, self._sums = (partials, partials, counts), (partials, partials)
        stride = (1, 1) if geo.transposed else geo.stride[1:]
        self._view = _View(
            dtype, (geo.images, geo.channels_in, *geo.size_in[1:]), geo.dims, stride,
            (*plan.boxes.size, config.block_k),
        )  # fmt: skip
        rows, columns = geo.channels_out, geo.channels_in
        block = config.block_n, config.block_k
        if geo.transposed and not is_packed(dtype):
            rows, columns, block = columns, rows, block[::-1]
        matrix = rows, geo.taps * columns
        self._matrix = _Described(dtype, matrix, (matrix[1], 1), block)
        self._act = act.slope
        epilogue = "gradient" if masked else "output"
        self._kind = {"EPILOGUE": epilogue, "ACT": act.kernel_code}
        named = self._kind | plan.arguments
        # Of the bias, and of x and the rows of its norm.
        self._launch = Launch(tma_conv_kernel, plan.grid, named, varying=(2, 4, 5))

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        raw: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """(output, counts, two partials); the latter of statistics, or of sums by ``rows`` of raw.

        x channels-last in the dtype; weight of any float dtype and layout; bias contiguous.
        """
        out = made(self.outputs(rows is not None), x)
        with device_guard(x):
            self.into(out, x, weight, bias, raw, rows)
        y, first, second, counts = *out, *_NONE[len(out) :]
        return y, counts, first, second

    def outputs(self, with_rows: bool = False) -> Layouts:
        """What a call writes: the output, and where there are any the partials, then their counts.

        Args:
            with_rows: it reads the rows of a norm.
        """
        if self._counted:
            return self._out, self._statistics
        return (self._out, self._sums) if with_rows else (self._out,)

    def into(
        self,
        out: Sequence[Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        raw: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        """As a call, into tensors that are there, x's device being current."""
        y, first, second, counts = *out, *_NONE[len(out) :]
        ends = bias, y, raw if self._masked else None, rows, counts, first, second, self._act
        operands = self._view(x), self._matrix(as_read(weight, self._plan.geo, self._dtype))
        if self._plan.slices == 1:
            self._launch(*operands, *ends)
        else:
            self._in_slices(x, operands, ends)

    def _in_slices(self, x: Tensor, operands: tuple[Any, Any], ends: tuple[Any, ...]) -> None:
        """Launches the product in slices, and what adds them."""
        plan, config, arguments = self._plan, self._plan.config, self._plan.arguments
        tiles = x.new_empty((*plan.grid, config.block_m, config.block_n), dtype=torch.float32)
        tma_slice_kernel[plan.grid](*operands, tiles, plan.slice_steps, plan.programs, **arguments)
        columns = min(ADD_COLUMNS, config.block_n)
        of_product = ("CHANNELS", "BLOCK_K", "STAGES")
        arguments = {k: v for k, v in arguments.items() if k not in of_product}
        arguments["num_warps"] = ADD_WARPS
        tma_add_slices_kernel[(plan.programs * config.block_n // columns,)](
            tiles, *ends, plan.slices, plan.programs, COLUMNS=columns, **self._kind, **arguments
        )


class WeightGradient:
    """The weight gradient of a plan."""

    def __init__(self, plan: WeightPlan, dtype: torch.dtype) -> None:
        work, config, geo = plan.work, plan.config, plan.work.geo
        self._plan, self._transposed = plan, geo.transposed
        size = *plan.boxes.size, config.block_m
        shape = geo.images, work.dense_channels, *work.dense_size[1:]
        self._dense: Any = _View(dtype, shape, geo.dims, (1, 1), size)
        if plan.flat:
            positions = geo.images * work.dense_size[1] * work.dense_size[2]
            flat = positions, work.dense_channels
            box = config.block_k, config.block_m
            self._dense = _Described(dtype, flat, (work.dense_channels, 1), box)
        shape = geo.images, work.channels, *work.gathered_size[1:]
        size = *plan.boxes.size, config.block_n
        self._gathered = _View(dtype, shape, geo.dims, geo.stride[1:], size)
        self._launch = Launch(tma_weight_kernel, plan.grid, plan.arguments, varying=(2,))

    def __call__(self, z: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
        """The gradient of ``weight``, in its dtype and layout; the weight is not read."""
        out = made(self.outputs(weight), z)
        with device_guard(z):
            return self.into(out, z, dy)

    def outputs(self, weight: Tensor) -> Layouts:
        """What a call writes: the gradient, and where it does not sum in it itself the slices."""
        plan, work = self._plan, self._plan.work
        dense = weight.is_contiguous() or is_channels_last(weight)
        like = weight if dense else weight_like(weight)
        gradient = Layout(tuple(like.shape), like.stride(), like.dtype)
        if plan.slices == 1 and is_channels_last(like):
            return (gradient,)
        return gradient, contiguous(plan.slices, work.dense_channels, work.columns)

    def into(self, out: Sequence[Tensor], z: Tensor, dy: Tensor) -> Tensor:
        """As a call, into tensors that are there, z's device being current."""
        dense, gathered = (z, dy) if self._transposed else (dy, z)
        self._launch(self._dense(dense), self._gathered(gathered), out[-1])
        if len(out) > 1:
            g_weight, slices = out
            add_slices(slices, g_weight, self._plan.work.geo.taps, is_channels_last(g_weight))
        return out[0]


_NONE = None, None, None, None


class _Described:
    """Makes descriptors of memory of one shape. Triton's checks of sizes, which take as long as a
    launch, are made once, of a descriptor of nothing.
    """

    def __init__(
        self, dtype: torch.dtype, shape: tuple[int, ...], strides: Strides, box: tuple[int, ...]
    ) -> None:
        nothing = torch.empty(0, dtype=dtype, device="cpu")
        self._fields = vars(TensorDescriptor(nothing, list(shape), list(strides), list(box)))

    def __call__(self, base: Tensor) -> Any:
        """base: whole 16 bytes are what TMA asks for as an address; all that torch allocates are
        at such ones.
        """
        found = _new(TensorDescriptor)
        found.__dict__ = {**self._fields, "base": base.clone() if base.data_ptr() % 16 else base}
        return found


_new = object.__new__


class _View:
    """Makes descriptors of channels-last tensors as (images, H / SH, SH, W / SW, SW * C), in boxes
    of (images, height, 1, width, columns). Sizes that strides do not divide are filled up with
    zeros, in a copy.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        dims: int,
        stride: tuple[int, ...],
        block: tuple[int, int, int, int],
    ) -> None:
        (n, c, h, w), (sh, sw) = shape, stride
        more_h, more_w = -h % sh, -w % sw
        self._padded = (0, 0, 0, more_w, 0, more_h)[: 2 * dims + 2] if more_h or more_w else None
        h, w = h + more_h, w + more_w
        images, height, width, columns = block
        self._described = _Described(
            dtype, (n, h // sh, sh, w // sw, sw * c), (h * w * c, sh * w * c, w * c, sw * c, 1),
            (images, height, 1, width, columns),
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Any:
        if self._padded is not None:
            rows = torch.nn.functional.pad(x.movedim(1, -1), self._padded)
            x = rows.movedim(-1, 1)
        return self._described(x)
