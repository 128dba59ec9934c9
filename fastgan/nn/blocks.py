"""A block of layers that run as one op.

It is a norm and activation, a convolution, and what follows the convolution without a norm:
`conv(act(norm(x)))`, `act(conv(x))` and all between. The norm is that of the convolution before, so
the tensor between two blocks is a raw convolution output. Any other layer is a block by itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fastgan.nn.bias_act import BiasAct
from fastgan.nn.layers import Activation
from fastgan.nn.norm_act import BatchNormActBase, batch_norm
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.norm_act_conv import Norm


def described(conv: _ConvNd) -> tuple[tuple[int, ...], Geometry]:
    """The shape of a convolution's weight, by its settings, and its geometry."""
    assert not isinstance(conv.padding, str)
    transposed = isinstance(conv, _ConvTransposeNd)
    channels = conv.out_channels, conv.in_channels
    added = conv.output_padding if transposed else (0,)
    weight = (*(channels[::-1] if transposed else channels), *conv.kernel_size)
    stride, padding, extra = (per_dimension(conv, v) for v in (conv.stride, conv.padding, added))
    return weight, Geometry(stride, padding, extra, transposed)


def per_dimension(conv: _ConvNd, value: tuple[int, ...]) -> tuple[int, ...]:
    """A setting of a convolution, of each dimension: torch.nn keeps one for all as it is."""
    dims = len(conv.kernel_size)
    return tuple(value) if len(value) == dims else tuple(value) * dims


def held(module: nn.Module, name: str) -> Any:
    """A parameter of a module, or what a parametrization makes of one; past a module's slow lookup
    of those.
    """
    parameters = module._parameters
    return parameters[name] if name in parameters else getattr(module, name)


class Block(NamedTuple):
    """Children that run together; `other` alone runs as it is."""

    names: tuple[str, ...]
    children: tuple[nn.Module, ...]
    norm: nn.Module | None = None
    before: Activation = Activation()
    conv: _ConvNd | None = None
    bias: BiasAct | None = None
    after: Activation = Activation()
    order: str = "norm_act"  # "act_norm": `before` comes before the norm, and no convolution after
    why_not: str = ""  # why the child runs as it is
    of_conv: tuple[tuple[int, ...], Geometry] = (), Geometry((), (), (), False)  # see `described`

    @property
    def conv_bias(self) -> Tensor | None:
        assert self.conv is not None
        return held(self.conv if self.bias is None else self.bias, "bias")

    @property
    def before_conv(self) -> int:
        """How many of the children, the norm and its activation, come before a convolution."""
        return len(self.children) if self.conv is None else self.children.index(self.conv)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.of_conv[0]

    @property
    def geometry(self) -> Geometry:
        return self.of_conv[1]

    def fits(self, x: Tensor) -> bool:
        """Whether x is a batch, as the ops take it; torch.nn's modules take a single item, too."""
        if self.conv is not None:
            return x.dim() == len(self.conv.kernel_size) + 2
        return not (
            isinstance(self.norm, _InstanceNorm) and x.dim() == self.norm._get_no_batch_dim()
        )

    def trains(self) -> bool:
        """Whether the norm is by the statistics of its input."""
        norm = self.norm
        if isinstance(norm, _InstanceNorm):
            return norm.training or not norm.track_running_stats
        return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)

    def without_norm(self) -> Block:
        """What is left of the block when norm and activation have been applied to its input."""
        return self._replace(norm=None, before=Activation())

    def norm_arguments(self, x: Tensor, segments: int, is_eager: bool = False) -> Norm | None:
        """The norm as an argument of norm_act_conv; counts the batch, as the norm's forward does.

        Args:
            segments: of a plain `nn.BatchNorm`, which has none of its own.
            is_eager: of `batch_norm`.
        """
        norm = self.norm
        if norm is None:
            return None
        assert isinstance(norm, _BatchNorm | _InstanceNorm)
        norm._check_input_dim(x)
        if isinstance(norm, _BatchNorm):
            own = norm.segments if isinstance(norm, BatchNormActBase) else segments
            return batch_norm(norm, own, is_eager)
        momentum = 0.0 if norm.momentum is None else norm.momentum
        return Norm(
            norm.running_mean, norm.running_var, norm.weight, norm.bias, self.trains(), momentum,
            norm.eps, max(1, x.shape[0]), True,
        )  # fmt: skip

    def rows(self, batch: int, segments: int) -> int:
        """Into how many slices the norm's training statistics divide a batch."""
        if isinstance(self.norm, _InstanceNorm):
            return batch
        return self.norm.segments if isinstance(self.norm, BatchNormActBase) else segments
