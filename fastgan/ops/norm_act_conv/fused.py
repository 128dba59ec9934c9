"""norm_act_conv by Triton's convolutions: with those for GPUs with TMA statistics travel with a
tensor.

The convolution leaves the statistics of its output in pieces, one for each of its tiles, and the
norm that follows merges them as it normalises: no pass over the tensor takes them, and no launch of
its own merges them or moves the running ones. The data gradient leaves the sums of the norm's
gradient in the same way. The kernels of few channels and plain products leave none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate, chain, pairwise, starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.kernels.core.by_shape import by_shape
from fastgan.kernels.core.geometry import device_guard, may_be_elsewhere
from fastgan.kernels.core.outputs import Layouts, each
from fastgan.kernels.core.outputs import channels_last as channels_last_layout
from fastgan.kernels.core.packed import eager_call, is_keeping
from fastgan.kernels.core.precision import precision_of
from fastgan.ops import conv
from fastgan.ops.conv import tma
from fastgan.ops.conv.algorithms import is_triton
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import FORWARD, Problem, describe
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import is_identity
from fastgan.ops.core.memory_format import channels_last, is_channels_last
from fastgan.ops.core.outputs import maker
from fastgan.ops.core.tensors import own_output
from fastgan.ops.norm_act_conv import kernels
from fastgan.ops.norm_act_conv.arguments import Backward, Forward


class Statistics(NamedTuple):
    """Those of a tensor, as its convolution left them: of slices of the batch, in pieces."""

    counts: Tensor  # (segments, pieces)
    means: Tensor  # (segments, pieces, C)
    m2s: Tensor  # (segments, pieces, C): sums of squares about the piece's mean


class Companions(NamedTuple):
    """What comes and goes with the tensors of one call.

    Attributes:
        of_x: the statistics of x, or None.
        running, momentum, average: the running statistics, moved where those of x are merged.
        segments: of the statistics of y that are wanted; 0: none.
    """

    of_x: Statistics | None = None
    running: tuple[Tensor, Tensor] | None = None
    momentum: float = 0.0
    average: bool = False
    segments: int = 0


class Outputs(NamedTuple):
    """Of one call; the last two are for the backward and for the next block."""

    y: Tensor
    mean: Tensor | None
    var: Tensor | None
    z: Tensor | None
    rows: Tensor | None  # of the norm, as the data gradient reads it
    statistics: Statistics | None  # of y


def serves(
    x: tuple[int, ...], dtype: torch.dtype, device: torch.device, weight: tuple[int, ...],
    geometry: Geometry,
) -> bool:  # fmt: skip
    """Whether a convolution, given its shapes, runs here; x in channels-last memory."""
    if len(x) != 4 or dispatch.why_not("triton", device.type, dtype) is not None:
        return False
    if tma.served_geometry(x, dtype, device, weight, geometry) is not None:
        return True
    return is_triton(_described(x, dtype, weight, geometry)._replace(device=device.type))


@by_shape
def _described(
    x: tuple[int, ...], dtype: torch.dtype, weight: tuple[int, ...], geometry: Geometry
) -> Problem:
    like = torch.empty((x[0], *x[2:], x[1]), dtype=dtype, device="meta").movedim(-1, 1)
    return describe(FORWARD, like, torch.empty(weight, dtype=dtype, device="meta"), geometry)


def forward(
    a: Forward, backend: str, *, companions: Companions, plan: Plan | None = None
) -> Outputs:
    """x channels-last, as y and z are; a weight of any dtype; the rest contiguous.

    Args:
        plan: of calls of this kind, where there is one.
    """
    plan = plan or Plan(a, companions)
    if not (is_keeping() or may_be_elsewhere(a.x)):
        return _forward(a, backend, companions, plan)
    with eager_call(), device_guard(a.x):
        return _forward(a, backend, companions, plan)


def _forward(a: Forward, backend: str, companions: Companions, plan: Plan) -> Outputs:
    """On x's device, which is current."""
    x, weight, bias, norm, spec, keep_z = a
    mean = var = rows = statistics = None
    made = plan.outputs(x)
    if plan.norm_input is not None:
        of_x, running, momentum, _, _ = companions
        of_norm, made = made[:4], made[4:]
        plan.norm_input.into(of_norm, x, of_x, norm.gamma, norm.beta, running, momentum)
        z, mean, var, rows = of_norm
    elif spec.training:
        launchers = dispatch.kernels(backend, "norm_act", x)
        z, mean, var = launchers.norm_act_train(x, norm.gamma, norm.beta, *spec.norm)
    else:
        z = kernels.recompute(x, norm, spec, backend)
    if plan.product is not None:
        plan.product.into(made, z, weight, bias)
        y = made[0]
        if companions.segments:
            _, means, m2s, counts = made
            statistics = Statistics(counts, means, m2s)
    else:
        weight = _as_read(x, weight, spec.geometry)
        y = own_output(conv.forward(z, weight, bias, spec.geometry, *spec.after, triton=True))
    kept = z if keep_z and z is not x else None
    return Outputs(y, mean, var, kept, rows, statistics)


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def backward(
    a: Backward, backend: str, *, rows: Tensor | None, plan: Plan | None = None
) -> Gradients:
    """As `kernels.backward`; what is not needed may be None.

    Args:
        rows: of the norm, from the forward pass, unless None.
        plan: of the forward pass, where there is one.
    """
    if plan is None or not plan.is_current():
        plan = Plan(a)
    if plan.geometry is None:
        weight = _as_read(a.x, a.weight, a.spec.geometry)
        return kernels.backward(a._replace(weight=weight), backend, triton=True)
    if not (is_keeping() or may_be_elsewhere(a.x)):
        return _backward(a, backend, rows, plan)
    with eager_call(), device_guard(a.x):
        return _backward(a, backend, rows, plan)


def _backward(a: Backward, backend: str, rows: Tensor | None, plan: Plan) -> Gradients:
    """On x's device, which is current."""
    g_y, x, y, z, weight, norm, spec, need_x, need_weight, need_bias, need_affine = a
    g_x = g_weight = g_bias = g_gamma = g_beta = None
    dy = g_y
    if y is not None or need_bias:
        dy, g_bias = kernels.through_output(a, backend)
    if dy.dtype is not x.dtype or not is_channels_last(dy):
        dy = channels_last(dy.to(x.dtype))
    if rows is None and norm.mean is not None and norm.var is not None:
        known = norm.mean, norm.var, norm.gamma, norm.beta, spec.eps
        rows, _ = dispatch.module("fastgan.kernels.conv_block.forward").conv_rows(known, None)
    need_input, by_batch = need_x or need_affine, norm.mean is not None and spec.training
    forms = need_weight and z is None and not plan.gathers and plan.forms_input(rows)
    gives_affine = need_affine and by_batch
    written = plan.written(forms, need_weight, need_input, rows is not None, gives_affine, weight)
    made = written.make(x)
    if need_weight:
        if forms:
            z = made[0]
            plan.form_input(x, None, rows, z, plan.before.slope)
        if plan.gathers:
            g_weight = plan.gathered(x, rows, z, dy, weight)
        else:
            g_weight = plan.weight_gradient.into(made[written.of_weight], x if z is None else z, dy)
    if need_input:
        of_input = made[written.of_input]
        plan.data_gradient.into(of_input, dy, weight, None, x, rows)
        g_x, *sums = of_input
        if by_batch:
            of_norm = made[written.of_norm]
            through = plan.norm_gradient
            g_gamma, g_beta = through.into(of_norm, g_x, x, norm.var, rows, *sums, need_affine)
        elif norm.mean is not None and need_affine:
            partials = dispatch.module("fastgan.kernels.conv_block.partials")
            *_, g_gamma, g_beta = partials.conv_norm_gradients(
                *sums, norm.var, norm.gamma, spec.eps
            )
    return g_x, g_weight, g_bias, g_gamma, g_beta


def _as_read(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A weight for the passes of x, which may round it themselves."""
    return weight if conv.reads_float32(x, weight, geometry, triton=True) else weight.to(x.dtype)


class Plan:
    """What calls of one kind decide by shapes, dtypes and options, once for all: their launchers.

    Args:
        a: one of the calls.
        companions: those of a forward pass.

    Attributes:
        geometry: None where TMA's kernels do not run the convolution.
        gathers: whether they do not run its weight gradient, but the gather does: of float32.
    """

    def __init__(self, a: Forward | Backward, companions: Companions | None = None) -> None:
        x, spec, companions = a.x, a.spec, companions or Companions()
        self._shape, self._of = x.shape, (x.dtype, x.device)
        self._spec, self._wanted = spec, companions.segments
        # Slices of x whose rows the data gradient reads; 0: there is no norm.
        self._segments = spec.segments if spec.training or a.norm.mean is not None else 0
        self._precision = precision_of(*self._of)
        served = x.shape, *self._of, a.weight.shape, spec.geometry
        self.geometry = tma.served_geometry(*served)
        self.gathers = tma.served_geometry(*served, of_weight=True) is None
        self.launchers: Any = None
        self.norm_input: Any = None
        if self.geometry is not None or companions.of_x is not None:
            self.launchers = dispatch.module("fastgan.kernels.conv_block.tma")
            forms = dispatch.module("fastgan.kernels.conv_block.forward")
            self.before, self._after = forms.Activation(*spec.before), forms.Activation(*spec.after)
        if spec.training and companions.of_x is not None:
            self.norm_input = self.launchers.NormInput(
                x.shape, *companions.of_x.means.shape[:2], spec.eps, self.before,
                companions.average, "ieee" if self.geometry is None else self._precision,
            )  # fmt: skip

        self._written: dict[tuple[object, ...], Written] = {}

    def is_current(self) -> bool:
        """Whether float32 is still to be convolved in the precision that it was made for."""
        return self._of[0] is not torch.float32 or precision_of(*self._of) == self._precision

    @cached_property
    def product(self) -> Any:
        if self.geometry is None:
            return None
        return self.launchers.product_of(self.geometry, *self._of, self._after, self._wanted)

    @cached_property
    def outputs(self) -> Callable[[Tensor], Sequence[Tensor]]:
        """Makes what a forward pass writes: the norm's, then the product's."""
        of_norm = () if self.norm_input is None else self.norm_input.outputs
        of_product = () if self.product is None else self.product.outputs()
        return maker((*of_norm, *of_product), self._of[0])

    @cached_property
    def data_gradient(self) -> Any:
        return self.launchers.data_gradient_of(
            self.geometry, *self._of, self.before, self._segments
        )

    @cached_property
    def weight_gradient(self) -> Any:
        return self.launchers.weight_gradient_of(self.geometry, *self._of)

    def gathered(
        self, x: Tensor, rows: Tensor | None, z: Tensor | None, dy: Tensor, weight: Tensor
    ) -> Tensor:
        """The weight gradient by the kernels that form z as they load x, unless it is there."""
        kernels = dispatch.module("fastgan.kernels.conv_block.weight")
        none = kernels.Activation()
        of_input = (x, rows, self.before) if z is None else (z, None, none)
        g_weight: Tensor = kernels.conv_weight_gradient(
            *of_input, dy, None, None, none, weight, self.geometry, True, False
        )[0]
        return g_weight

    @cached_property
    def norm_gradient(self) -> Any:
        _, (sums, _) = self.data_gradient.outputs(with_rows=True)
        return self.launchers.NormGradient(
            self._shape, self._segments, sums.shape[1], self._spec.eps
        )

    def forms_input(self, rows: Tensor | None) -> bool:
        """Whether the input of the convolution is another tensor than x."""
        return rows is not None or not is_identity(*self._spec.before)

    @cached_property
    def form_input(self) -> Any:
        code = self.before.kernel_code
        launch = dispatch.module("fastgan.kernels.conv_block.tma.form").form_launch
        return launch("input", self._shape, max(1, self._segments), code, self._of[1])

    def written(
        self, forms: bool, need_weight: bool, need_input: bool, with_rows: bool, affine: bool,
        weight: Tensor,
    ) -> Written:  # fmt: skip
        """What a backward pass writes.

        Args:
            forms: it forms the input of the convolution again.
            with_rows: it reads the rows of a norm.
            affine: the gradients of the norm's parameters come of the statistics of a batch.
        """
        key = forms, need_weight, need_input, with_rows, affine, weight.stride(), weight.dtype
        found = self._written.get(key)
        if found is None:
            planned = need_weight and not self.gathers
            of_weight = self.weight_gradient.outputs(weight) if planned else ()
            of_input = self.data_gradient.outputs(with_rows) if need_input else ()
            of_norm = self.norm_gradient.outputs if affine else ()
            parts = ((channels_last_layout(*self._shape),) if forms else ()), of_weight
            found = self._written[key] = Written.of((*parts, of_input, of_norm), self._of[0])
        return found


class Written(NamedTuple):
    """What a backward pass writes, and where of all that which part stands."""

    make: Callable[[Tensor], Sequence[Tensor]]
    of_weight: slice
    of_input: slice
    of_norm: slice

    @classmethod
    def of(cls, parts: tuple[Layouts, ...], dtype: torch.dtype) -> Written:
        """Of the convolution's input, then those."""
        ends = list(accumulate(len(list(each(part))) for part in parts))
        places = starmap(slice, pairwise(ends))
        return cls(maker(tuple(chain.from_iterable(parts)), dtype), *places)
