"""Device functions shared by the Triton kernels: tiles, activations, merged sums.

A kernel sees its tensor as tiles of ``BLOCK_R`` values by ``BLOCK_W`` columns. Columns are
channels; axis 0 is whatever a channel is reduced over. ``Geometry`` in ``geometry.py`` says how
the two memory layouts map to it:

- channels-last: one plane a segment; element (l, w) of segment g is at ``(g * length + l) * width
  + w``. Where C has no factor of 16, ``FOLD`` consecutive rows are taken as one row of ``FOLD * C``
  columns, so that loads stay 16 bytes wide; column w is then channel ``w % C``.
- contiguous: ``planes`` images a segment; element (l, w) of plane p is at
  ``((g * planes + p) * width + w) * length + l``. ``BLOCK_P`` planes share a tile.

Extents arrive divided by ``VEC`` where the inner one is meant: ``units * VEC`` tells the compiler
the divisibility that vectorised loads and stores need, for any multiple of 2, 4, 8 or 16.
"""

import triton
import triton.language as tl


@triton.jit
def activate(y, slope, ACT: tl.constexpr):
    """act(y) in float32: 0 leaky_relu, 1 tanh, 2 sigmoid. NaN stays NaN, as in torch."""
    if ACT == 0:
        out = tl.where(y > 0, y, y * slope)
    elif ACT == 1:
        out = _tanh(y)
    else:
        out = 1.0 / (1.0 + tl.exp(-y))
    return out


@triton.jit
def _tanh(y):
    """tanh from exp. Below 0.625, where 1 - 2 / (e^2y + 1) cancels, y + y^3 q(y^2) with q the
    degree-4 minimax fit of (tanh(y) / y - 1) / y^2 (relative error below 5e-9 before rounding).
    """
    magnitude = tl.abs(y)
    square = y * y
    q = -0.00570498407
    q = q * square + 0.0206390843
    q = q * square - 0.0537397154
    q = q * square + 0.133314416
    q = q * square - 0.333332807
    near = y + y * square * q
    far = 1.0 - 2.0 / (tl.exp(2.0 * magnitude) + 1.0)
    return tl.where(magnitude < 0.625, near, tl.where(y < 0, -far, far))


@triton.jit
def activation_grad(y, slope, ACT: tl.constexpr):
    """act'(y). LeakyReLU's derivative at 0 and at NaN is the slope, as in torch."""
    if ACT == 0:
        grad = tl.where(y > 0, 1.0, slope)
    elif ACT == 1:
        t = _tanh(y)
        grad = 1.0 - t * t
    else:
        s = 1.0 / (1.0 + tl.exp(-y))
        grad = s * (1.0 - s)
    return grad


@triton.jit
def activation_grad_from_output(z, slope, ACT: tl.constexpr):
    """act' from z = act(y). For LeakyReLU the sign of z is the sign of y, since slope >= 0."""
    if ACT == 0:
        grad = tl.where(z > 0, 1.0, slope)
    elif ACT == 1:
        grad = 1.0 - z * z
    else:
        grad = z * (1.0 - z)
    return grad


@triton.jit
def split_program(column_blocks, chunks):
    """(segment, chunk, column block) of this program; columns fastest, since they are adjacent.

    One grid axis carries all three: the other two axes of a CUDA grid end at 65535.
    """
    pid = tl.program_id(0)
    rest = pid // column_blocks
    return (rest // chunks).to(tl.int64), rest % chunks, pid % column_blocks


@triton.jit
def extents(length, width, units, VEC: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """(length, width) with the inner one rebuilt as ``units * VEC``: its divisibility is known."""
    if CHANNELS_LAST:
        width = units * VEC
    else:
        length = units * VEC
    return length, width


@triton.jit
def channel_of(column, width, FOLD: tl.constexpr):
    """The channel of a (folded) column."""
    if FOLD > 1:
        column = column % (width // FOLD)
    return column


@triton.jit
def tile(
    t,
    segment,
    column0,
    planes,
    length,
    width,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Element offsets (64 bits) and the mask of tile ``t`` of a segment.

    Plane groups run fastest, the tail along ``length`` comes last: so every value of a lane that is
    masked off in a tail tile came before, and all lanes share one running count (see _welford).
    Offsets inside a tile have 32 bits, which saves registers, unless a tile spans more (WIDE).
    """
    lane = tl.arange(0, BLOCK_P * BLOCK_L)
    column = tl.arange(0, BLOCK_W)
    along = lane % BLOCK_L
    plane = lane // BLOCK_L
    across = column
    if WIDE:
        lane = lane.to(tl.int64)
        plane = plane.to(tl.int64)
        across = column.to(tl.int64)
    if CHANNELS_LAST:
        l0 = tl.cast(t, tl.int64) * BLOCK_L
        start = (segment * length + l0) * width + column0
        inner = lane[:, None] * width + across[None, :]
    else:
        groups = planes // BLOCK_P
        l0 = tl.cast(t // groups, tl.int64) * BLOCK_L
        start = ((segment * planes + (t % groups) * BLOCK_P) * width + column0) * length + l0
        inner = across[None, :] * length + (plane * width * length + along)[:, None]
    mask = (l0 + along < length)[:, None] & (column0 + column < width)[None, :]
    return start + inner, mask


@triton.jit
def chunk_counts(
    first,
    last,
    planes,
    length,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Of tiles [first, last): (how many are full, how many are tails, the tail's length)."""
    groups = 1 if CHANNELS_LAST else planes // BLOCK_P
    tiles_along = (length + BLOCK_L - 1) // BLOCK_L
    boundary = (tiles_along - 1) * groups
    full = tl.minimum(last, boundary) - tl.minimum(first, boundary)
    return full, last - first - full, length - (tiles_along - 1) * BLOCK_L


@triton.jit(do_not_specialize=("groups", "groups_per_program", "partials", "C"))
def merge_sums(
    partial0,
    partial1,
    out0,
    out1,
    total0,
    total1,
    groups,
    groups_per_program,
    partials,
    C,
    PAIR: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums (groups, partials, C) over ``partials`` into ``out`` (groups, C), and over groups too
    into ``total`` (C), always in the same order. ``out`` or ``total`` may be None; with PAIR two
    arrays go through one launch. Reads 4 bytes a partial, writes 4 bytes a sum.
    """
    column_blocks = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    column = (pid % column_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = column < C
    g0 = (pid // column_blocks).to(tl.int64) * groups_per_program
    running0 = tl.zeros([BLOCK_C], tl.float32)
    running1 = tl.zeros([BLOCK_C], tl.float32)
    for g in range(g0, tl.minimum(g0 + groups_per_program, groups)):
        start = g * partials * C
        sum0 = _sum_partials(partial0 + start, partials, C, column, BLOCK_K, BLOCK_C)
        running0 += sum0
        if out0 is not None:
            tl.store(out0 + g * C + column, sum0, inside)
        if PAIR:
            sum1 = _sum_partials(partial1 + start, partials, C, column, BLOCK_K, BLOCK_C)
            running1 += sum1
            if out1 is not None:
                tl.store(out1 + g * C + column, sum1, inside)
    if total0 is not None:
        tl.store(total0 + column, running0, inside)
    if PAIR and total1 is not None:
        tl.store(total1 + column, running1, inside)


@triton.jit
def _sum_partials(start, partials, C, column, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):
    acc = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for k0 in range(0, partials, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        mask = (k < partials)[:, None] & (column < C)[None, :]
        acc += tl.load(start + k[:, None].to(tl.int64) * C + column[None, :], mask, other=0.0)
    return tl.sum(acc, 0)


@triton.jit
def log1p(e):
    """log(1 + e), also where e is below the precision of 1 (Kahan)."""
    u = 1.0 + e
    lost = u == 1.0
    return tl.where(lost, e, tl.log(u) * (e / tl.where(lost, 1.0, u - 1.0)))


@triton.jit
def sigmoid(x):
    """From exp of what is below 0, which does not overflow."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)
