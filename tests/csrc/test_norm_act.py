"""The CUDA kernels of norm_act, run on the host, against float64 PyTorch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tolerance import FLOOR, assert_as_exact, within

EPS = 1e-5

# Of batch, channels, positions and segments.
SHAPES = [
    (4, 8, 16, 1), (6, 7, 9, 3), (8, 24, 40, 2), (5, 16, 8, 5), (3, 2, 301, 1), (32, 40, 1, 2),
]  # fmt: skip
PATHS = ["streamed", "single_pass", "cluster"]


class Case(NamedTuple):
    problem: Any
    x: torch.Tensor
    dz: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None


class Result(NamedTuple):
    z: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor
    dx: torch.Tensor
    dweight: torch.Tensor | None
    dbias: torch.Tensor | None


def make_case(p: Any, affine: bool = True, offset: float = 0.5, seed: int = 0) -> Case:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(p.shape, generator=g) + offset
    dz = torch.randn(p.shape, generator=g)
    weight = torch.randn(p.channels, generator=g) if affine else None
    bias = torch.randn(p.channels, generator=g) if affine else None
    return Case(p, x.to(p.dtype), dz.to(p.dtype), weight, bias)


def of_torch(
    case: Case, dtype: torch.dtype, stats: tuple[torch.Tensor, torch.Tensor] | None = None
) -> Result:
    """PyTorch's own norm and activation at `dtype`, segment by segment; `stats` for eval."""
    p = case.problem
    parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    x = case.x.to(dtype).requires_grad_()
    affine = [None if t is None else t.to(parameter_dtype) for t in (case.weight, case.bias)]
    w, b = (None if t is None else t.requires_grad_() for t in affine)
    out, means, variances = [], [], []
    for s, part in enumerate(x.chunk(p.segments)):
        part = p.activated(part) if p.act_first else part
        if stats is None:
            y = F.batch_norm(part, None, None, w, b, training=True, eps=EPS)
        else:
            mean, var = (t[s].to(parameter_dtype) for t in stats)
            y = F.batch_norm(part, mean, var, w, b, training=False, eps=EPS)
        out.append(y if p.act_first else p.activated(y))
        wide = part.detach().double()
        means.append(wide.mean((0, 2)))
        variances.append(wide.var((0, 2), unbiased=False))
    z = torch.cat(out)
    z.backward(case.dz.to(dtype))
    grads = [None if t is None else t.grad for t in (w, b)]
    return Result(z.detach(), torch.stack(means), torch.stack(variances), x.grad, *grads)


def emulate(
    emulator: Any,
    case: Case,
    stats: tuple[torch.Tensor, torch.Tensor] | None = None,
    need_dx: bool = True,
    need_dparams: bool = True,
) -> tuple[Result, tuple[Any, Any]]:
    p = case.problem
    x, dz = p.lay(case.x), p.lay(case.dz)
    z, dx = emulator.blank(x), emulator.blank(x) if need_dx else None
    parameters = torch.empty(p.channels)
    if stats is None:
        mean = emulator.blank(torch.empty(p.segments, p.channels))
        var = emulator.blank(mean)
        forward = emulator.call("train", p, x, case.weight, case.bias, EPS, z, mean, var)
    else:
        mean, var = stats
        forward = emulator.call("eval", p, x, mean, var, case.weight, case.bias, EPS, z)
    dw, db = (emulator.blank(parameters) if need_dparams else None for _ in range(2))
    backward = emulator.call(
        "backward", p, dz, x, mean, var, case.weight, case.bias, EPS, stats is None, dx, dw, db
    )
    result = Result(p.unlay(z), mean, var, None if dx is None else p.unlay(dx), dw, db)
    return result, (forward, backward)


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    assert torch.isfinite(found).all()
    return (found.double() - truth.double()).abs().max().item()


def check(found: Result, truth: Result, own: Result) -> None:
    for name in ("z", "mean", "var", "dx", "dweight", "dbias"):
        f, t, o = (getattr(r, name) for r in (found, truth, own))
        if f is None or t is None:
            continue
        # Statistics and parameter gradients are float32 sums whatever x is.
        wide = f.dtype == torch.float32
        assert_as_exact(name, f, o, t, floor=f.dtype, size=1.0, share=1.0 if wide else 0.4)


def on_path(p: Any, path: str) -> Any:
    if path == "streamed":
        return p
    return p.single_pass() if path == "single_pass" else p.single_pass(40, 8)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_training(emulator, problem, shape, channels_last, dtype, path):
    n, c, s, segments = shape
    p = on_path(problem(n, c, s, dtype, channels_last, segments), path)
    case = make_case(p)
    found, (forward, backward) = emulate(emulator, case)
    check(found, of_torch(case, torch.float64), of_torch(case, dtype))
    single = p.wide and path != "streamed"
    assert (forward.cluster > 0) == single
    assert forward.launches == (1 if single else forward.launches)
    assert not single or backward.launches == (1 if segments == 1 else 2)


def test_sixteen_blocks_merge_to_the_statistics(emulator, problem):
    """Of a mean far from zero, the last block's part the shortest."""
    p = problem(16, 8, 1100, torch.bfloat16, sms=132).single_pass(99, 16)
    case = make_case(p)
    case = case._replace(x=case.x + 50.0)
    found, (forward, _) = emulate(emulator, case)
    assert forward.cluster == 16
    check(found, of_torch(case, torch.float64), of_torch(case, torch.bfloat16))


@pytest.mark.parametrize("act_first", [False, True])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_activations_and_orders(emulator, problem, path, channels_last, activation, act_first):
    p = on_path(
        problem(6, 8, 12, torch.float32, channels_last, 2, activation, act_first=act_first), path
    )
    case = make_case(p)
    found, _ = emulate(emulator, case)
    check(found, of_torch(case, torch.float64), of_torch(case, torch.float32))


@pytest.mark.parametrize("slope", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("affine", [True, False])
def test_relu_identity_and_no_affine(emulator, problem, slope, affine):
    p = problem(4, 12, 10, torch.float32, slope=slope)
    case = make_case(p, affine)
    found, _ = emulate(emulator, case)
    check(found, of_torch(case, torch.float64), of_torch(case, torch.float32))


@pytest.mark.parametrize("act_first", [False, True])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("segments", [1, 3])
def test_eval(emulator, problem, segments, channels_last, act_first):
    p = problem(6, 8, 20, torch.float32, channels_last, segments, act_first=act_first)
    stats = (torch.randn(segments, 8), torch.rand(segments, 8) + 0.1)
    case = make_case(p)
    found, (forward, backward) = emulate(emulator, case, stats)
    truth, own = (of_torch(case, d, stats) for d in (torch.float64, torch.float32))
    check(found._replace(mean=None, var=None), truth, own)
    assert forward.launches == 1
    # Sums over chunks (here one) and segments, then dx.
    assert backward.launches == (2 if segments == 1 else 3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("segments", [1, 2])
def test_only_what_is_asked_for_is_computed(emulator, problem, path, segments):
    p = on_path(problem(8, 16, 64, torch.float32, segments=segments), path)
    case = make_case(p)
    truth, own = (of_torch(case, d) for d in (torch.float64, torch.float32))
    alone, (_, launches) = emulate(emulator, case, need_dparams=False)
    check(alone, truth, own)
    if path != "streamed":
        assert launches.launches == 1
    parameters, (_, launches) = emulate(emulator, case, need_dx=False)
    check(parameters, truth, own)
    assert launches.cluster == 0
    assert launches.launches == 2, "one pass over dz and x, one merge: no dx"


@pytest.mark.parametrize("channels_last", [True, False])
def test_many_chunks_merge_to_the_statistics(emulator, problem, channels_last):
    # 132 SMs over few columns: hundreds of chunks, the last one short.
    p = problem(64, 4, 1004, torch.float32, channels_last, sms=132)
    case = make_case(p)
    found, (forward, _) = emulate(emulator, case)
    assert forward.launches == 3
    check(found, of_torch(case, torch.float64), of_torch(case, torch.float32))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_mean_far_from_zero_costs_no_digits(emulator, problem, channels_last, path):
    # Identity: at a kink the mean's last digit alone decides the side, here as in PyTorch.
    p = on_path(problem(16, 8, 64, torch.float32, channels_last, slope=1.0), path)
    case = make_case(p, offset=1e4)
    found, _ = emulate(emulator, case)
    truth, own = (of_torch(case, d) for d in (torch.float64, torch.float32))
    assert error(found.mean, truth.mean) <= 2.0**-10, "one unit in the last place of 1e4"
    assert error(found.var, truth.var) <= 200 * FLOOR[torch.float32]
    assert error(found.z, truth.z) <= 2 * error(own.z, truth.z)

    # The backward's own arithmetic, given the mean and variance that the forward returned.
    m, v, w = (t.double().view(-1, 1) for t in (found.mean, found.var, case.weight))
    dz, rstd = case.dz.double(), (v + EPS).rsqrt()
    xhat = (case.x.double() - m) * rstd
    k0, k1 = dz.mean((0, 2), keepdim=True), (dz * xhat).mean((0, 2), keepdim=True)
    assert error(found.dx, w * rstd * (dz - k0 - xhat * k1)) <= 2 * FLOOR[torch.float32]
    assert error(found.dweight, (dz * xhat).sum((0, 2))) <= 100 * FLOOR[torch.float32]
    assert error(found.dbias, dz.sum((0, 2))) <= 20 * FLOOR[torch.float32]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_stay_in_their_channel(emulator, problem, path, value):
    p = on_path(problem(4, 8, 16, torch.float32, segments=2), path)
    case = make_case(p)
    case.x[0, 3, 5] = value
    x = p.lay(case.x)
    z, mean, var = torch.empty_like(x), torch.empty(2, 8), torch.empty(2, 8)
    emulator.call("train", p, x, case.weight, case.bias, EPS, z, mean, var)
    bad = torch.isnan(p.unlay(z))
    expected = torch.isnan(of_torch(case, torch.float32).z)
    assert torch.equal(bad, expected)
    assert bad[:2, 3].all()
    assert bad.sum() == 2 * 16


def test_eval_passes_a_gradient_at_infinity(emulator, problem):
    p = problem(2, 4, 8, torch.float32)
    case = make_case(p)
    case.x[0, 1, 2] = math.inf
    stats = (torch.zeros(1, 4), torch.ones(1, 4))
    x, dz = p.lay(case.x), p.lay(case.dz)
    dx = emulator.blank(x)
    emulator.call("backward", p, dz, x, *stats, case.weight, case.bias, EPS, False, dx, None, None)
    assert torch.allclose(
        p.unlay(dx), of_torch(case, torch.float32, stats).dx, **within(torch.float32, 10, 0.01)
    )


@pytest.mark.parametrize("path", PATHS)
def test_two_runs_agree_bit_for_bit(emulator, problem, path):
    case = make_case(on_path(problem(8, 8, 64, torch.bfloat16, segments=2), path))
    first, _ = emulate(emulator, case)
    second, _ = emulate(emulator, case)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("average", [False, True])
def test_running_statistics(emulator, average):
    segments, channels, count, momentum = 3, 300, 12, 0.3
    mean, var = torch.randn(segments, channels), torch.rand(segments, channels)
    running_mean, running_var = torch.randn(channels), torch.rand(channels)
    m, v = running_mean.double(), running_var.double()
    unbiased = var.double() * count / (count - 1)
    if average:
        m = (1 - momentum) * m + momentum * mean.double().mean(0)
        v = (1 - momentum) * v + momentum * unbiased.mean(0)
    else:
        for s in range(segments):
            m = (1 - momentum) * m + momentum * mean[s].double()
            v = (1 - momentum) * v + momentum * unbiased[s]
    emulator.call(
        "running", None, segments, channels, momentum, count, average, mean, var,
        running_mean, running_var,
    )  # fmt: skip
    assert torch.allclose(running_mean.double(), m, **within(torch.float32, 1, 1))
    assert torch.allclose(running_var.double(), v, **within(torch.float32, 1, 1))
