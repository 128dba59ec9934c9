"""The derivative of norm_act's backward, in plain differentiable PyTorch.

With x^ = (u - mean) * r, y = gamma x^ + beta, a = act'(y) dz and n values per (segment, channel),
the backward returns (sums over the n values, P(v) = v - mean(v) - x^ mean(v x^)):

    dx = gamma r P(a)      dgamma = sum a x^      dbeta = sum a

It is linear in a: for cotangents G, g_gamma, g_beta of the three it is sum a v with
v = gamma r P(G) + g_gamma x^ + g_beta, hence the gradient act'(y) v of dz. Through y goes
q = dz act''(y) v; through x^ goes
h = g_gamma a - gamma r / n (a sum(G x^) + G sum(a x^)) + gamma q;
and r = (var + eps)^-1/2 has dr/du = -r^2 x^ / n, so that with
K = sum(a G) - sum(a) sum(G) / n - sum(a x^) sum(G x^) / n the gradient of u is
r P(h) - gamma K r^2 x^ / n. In evaluation mean and r are constants and P is the identity. Where the
activation comes first, u = act(x), a = dz, q = 0 and dx = act'(x) du adds G act''(x) du.

Mean and variance are recomputed from x, so the result is itself right to differentiate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.core.activation import act, d2_act, d_act
from fastgan.ops.norm_act.arguments import Backward
from fastgan.ops.norm_act.reference import moments, per_channel, per_segment, split

_OVER = (1, 3)
_OVER_ALL = (0, 1, 3)


def norm_act_double_backward(
    g_dx: Tensor | None,
    g_dweight: Tensor | None,
    g_dbias: Tensor | None,
    given: Backward,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of (dz, x, weight, bias) from those of (dx, dweight, dbias); None is zero."""
    dz, x, mean, var, weight, bias, spec, training, _, _ = given
    eps, code, slope, segments, act_first = spec
    source, d_out = split(x, segments), split(dz, segments)
    u = act(source, code, slope) if act_first else source
    gamma, beta = per_channel(weight, 1.0, u), per_channel(bias, 0.0, u)
    g_gamma, g_beta = per_channel(g_dweight, 0.0, u), per_channel(g_dbias, 0.0, u)
    g_dx = torch.zeros_like(x) if g_dx is None else g_dx
    if training:
        mean, var = moments(u)
    r = per_segment(torch.rsqrt(var + eps))
    x_hat = (u - per_segment(mean)) * r
    n = max(1, u.shape[1] * u.shape[3])

    def project(v: Tensor) -> Tensor:
        if not training:
            return v
        mean_v, mean_vx = v.sum(_OVER, True) / n, (v * x_hat).sum(_OVER, True) / n
        return v - mean_v - x_hat * mean_vx

    g_du = split(g_dx, segments)
    if act_first:
        slope_in = d_act(source, code, slope)
        g_du = g_du * slope_in
        a, d_y = d_out, torch.ones_like(d_out)
    else:
        y = gamma * x_hat + beta
        d_y = d_act(y, code, slope)
        a = d_out * d_y
    v = gamma * r * project(g_du) + g_gamma * x_hat + g_beta
    g_dz = d_y * v

    through_y = torch.zeros_like(v) if act_first else d_out * d2_act(y, code, slope) * v
    h = g_gamma * a + gamma * through_y
    if training:
        sum_gx, sum_ax = (g_du * x_hat).sum(_OVER, True), (a * x_hat).sum(_OVER, True)
        h = h - gamma * r / n * (a * sum_gx + g_du * sum_ax)
        k = (a * project(g_du)).sum(_OVER, True)
        g_u = r * project(h) - gamma * k * r * r * x_hat / n
    else:
        k = (a * g_du).sum(_OVER, True)
        g_u = r * h
    g_x = g_u
    if act_first:
        du = gamma * r * project(a)
        g_x = g_u * slope_in + split(g_dx, segments) * d2_act(source, code, slope) * du

    g_weight = g_bias = None
    if weight is not None:
        total = (r * k).sum(_OVER_ALL) + (through_y * x_hat).sum(_OVER_ALL)
        g_weight = total.reshape(weight.shape).to(weight.dtype)
    if bias is not None:
        g_bias = through_y.sum(_OVER_ALL).reshape(bias.shape).to(bias.dtype)
    return g_dz.reshape(x.shape).to(dz.dtype), g_x.reshape(x.shape).to(x.dtype), g_weight, g_bias
