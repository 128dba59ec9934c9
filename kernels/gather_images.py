"""Triton launcher of gather_images: a batch of a uint8 data set, flipped, normalised and cast.

Bytes moved, for B images of S values: B * S read, B * S of the output's dtype written, 9 bytes of
indices an image.
"""

import torch
import triton
import triton.language as tl

from fastgan.kernels.core.geometry import DTYPES, device_guard

Tensor = torch.Tensor

# Values a program, on so many warps: 16 a thread, which a load of 16 bytes brings at once.
BLOCK, WARPS = 2048, 4
_VECTORS = (16, 8, 4, 2, 1)


def gather_images(
    images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """uint8 (N, H, W, C) to (B, H, W, C) of ``dtype``; an index outside 0..N-1 gives NaN."""
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
    count, height, width, channels = images.shape
    out = images.new_empty((index.shape[0], height, width, channels), dtype=dtype)
    if out.numel() == 0:
        return out
    size = height * width * channels
    vector = next(v for v in _VECTORS if size % v == 0)
    block = min(BLOCK, triton.next_power_of_2(size))
    grid = (index.shape[0] * triton.cdiv(size, block),)
    with device_guard(images):
        gather_images_kernel[grid](
            images, index, None if flips is None else flips.view(torch.uint8), out,
            count, size // vector,
            VEC=vector, WIDTH=width, CHANNELS=channels, BLOCK=block, num_warps=WARPS,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=("count", "units"))
def gather_images_kernel(
    images_ptr,
    index_ptr,
    flips_ptr,
    out_ptr,
    count,
    units,
    VEC: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one image a program; ``units * VEC`` values an image (see core/device.py)."""
    size = units * VEC
    blocks = (size + BLOCK - 1) // BLOCK
    image = (tl.program_id(0) // blocks).to(tl.int64)
    value = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    chosen = tl.load(index_ptr + image)
    known = (chosen >= 0) & (chosen < count)
    mask = (value < size) & known
    source = images_ptr + tl.where(known, chosen, 0) * size
    mirrored = False
    if flips_ptr is not None:
        mirrored = tl.load(flips_ptr + image) != 0
    # Two loads rather than one: an image that is not mirrored is read in vectors.
    if mirrored:
        column = (value // CHANNELS) % WIDTH
        byte = tl.load(source + value + (WIDTH - 1 - 2 * column) * CHANNELS, mask, other=0)
    else:
        byte = tl.load(source + value, mask, other=0)
    scaled = tl.div_rn(byte.to(tl.float32), 127.5) - 1.0
    scaled = tl.where(known, scaled, float("nan"))
    tl.store(out_ptr + image * size + value, scaled.to(out_ptr.dtype.element_ty), value < size)
