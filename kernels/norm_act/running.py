"""Device code of the running statistics, for norm_act and for norms that a convolution's merge."""

import triton
import triton.language as tl


@triton.jit
def move_running(
    running_mean_ptr,
    running_var_ptr,
    moments: tl.constexpr,
    given,
    momentum,
    segments,
    channel,
    inside,
    AVERAGE: tl.constexpr,
):
    """Moves the running statistics of channels towards those of each segment in turn, or towards
    their average: moments(segment, *given) gives (mean, unbiased variance) of one.
    """
    running_mean = tl.load(running_mean_ptr + channel, inside, other=0.0).to(tl.float32)
    running_var = tl.load(running_var_ptr + channel, inside, other=0.0).to(tl.float32)
    mean_sum = tl.zeros(channel.shape, tl.float32)
    var_sum = tl.zeros(channel.shape, tl.float32)
    for s in range(segments):
        mean, var = moments(tl.cast(s, tl.int64), *given)
        if AVERAGE:
            mean_sum += mean
            var_sum += var
        else:
            running_mean = (1.0 - momentum) * running_mean + momentum * mean
            running_var = (1.0 - momentum) * running_var + momentum * var
    if AVERAGE:
        running_mean = (1.0 - momentum) * running_mean + momentum * (mean_sum / segments)
        running_var = (1.0 - momentum) * running_var + momentum * (var_sum / segments)
    tl.store(running_mean_ptr + channel, running_mean.to(running_mean_ptr.dtype.element_ty), inside)
    tl.store(running_var_ptr + channel, running_var.to(running_var_ptr.dtype.element_ty), inside)


@triton.jit(do_not_specialize=("segments", "C"))
def running_kernel(
    running_mean_ptr,
    running_var_ptr,
    mean_ptr,
    var_ptr,
    momentum,
    unbiased,
    segments,
    C,
    AVERAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < C
    move_running(
        running_mean_ptr, running_var_ptr, _stored_moments,
        (mean_ptr, var_ptr, unbiased, C, channel, inside),
        momentum, segments, channel, inside, AVERAGE,
    )  # fmt: skip


@triton.jit
def _stored_moments(segment, mean_ptr, var_ptr, unbiased, C, channel, inside):
    at = segment * C + channel
    mean = tl.load(mean_ptr + at, inside, other=0.0)
    return mean, tl.load(var_ptr + at, inside, other=0.0) * unbiased
