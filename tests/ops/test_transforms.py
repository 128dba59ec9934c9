"""The ops under torch.func and forward-mode differentiation: never a tangent less than PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import eager
import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from tolerance import FLOOR, assert_as_exact, within
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fastgan import ops
from fastgan.ops.conv_block import Deferred
from fastgan.ops.norm_act_conv import Norm

Function = Callable[..., Tensor]
SLOPE: dict[str, Any] = {"activation": "leaky_relu", "negative_slope": 0.2}


class Case(NamedTuple):
    """The same function of (x, weight, bias), and of a convolution's weight, here and in torch."""

    own: Function
    theirs: Function


def _norm_act(training: bool, **spec: Any) -> Case:
    def case(function: Function) -> Function:
        def call(x: Tensor, weight: Tensor, bias: Tensor, _: Tensor) -> Tensor:
            running = (weight.new_full((4,), 0.3), weight.new_full((4,), 1.7))
            return function(x, *(running if not training else (None, None)), weight, bias,
                            training, **spec)  # fmt: skip

        return call

    return Case(case(ops.norm_act), case(eager.norm_act))


def _instance_norm(x: Tensor, weight: Tensor, bias: Tensor, _: Tensor) -> Tensor:
    return torch.sigmoid(F.instance_norm(x, None, None, weight, bias))


def _block(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor) -> Tensor:
    z = F.leaky_relu(F.batch_norm(x, None, None, weight, bias, True), 0.2)
    return torch.tanh(F.conv2d(z, taps, bias[:2], 2, 1))


def _own_block(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor) -> Tensor:
    norm = Norm(None, None, weight, bias, True)
    return ops.norm_act_conv(
        x, taps, bias[:2], norm, pre_activation="leaky_relu", pre_slope=0.2, stride=2, padding=1,
        activation="tanh",
    )  # fmt: skip


def _conv_block(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor) -> Tensor:
    """Two blocks, so that tangents run through the statistics that one hands to the next."""
    y, mean, var = ops.conv_block(x, taps, bias[:2], stride=1, padding=1, segments=1)
    known = Deferred(mean, var, weight[:2], bias[:2], 1e-5, "leaky_relu", 0.2)
    return ops.conv_block(y, taps[:, :2].mT, None, known, activation="sigmoid")[0]


def _two_blocks(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor) -> Tensor:
    y = F.conv2d(x, taps, bias[:2], 1, 1)
    z = F.leaky_relu(F.batch_norm(y, None, None, weight[:2], bias[:2], True), 0.2)
    return torch.sigmoid(F.conv2d(z, taps[:, :2].mT))


def _conv_norm_act(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor) -> Tensor:
    affine = weight[:2], bias[:2]
    return ops.conv_norm_act(x, taps, None, None, None, *affine, True, padding=1, **SLOPE)


def _conv_then_norm(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor) -> Tensor:
    y = F.conv2d(x, taps, None, 1, 1)
    return F.leaky_relu(F.batch_norm(y, None, None, weight[:2], bias[:2], True), 0.2)


CASES = {
    "norm_act training": _norm_act(True, **SLOPE),
    "norm_act tanh": _norm_act(True, activation="tanh"),
    "norm_act segments": _norm_act(True, segments=2, **SLOPE),
    "norm_act act_norm": _norm_act(True, order="act_norm", activation="sigmoid"),
    "norm_act evaluation": _norm_act(False, **SLOPE),
    "instance_norm_act": Case(
        lambda x, w, b, _: ops.instance_norm_act(x, None, None, w, b, activation="sigmoid"),
        _instance_norm,
    ),
    "bias_act": Case(
        lambda x, w, b, _: ops.bias_act(x, b, **SLOPE),
        lambda x, w, b, _: eager.bias_act(x, b, **SLOPE),
    ),
    "bias_act tanh": Case(
        lambda x, w, b, _: ops.bias_act(x, b, activation="tanh"),
        lambda x, w, b, _: eager.bias_act(x, b, activation="tanh"),
    ),
    "norm_act_conv": Case(_own_block, _block),
    "conv_block": Case(_conv_block, _two_blocks),
    "conv_norm_act": Case(_conv_norm_act, _conv_then_norm),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def inputs(dtype: torch.dtype = torch.float64, channels_last: bool = False) -> tuple[Tensor, ...]:
    x, taps = torch.randn(4, 4, 5, 5, dtype=torch.float64), torch.randn(2, 4, 3, 3).double()
    found = [x, torch.rand(4).double() + 0.5, torch.randn(4).double(), taps]
    if channels_last:
        found[0] = x.contiguous(memory_format=torch.channels_last)
    return tuple(t.to(dtype) for t in found)


def as_exact(name: str, own: Function, theirs: Function, given: tuple[Tensor, ...]) -> None:
    """Holds what a function gives at the dtype of its tensors to what PyTorch's gives."""
    exact = theirs(*(t.double() for t in given))
    assert_as_exact(name, own(*given), theirs(*given), exact, size=float(exact.abs().max()))


def tangents_of(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    return tuple(
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in given
    )


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward_mode(case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    """jvp and dual_level, in one argument at a time and in all at once."""
    given = inputs(dtype, channels_last)

    def by_jvp(function: Function) -> Function:
        return lambda *args: jvp(function, args, tangents_of(args))[1]

    def by_dual(function: Function, at: int | None = None) -> Function:
        def call(*args: Tensor) -> Tensor:
            with fwd.dual_level():
                duals = list(args)
                for i, tangent in enumerate(tangents_of(args)):
                    if at in (i, None):
                        duals[i] = fwd.make_dual(args[i], tangent)
                tangent = fwd.unpack_dual(function(*duals)).tangent
                return torch.zeros(()).to(args[0]) if tangent is None else tangent

        return call

    as_exact("jvp", by_jvp(case.own), by_jvp(case.theirs), given)
    as_exact("dual", by_dual(case.own), by_dual(case.theirs), given)
    for at in range(4):
        as_exact(f"argument {at}", by_dual(case.own, at), by_dual(case.theirs, at), given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_reverse_mode(case: Case, dtype: torch.dtype) -> None:
    def gradients(function: Function) -> Function:
        def call(*args: Tensor) -> Tensor:
            def loss(*args: Tensor) -> Tensor:
                return function(*args).pow(3).sum()

            found = grad(loss, argnums=(0, 1, 2, 3))(*args)
            return torch.cat([g.flatten() for g in found])

        return call

    as_exact("grad", gradients(case.own), gradients(case.theirs), inputs(dtype))


def test_both_modes_are_transposes(case: Case) -> None:
    """<Jv, u> = <v, J^T u>."""
    given = inputs()
    v = tangents_of(given)
    y, pushed = jvp(case.own, given, v)
    u = torch.randn_like(y)
    pulled = vjp(case.own, *given)[1](u)
    one = (pushed * u).sum()
    other = sum((a * b).sum() for a, b in zip(v, pulled, strict=True))
    size = pushed.norm() * u.norm()
    assert size > 0
    assert (one - other).abs() <= FLOOR[torch.float64] * size


def test_second_derivatives(case: Case) -> None:
    """Forward over reverse (hessian), and either mode over itself and the other.

    PyTorch's batch norm is wrong in forward over forward mode (2.13), so all are held to its
    reverse over reverse.
    """
    x, *rest = inputs()
    x = x[:, :, :3, :3].contiguous()

    def along(function: Function) -> Function:
        direction, across = torch.randn_like(x), torch.randn_like(x)
        return lambda t, s: function(x + t * direction + s * across, *rest).pow(2).sum()

    torch.manual_seed(3)
    own = along(case.own)
    torch.manual_seed(3)
    theirs = along(case.theirs)
    at = torch.tensor(0.1, dtype=torch.float64), torch.tensor(-0.2, dtype=torch.float64)
    expected = jacrev(jacrev(theirs))(*at)
    assert expected.abs().max() > 0
    for name, second in (
        ("hessian", hessian(own)),
        ("jacrev of jacfwd", jacrev(jacfwd(own))),
        ("jacfwd of jacfwd", jacfwd(jacfwd(own))),
        ("jacrev of jacrev", jacrev(jacrev(own))),
    ):
        assert_as_exact(name, second(*at), expected, expected)


@pytest.mark.parametrize(
    "dims", [(0, None, None, None), (0, 0, 0, 0), (None, 0, 0, 0), (1, 0, 0, 0)]
)
def test_vmap(case: Case, dims: tuple[int | None, ...]) -> None:
    """Over inputs, over parameters, over both; memory in any order."""
    single = inputs()
    given = tuple(
        t if d is None else torch.stack([t, t * 0.7 + 0.1, -t], d)
        for t, d in zip(single, dims, strict=True)
    )
    given = (given[0], given[1].abs() if dims[1] is not None else given[1], *given[2:])
    found = vmap(case.own, dims)(*given)
    one_by_one = [
        case.theirs(*(t if d is None else t.select(d, i) for t, d in zip(given, dims, strict=True)))
        for i in range(3)
    ]
    exact = torch.stack(one_by_one)
    assert_as_exact("vmap", found, exact, exact, size=1.0)


def test_gradients_of_single_samples() -> None:
    """vmap of grad: what differential privacy asks for; and a Jacobian of a batch by vmap."""
    x, _, bias, taps = inputs()
    _, weight, *_ = inputs()

    def loss(function: Function) -> Function:
        return lambda w, b, t, image: function(image[None], w, b, t).pow(2).sum()

    for name in ("norm_act evaluation", "instance_norm_act", "bias_act", "norm_act_conv"):
        case = CASES[name]
        own, theirs = (
            vmap(grad(loss(f), (0, 1, 2)), (None, None, None, 0))(weight, bias, taps, x)
            for f in case
        )
        torch.testing.assert_close(own, theirs, **within(torch.float64, 1000, 1))


# Past the public functions.


def operators() -> list[tuple[Any, tuple[Any, ...]]]:
    """Every differentiable operator of the library with arguments for it, the backend left out."""
    x, weight, bias, taps = inputs()
    mean, var = torch.zeros(1, 4).double(), torch.ones(1, 4).double()
    spec, namespace = (1e-5, 1, 0.2, 1, False), torch.ops.fastgan
    around = (1e-5, 0, 0.2, [1, 1], [1, 1], [0, 0], False, 1, 0.2)
    whole = (1e-5, 1, 0.2, True, 1, *around[3:])
    y = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    rows = torch.zeros(1, 2).double()
    none = (None,) * 4
    return [
        (namespace.bias_act, (x, bias, 1, 0.2)),
        (namespace.bias_act_backward, (x, torch.tanh(x), 1, 0.2, True)),
        (namespace.norm_act_train, (x, weight, bias, *spec)),
        (namespace.norm_act_eval, (x, mean, var, weight, bias, *spec)),
        (namespace.norm_act_backward, (x, x + 1, mean, var, weight, bias, *spec, True, True, True)),
        (namespace.norm_act_conv, (x, taps, None, None, None, weight, bias, *whole, False)),
        (
            namespace.norm_act_conv_backward,
            (y, x, y, None, taps, mean, var, weight, bias, *whole, True, True, False, True),
        ),
        (namespace.conv_block, (x, taps, None, mean, var, weight, bias, *around, 1)),
        (
            namespace.conv_block_backward,
            (y, rows, rows, x, y, rows, taps, *none, *around, 1, True, True, False),
        ),
    ]


def test_every_operator_with_a_derivative_is_tried() -> None:
    names = {str(op).removeprefix("fastgan.") for op, _ in operators()}
    registered = {
        name.removeprefix("fastgan::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("fastgan::")
        and torch._C._dispatch_has_kernel_for_dispatch_key(name, "Autograd")
    }
    assert registered == names


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("form", ["jvp", "dual", "dual of a leaf"])
def test_an_operator_called_by_itself_has_a_tangent(index: int, form: str) -> None:
    """By finite differences, in every tensor that it takes."""
    op, args = operators()[index]
    at = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
    point = [args[i] for i in at]
    directions = [0.1 * torch.randn_like(t) for t in point]
    statistics = {"norm_act_backward": (2, 3), "norm_act_conv_backward": (5, 6)}
    of_x = statistics.get(str(op).removeprefix("fastgan."), ())

    def call(*tensors: Tensor) -> Tensor:
        given = list(args)
        for i, t in zip(at, tensors, strict=True):
            given[i] = t
        if of_x:
            given[of_x[0]] = given[1].mean((0, 2, 3))[None]
            given[of_x[1]] = given[1].var((0, 2, 3), unbiased=False)[None]
        found = op(*given, "auto")
        return found[0] if isinstance(found, tuple) else found

    step = 1e-5
    ahead, behind = (
        call(*(t + s * step * d for t, d in zip(point, directions, strict=True))) for s in (1, -1)
    )
    if form == "jvp":
        _, tangent = jvp(call, tuple(point), tuple(directions))
    else:
        with fwd.dual_level():
            leaves = [t.clone().requires_grad_(form != "dual") for t in point]
            duals = [fwd.make_dual(t, d) for t, d in zip(leaves, directions, strict=True)]
            tangent = fwd.unpack_dual(call(*duals)).tangent
            assert tangent is not None
            tangent = tangent.detach()
    assert tangent.abs().max() > 0
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", list(CASES))
def test_tangents_of_gradients(name: str) -> None:
    """A backward made outside of a level carries the tangent of the gradient that it is given."""
    case, given = CASES[name], [t.requires_grad_() for t in inputs()]
    for create_graph in (False, True):
        found = []
        for function in case:
            y = function(*given)
            torch.manual_seed(5)
            g = torch.randn(y.shape, dtype=y.dtype)
            with fwd.dual_level():
                dual = fwd.make_dual(torch.ones_like(y), g)
                gradients = torch.autograd.grad(
                    y, given, dual, allow_unused=True, create_graph=create_graph
                )
                tangents = [None if t is None else fwd.unpack_dual(t).tangent for t in gradients]
            found.append([t.detach() for t in tangents if t is not None])
        own, theirs = found
        assert len(own) == len(theirs)
        assert own
        for a, b in zip(own, theirs, strict=True):
            assert_as_exact("tangent", a, b, b)


# Backends asked for by name.


def test_a_backend_by_name_runs_or_says_why_not(native: None) -> None:
    x = torch.randn(2, 4, 3, 5, 5)

    def call(x: Tensor) -> Tensor:
        return ops.bias_act(ops.norm_act(x, None, None, training=True), activation="tanh")

    expected = torch.stack([call(t) for t in x])
    with ops.backend("cpu"):
        torch.testing.assert_close(vmap(call)(x), expected)
        for transform in (
            lambda: jvp(call, (x[0],), (x[0],)),
            lambda: grad(lambda t: call(t).sum())(x[0]),
        ):
            with pytest.raises(RuntimeError, match="'cpu' cannot run: forward-mode"):
                transform()
        with fwd.dual_level():
            assert torch.equal(call(x[0]), expected[0])  # no tangent, no need
            with pytest.raises(RuntimeError, match="'cpu' cannot run: forward-mode"):
                call(fwd.make_dual(x[0], x[0]))
    with ops.backend("reference"):
        assert jvp(call, (x[0],), (x[1],))[1].abs().max() > 0
