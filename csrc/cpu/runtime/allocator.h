// Large outputs and workspaces, in memory that was used before.
//
// The first write to a page fresh from the system costs several times the write, and the C library
// gives large blocks back when they are freed. Blocks from here consist of huge pages where the system
// has them, and those freed are kept for the next call, up to a limit.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastgan {

// Blocks below this are left to the C library, which keeps them itself.
constexpr size_t kLargeBlock = 128 * 1024;

// Uninitialised memory, aligned to a cache line; throws std::bad_alloc.
void* take(size_t bytes);
// From any thread. Null is let pass.
void give(void* taken) noexcept;

// An uninitialised tensor of x's dtype, shape and strides; x is dense.
inline torch::stable::Tensor output_like(const torch::stable::Tensor& x) {
  const size_t bytes = static_cast<size_t>(x.numel()) * x.element_size();
  if (bytes < kLargeBlock) return torch::stable::empty_like(x);
  return torch::stable::from_blob(take(bytes), x.sizes(), x.strides(), x.device(), x.scalar_type(),
                                  &give);
}

// Uninitialised and contiguous, of x's dtype and device.
inline torch::stable::Tensor empty_contiguous(const torch::stable::Tensor& x,
                                              std::array<int64_t, 3> sizes) {
  const size_t bytes = static_cast<size_t>(sizes[0] * sizes[1] * sizes[2]) * x.element_size();
  if (bytes < kLargeBlock) return torch::stable::new_empty(x, {sizes[0], sizes[1], sizes[2]});
  const int64_t strides[] = {sizes[1] * sizes[2], sizes[2], 1};
  return torch::stable::from_blob(take(bytes), sizes, strides, x.device(), x.scalar_type(), &give);
}

// Uninitialised and channels-last, on x's device.
inline torch::stable::Tensor empty_channels_last(const torch::stable::Tensor& x,
                                                 torch::headeronly::ScalarType dtype, int64_t n,
                                                 int64_t c, int64_t h, int64_t w) {
  const torch::stable::Tensor none = torch::stable::new_empty(x, {0}, dtype);
  const size_t bytes = static_cast<size_t>(n * c * h * w) * none.element_size();
  if (bytes < kLargeBlock) {
    const torch::stable::Tensor t = torch::stable::new_empty(x, {n, h, w, c}, dtype);
    return torch::stable::transpose(torch::stable::transpose(t, 1, 3), 2, 3);
  }
  const int64_t sizes[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
  return torch::stable::from_blob(take(bytes), sizes, strides, x.device(), dtype, &give);
}
inline torch::stable::Tensor empty_channels_last(const torch::stable::Tensor& x, int64_t n, int64_t c,
                                                 int64_t h, int64_t w) {
  return empty_channels_last(x, x.scalar_type(), n, c, h, w);
}

}  // namespace fastgan
