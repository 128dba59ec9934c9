"""Spectral norms of a network, estimated together in a pass of the network.

`torch.nn.utils.parametrizations.spectral_norm` makes a chain of small operators for each weight in
each pass: products with vectors, normalisations, copies, under autocast casts around each. Here the
matrices lie in stacks, padded with zeros, which add nothing to their products and norms; so a chain
serves all matrices of a stack, and weights are rounded for autocast in one cast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from fastgan.nn.layers import is_compiled, is_product
from fastgan.ops.core.tensors import autocast_to

Vectors = tuple[Tensor, Tensor, Tensor]  # of a stack: u (n, rows), v (n, columns), the norms (n)

# Zeros that are worth a stack less: a pass over so many values takes less than the launches.
_WORTH = 2**21
# Weights begin at multiples of so many values, as kernels like to load them.
_ALIGNED = 64


class SpectralNorms:
    """Gives the layers of networks their weights under torch's spectral norm, estimated together.

    What a pass computes is what it would compute by itself in float32, under autocast too: one
    estimate for each weight in training mode, from the buffers and kept in them. A layer that a
    pass uses twice has one estimate for both. Layers in evaluation mode, weights of another dtype
    or device, and networks that were compiled are left to torch.
    """

    devices = ("cuda",)

    def __init__(self) -> None:
        self._layouts: dict[Any, _Layout] = {}

    @contextmanager
    def within(self, network: nn.Module) -> Iterator[None]:
        """Inside, which is one forward pass, the layers of `network` have the weights."""
        found = _found(network, self.devices)
        weights = self._estimated(found) if found else ()
        try:
            for item, weight in zip(found, weights, strict=True):
                item.norm.__dict__["forward"] = _giving(weight)
            yield
        finally:
            for item in found:
                item.norm.__dict__.pop("forward", None)

    def _estimated(self, found: Sequence[_Normed]) -> Sequence[Tensor]:
        device = found[0].weight.device
        matrices = tuple(item.matrix for item in found)
        layout = self._layouts.get((device, matrices))
        if layout is None:
            layout = self._layouts[device, matrices] = _Layout(matrices, device)
        lower = autocast_to(device.type)
        with torch.autocast(device.type, enabled=False):
            stacks = _Packed.apply(layout, *(item.weight for item in found))
            vectors = layout.iterated(stacks.detach(), [item.norm for item in found])
            weights: tuple[Tensor, ...] = _Unpacked.apply(
                layout, lower, _Divided.apply(layout, vectors, stacks)
            )
        return weights


class _Matrix(NamedTuple):
    """What a weight's place in stacks follows from.

    Attributes:
        order: its axes in memory, from the outermost.
        axis: that of the matrix's rows.
        is_product: whether autocast would round it.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    axis: int
    is_product: bool
    iterations: int
    eps: float

    @property
    def size(self) -> tuple[int, int]:
        rows = self.shape[self.axis]
        return rows, math.prod(self.shape) // rows

    def flat(self, t: Tensor) -> Tensor:
        """A tensor of the shape, as it lies in memory; else a copy."""
        return t.permute(self.order).reshape(-1)

    def unflat(self, t: Tensor) -> Tensor:
        shape = [self.shape[i] for i in self.order]
        back = sorted(range(len(shape)), key=self.order.__getitem__)
        return t[: math.prod(shape)].view(shape).permute(back)

    def positions(self) -> Tensor:
        """Where in `flat` each value of the matrix stands: (rows, columns)."""
        numbers = self.unflat(torch.arange(math.prod(self.shape)))
        return numbers.movedim(self.axis, 0).flatten(1)


class _Normed(NamedTuple):
    weight: Tensor
    norm: Any  # torch's module
    matrix: _Matrix


def _found(network: nn.Module, devices: Sequence[str]) -> list[_Normed]:
    """The weights that can be estimated together, products first."""
    if is_compiled(network):
        return []
    found = []
    for layer in network.modules():
        if not parametrize.is_parametrized(layer):
            continue
        for name, made_by in layer.parametrizations.items():  # type: ignore[union-attr, operator]
            norm, weight = made_by[0], getattr(made_by, "original", None)
            if not (isinstance(norm, _SpectralNorm) and norm.training and weight is not None):
                continue
            served = weight.dim() > 1 and weight.numel() and weight.device.type in devices
            if served and weight.dtype is norm._u.dtype is torch.float32:
                rounded = name == "weight" and len(made_by) == 1 and is_product(layer)
                found.append(_Normed(weight, norm, _matrix(weight, norm, rounded)))
    return sorted(found, key=lambda item: not item.matrix.is_product)


def _matrix(weight: Tensor, norm: Any, rounded: bool) -> _Matrix:
    strides = weight.stride()
    order = tuple(sorted(range(weight.dim()), key=lambda i: -strides[i]))
    iterations, eps = norm.n_power_iterations, norm.eps
    return _Matrix(tuple(weight.shape), order, norm.dim, rounded, iterations, eps)


def _giving(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda original: weight


class _Stack(NamedTuple):
    """Matrices of a stack, by number, and the size that all are padded to."""

    members: tuple[int, ...]
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.members), self.rows, self.columns


class _Layout:
    """Where matrices stand in stacks, one behind the other, and where their weights come out."""

    def __init__(self, matrices: Sequence[_Matrix], device: torch.device) -> None:
        self._matrices = matrices
        self._stacks = _stacks(matrices)
        self._products = sum(m.is_product for m in matrices)
        sizes = [math.prod(m.shape) for m in matrices]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self._aligned = [-(-size // _ALIGNED) * _ALIGNED for size in sizes]
        into, out = self._places()
        self._into, self._out = into.to(device), out.to(device)
        self._v_into = self._places_of_v().to(device)
        self._zero = torch.zeros(1, device=device)

    def _places(self) -> tuple[Tensor, Tensor]:
        """For each value of the stacks its place in the weights, for each of what comes out its
        place in the stacks; a zero stands behind the weights."""
        starts = [sum(self._aligned[:i]) for i in range(len(self._aligned))]
        out = torch.zeros(sum(self._aligned), dtype=torch.int32)
        into, first = [], 0
        for stack in self._stacks:
            place = torch.full(stack.shape, self._starts[-1], dtype=torch.int32)
            number = torch.arange(place.numel(), dtype=torch.int32).view(stack.shape) + first
            for i, member in enumerate(stack.members):
                matrix = self._matrices[member]
                rows, columns = matrix.size
                positions = matrix.positions()
                place[i, :rows, :columns] = positions + self._starts[member]
                out[positions.flatten() + starts[member]] = number[i, :rows, :columns].flatten()
            into.append(place.flatten())
            first += place.numel()
        return torch.cat(into), out

    def _places_of_v(self) -> Tensor:
        columns = [matrix.size[1] for matrix in self._matrices]
        into = []
        for stack in self._stacks:
            place = torch.full((len(stack.members), stack.columns), sum(columns))
            for i, member in enumerate(stack.members):
                place[i, : columns[member]] = torch.arange(columns[member]) + sum(columns[:member])
            into.append(place.flatten())
        return torch.cat(into)

    def packed(self, tensors: Sequence[Tensor]) -> Tensor:
        """The stacks of weights, or of their gradients, of which the products' may be rounded."""
        flat = [m.flat(t) for m, t in zip(self._matrices, tensors, strict=True)]
        some = flat[: self._products]
        if some and some[0].dtype is not torch.float32:
            flat[: self._products] = [torch.cat(some).float()]
        return torch.cat([*flat, self._zero]).index_select(0, self._into)

    def unpacked(self, stacks: Tensor, lower: torch.dtype | None) -> tuple[Tensor, ...]:
        """Tensors like the weights; the products' in the lower dtype, where there is one."""
        flat = stacks.index_select(0, self._out)
        many = sum(self._aligned[: self._products])
        halves = flat[:many] if lower is None else flat[:many].to(lower), flat[many:]
        parts = [
            *halves[0].split(self._aligned[: self._products]),
            *halves[1].split(self._aligned[self._products :]),
        ]
        return tuple(m.unflat(part) for m, part in zip(self._matrices, parts, strict=True))

    def apart(self, stacks: Tensor) -> Iterator[Tensor]:
        """Each stack by itself, (matrices, rows, columns)."""
        sizes = [math.prod(stack.shape) for stack in self._stacks]
        for stack, part in zip(self._stacks, stacks.split(sizes), strict=True):
            yield part.view(stack.shape)

    @torch.no_grad()
    def iterated(self, stacks: Tensor, norms: Sequence[Any]) -> list[Vectors]:
        """The power iterations from the buffers of torch's modules, which get what comes out."""
        vs = torch.cat([*(norm._v for norm in norms), self._zero]).index_select(0, self._v_into)
        sizes = [len(stack.members) * stack.columns for stack in self._stacks]
        found, buffers, values = [], [], []
        for stack, matrices, v in zip(
            self._stacks, self.apart(stacks), vs.split(sizes), strict=True
        ):
            first = self._matrices[stack.members[0]]
            v = v.view(len(stack.members), stack.columns)
            for _ in range(first.iterations):
                # Products as sums of float32, which no setting of matrix products rounds.
                u = _normalised((matrices * v[:, None]).sum(2), first.eps)
                image = (matrices * u[:, :, None]).sum(1)
                v = _normalised(image, first.eps)
            found.append((u, v, (image * v).sum(1)))
            for i, member in enumerate(stack.members):
                rows, columns = self._matrices[member].size
                buffers += [norms[member]._u, norms[member]._v]
                values += [u[i, :rows], v[i, :columns]]
        torch._foreach_copy_(buffers, values)
        return found


def _normalised(vectors: Tensor, eps: float) -> Tensor:
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(eps)


def _stacks(matrices: Sequence[_Matrix]) -> list[_Stack]:
    """Matrices that are iterated alike, in as few stacks as padding is cheaper than launches."""
    found: dict[Any, list[int]] = {}
    for i, matrix in enumerate(matrices):
        found.setdefault((matrix.size, matrix.iterations, matrix.eps), []).append(i)
    stacks = [(_Stack(tuple(held), *key[0]), key[1:]) for key, held in found.items()]
    while True:
        pairs = [
            (math.prod(_joined(a, b).shape) - math.prod(a.shape) - math.prod(b.shape), i, j)
            for i, (a, how) in enumerate(stacks)
            for j, (b, other) in enumerate(stacks[:i])
            if how == other
        ]
        zeros, i, j = min(pairs, default=(_WORTH + 1, 0, 0))
        if zeros > _WORTH:
            return [stack for stack, _ in stacks]
        second, first = stacks.pop(i), stacks.pop(j)
        stacks.append((_joined(first[0], second[0]), first[1]))


def _joined(a: _Stack, b: _Stack) -> _Stack:
    return _Stack(a.members + b.members, max(a.rows, b.rows), max(a.columns, b.columns))


class _Packed(Function):
    """`_Layout.packed` of a layout and tensors; its derivative is `_Unpacked`, and the reverse."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, *tensors: Tensor) -> Tensor:
        ctx.layout = layout
        first = tensors[0].dtype
        ctx.lower = None if first is torch.float32 else first
        return layout.packed(tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Unpacked.apply(ctx.layout, ctx.lower, gradient)


class _Unpacked(Function):
    @staticmethod
    def forward(
        ctx: Any, layout: _Layout, lower: torch.dtype | None, stacks: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.layout = layout
        return layout.unpacked(stacks, lower)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, _Packed.apply(ctx.layout, *gradients)


class _Divided(Function):
    """Stacks by their matrices' norms u' W v, where u and v are constants."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, vectors: list[Vectors], stacks: Tensor) -> Tensor:
        ctx.save_for_backward(stacks)
        ctx.layout, ctx.vectors = layout, vectors
        pairs = zip(layout.apart(stacks), vectors, strict=True)
        return _together([stack / norm[:, None, None] for stack, (_, _, norm) in pairs])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (stacks,) = ctx.saved_tensors
        found = []
        for stack, g, (u, v, norm) in zip(
            ctx.layout.apart(stacks), ctx.layout.apart(gradient), ctx.vectors, strict=True
        ):
            u, v = u[:, :, None], v[:, None]
            if torch.is_grad_enabled():  # the norm as a function of the weight
                norm = (stack * (u * v)).sum((1, 2))
            inverse = norm.reciprocal()[:, None, None]
            slope = (g * stack).sum((1, 2), keepdim=True) * inverse.square()
            found.append(torch.addcmul(g * inverse, u * slope, v, value=-1))
        return None, None, _together(found)


def _together(stacks: Sequence[Tensor]) -> Tensor:
    flat = [stack.reshape(-1) for stack in stacks]
    return flat[0] if len(flat) == 1 else torch.cat(flat)
