"""Triton launchers of adam: one pass over the gradients says whether all are finite, another moves
weights, moments and counts, and with them averages and copies of the weights.

Bytes moved, of n weights: 4 n and then 28 n; for averages 8 n more, for copies 2 n.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from fastgan.kernels.core.geometry import cdiv, device_guard

Tensor = torch.Tensor
Tensors = Sequence[Tensor]
Perhaps = Sequence[Tensor | None]

# Values of a turn and turns of a program of the check; values of a program of the update.
CHECK, TURNS, UPDATE, WARPS = 2048, 8, 1024, 8
MAX_TENSORS = 256  # the address of each gradient is an argument of the launch
MAX_TABLES = 16


def adam_(
    parameters: Tensors,
    gradients: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    steps: Tensors,
    averages: Perhaps,
    copies: Perhaps,
    lr: Tensor,
    rate: Tensor | None,
    found: Tensor | None,
    skipped: Tensor | None,
    rule: tuple[float, float, float, float],
) -> None:
    """As `fastgan.ops.adam.reference.adam_`, of at most MAX_TENSORS parameters: float32, those of a
    parameter dense and of its strides, each at whole 16 bytes; copies of one dtype.
    """
    first, count = parameters[0], len(parameters)
    table, checks, updates = _table(parameters, exp_avgs, exp_avg_sqs, steps, averages, copies)
    addresses = torch.empty(count, dtype=torch.int64, device=first.device)
    flags = torch.empty(checks, dtype=torch.int32, device=first.device)
    before = first.new_empty(count)
    copy = next((str(c.dtype).removeprefix("torch.") for c in copies if c is not None), "")
    tensors = triton.next_power_of_2(count)
    with device_guard(first):
        check_kernel[(checks,)](
            tuple(gradients), table, addresses, before, flags, count, GIVEN=found is not None,
            TENSORS=tensors, BLOCK=CHECK, TURNS=TURNS, num_warps=WARPS,
        )  # fmt: skip
        adam_kernel[(updates,)](
            table, addresses, before, flags, lr, rate, found, skipped, count, checks,
            *_factors(*rule), COPY=copy, TENSORS=tensors, BLOCK=UPDATE, num_warps=WARPS,
        )  # fmt: skip


def _factors(beta1: float, beta2: float, eps: float, decay: float) -> tuple[float, ...]:
    """What is taken of a rule in float64, which float32 knows too few digits for.

    Floats all, for Triton compiles a kernel anew for integers such as a decay of 0.
    """
    logs = (math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2))
    return tuple(map(float, (*logs, 1 - beta1, 1 - beta2, eps, decay)))


def _table(
    parameters: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    steps: Tensors,
    averages: Perhaps,
    copies: Perhaps,
) -> tuple[Tensor, int, int]:
    """(a row for each list, sizes, first programs; the programs of the check, of the update)."""
    lists = parameters, exp_avgs, exp_avg_sqs, steps, averages, copies
    addresses = tuple(tuple(0 if t is None else t.data_ptr() for t in given) for given in lists)
    sizes, device = tuple(t.numel() for t in parameters), parameters[0].device
    key = addresses, sizes, device
    captured = parameters[0].is_cuda and torch.cuda.is_current_stream_capturing()
    found = _tables.get(key)
    if found is None:
        found, host = _made_table(*key)
        if captured:  # it is filled when the graph runs
            _of_graphs.append(host)
        else:
            while len(_tables) >= MAX_TABLES:
                del _tables[next(iter(_tables))]
            _tables[key] = found
    if captured:
        _of_graphs.append(found[0])
    return found


def _made_table(
    addresses: tuple[tuple[int, ...], ...], sizes: tuple[int, ...], device: torch.device
) -> tuple[tuple[Tensor, int, int], Tensor]:
    """A table, and what it is copied from."""
    rows, programs = [*addresses, sizes], []
    for block in (CHECK * TURNS, UPDATE):
        ends = [0]
        for size in sizes:
            ends.append(ends[-1] + cdiv(size, block))
        rows.append(tuple(ends[:-1]))
        programs.append(ends[-1])
    host = torch.tensor(rows, dtype=torch.int64)
    host = host.pin_memory() if device.type == "cuda" else host
    return (host.to(device, non_blocking=True), programs[0], programs[1]), host


_tables: dict[object, tuple[Tensor, int, int]] = {}
_of_graphs: list[Tensor] = []  # what graphs read, each time they run


@triton.jit(do_not_specialize=("count",))
def check_kernel(
    gradients,
    table_ptr,
    addresses_ptr,
    before_ptr,
    flags_ptr,
    count,
    GIVEN: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
    TURNS: tl.constexpr,
):
    """flags: of each program, whether a gradient of its own is not finite, unless that is GIVEN.

    For the update, whose programs may not read what one of them writes: the gradients' addresses,
    and the counts of steps as they are before it.
    """
    which, block = _place(table_ptr + 7 * count, count, TENSORS)
    address = _chosen(gradients, which)
    if block == 0:
        tl.store(addresses_ptr + which, address)
        tl.store(before_ptr + which, tl.load(_row(table_ptr, 3, count, which)))
    if not GIVEN:
        g_ptr = _floats(address)
        n = tl.load(table_ptr + 6 * count + which)
        start = block.to(tl.int64) * (BLOCK * TURNS)
        wrong = tl.zeros([BLOCK], tl.int32)
        for i0 in range(start, min(start + BLOCK * TURNS, n), BLOCK):
            i = i0 + tl.arange(0, BLOCK)
            if i0 + BLOCK <= n:  # without a mask, which would make loads narrow
                wrong |= _is_wrong(tl.load(g_ptr + i))
            else:
                wrong |= _is_wrong(tl.load(g_ptr + i, i < n, other=0.0))
        tl.store(flags_ptr + tl.program_id(0), tl.max(wrong, 0))


@triton.jit(do_not_specialize=("count", "checks"))
def adam_kernel(
    table_ptr,
    addresses_ptr,
    before_ptr,
    flags_ptr,
    lr_ptr,
    rate_ptr,
    found_ptr,
    skipped_ptr,
    count,
    checks,
    log1,
    log2,
    new1,
    new2,
    eps,
    decay,
    COPY: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one parameter a program."""
    which, block = _place(table_ptr + 8 * count, count, TENSORS)
    skips = tl.load(found_ptr) != 0 if found_ptr is not None else _any(flags_ptr, checks)
    if skipped_ptr is not None and tl.program_id(0) == 0:
        tl.store(skipped_ptr, tl.load(skipped_ptr) + skips.to(tl.float32))
    step = tl.load(before_ptr + which) + 1.0
    if block == 0:
        tl.store(_row(table_ptr, 3, count, which), tl.where(skips, step - 1.0, step))
    n = tl.load(table_ptr + 6 * count + which)
    size = tl.load(lr_ptr) / _one_minus_power(step, log1)
    scale = 1.0 / tl.sqrt(_one_minus_power(step, log2))
    i0 = block.to(tl.int64) * BLOCK
    i = i0 + tl.arange(0, BLOCK)
    if i0 + BLOCK <= n:  # without a mask, which would make loads and stores narrow
        _update(
            table_ptr, addresses_ptr, rate_ptr, count, which, i, None, skips, size, scale,
            new1, new2, eps, decay, COPY,
        )  # fmt: skip
    else:
        _update(
            table_ptr, addresses_ptr, rate_ptr, count, which, i, i < n, skips, size, scale,
            new1, new2, eps, decay, COPY,
        )  # fmt: skip


@triton.jit
def _update(
    table_ptr, addresses_ptr, rate_ptr, count, which, i, mask, skips, size, scale,
    new1, new2, eps, decay, COPY: tl.constexpr,
):  # fmt: skip
    p_ptr = _row(table_ptr, 0, count, which) + i
    p = tl.load(p_ptr, mask)
    if not skips:
        m_ptr = _row(table_ptr, 1, count, which) + i
        v_ptr = _row(table_ptr, 2, count, which) + i
        g = tl.load(_floats(tl.load(addresses_ptr + which)) + i, mask) + decay * p
        m = tl.load(m_ptr, mask)
        v = tl.load(v_ptr, mask)
        m += new1 * (g - m)
        v += new2 * (g * g - v)
        p -= size * m / (tl.sqrt(v) * scale + eps)
        tl.store(m_ptr, m, mask)
        tl.store(v_ptr, v, mask)
        tl.store(p_ptr, p, mask)
    if rate_ptr is not None:  # of all parameters, or of none
        a_ptr = _row(table_ptr, 4, count, which) + i
        a = tl.load(a_ptr, mask)
        tl.store(a_ptr, a - tl.load(rate_ptr) * (p - a), mask)
    if COPY != "":
        copy = tl.load(table_ptr + 5 * count + which)
        if copy != 0:
            c_ptr = copy.to(tl.pointer_type(tl.bfloat16 if COPY == "bfloat16" else tl.float16))
            c_ptr = tl.multiple_of(c_ptr, 16) + i
            tl.store(c_ptr, p.to(c_ptr.dtype.element_ty), mask)


@triton.jit
def _place(firsts_ptr, count, TENSORS: tl.constexpr):
    """(the tensor, the block of it) of this program, from the first program of each tensor."""
    i = tl.arange(0, TENSORS)
    pid = tl.program_id(0)
    firsts = tl.load(firsts_ptr + i, i < count, other=2147483647).to(tl.int32)
    begun = firsts <= pid
    return tl.sum(begun.to(tl.int32), 0) - 1, pid - tl.max(tl.where(begun, firsts, 0), 0)


@triton.jit
def _chosen(pointers, which):
    """The address that is the ``which``-th of arguments."""
    address = pointers[0].to(tl.int64)
    for i in tl.static_range(1, len(pointers)):
        address = tl.where(which == i, pointers[i].to(tl.int64), address)
    return address


@triton.jit
def _row(table_ptr, row, count, which):
    return _floats(tl.load(table_ptr + row * count + which))


@triton.jit
def _floats(address):
    return tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16)


@triton.jit
def _is_wrong(x):
    """1 where x is not finite."""
    return tl.where(tl.abs(x) <= 3.4028234663852886e38, 0, 1)


@triton.jit
def _any(flags_ptr, n):
    found = tl.zeros([1024], tl.int32)
    for i0 in range(0, n, 1024):
        i = i0 + tl.arange(0, 1024)
        found |= tl.load(flags_ptr + i, i < n, other=0)
    return tl.max(found, 0) != 0


@triton.jit
def _one_minus_power(step, log):
    """1 - beta^step with all its digits, also where that is near 0; log: of beta."""
    x = step * log
    series = 1.0 + x / 9.0
    for k in tl.static_range(8, 1, -1):
        series = 1.0 + x / k * series
    return tl.where(x > -0.5, -x * series, 1.0 - tl.exp(x))
