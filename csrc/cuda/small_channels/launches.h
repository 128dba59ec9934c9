// The launches that make up the small-channel convolutions; see cuda/norm_act/forward_launches.h.
//
// Bytes moved, the image being a small part of the wide tensor's B:
//   from the image    1 launch     wide written      B
//   to the image      1 launch     wide read         B, kernel rows * columns / stride^2 times from
//                                                    the caches
//   weight gradient   1 or 2       wide read         B, and a partial result a chunk
#pragma once

#include <algorithm>

#include "cuda/device/merge.h"
#include "cuda/device/plan.h"
#include "cuda/small_channels/kernel.h"
#include "cuda/small_channels/weight.h"

namespace fastgan {
namespace cuda {

template <typename T, int V, typename Exec>
void run_small_channel_conv(Exec& launcher, const SmallChannelShape& shape,
                            const SmallChannelEpilogue& epilogue, const T* image, const T* weight,
                            T* wide) {
  using Kernel = SmallChannelConvKernel<T, V>;
  const std::int64_t rows = ceil_div(shape.positions(), kBlockRows);
  launcher.staged(Kernel{shape, epilogue, image, weight, wide}, rows * shape.wide_chunks());
}

template <typename T, int V, typename Exec>
void run_small_channel_transpose(Exec& launcher, const SmallChannelShape& shape,
                                 const SmallChannelEpilogue& epilogue, const T* wide,
                                 const T* weight, T* image) {
  const SmallChannelTransposeKernel<T, V> kernel{shape, epilogue, wide, weight, image};
  launcher.staged(kernel, kernel.blocks());
}

template <int V>
SmallChannelWeightPlan plan_small_channel_weight(const SmallChannelShape& s, int positions_of_step,
                                                 int wave) {
  SmallChannelWeightPlan plan{};
  plan.tap_tiles = int(ceil_div(s.taps(), kBlockRows));
  const int taps = std::min(s.taps(), kBlockRows);
  plan.tap_groups = 1 << log2_ceil(ceil_div(taps, kRows<V>));
  const std::int64_t steps = ceil_div(s.positions(), positions_of_step);
  const std::int64_t wanted = std::max(1, wave / (s.wide_chunks() * plan.tap_tiles));
  plan.chunk_len = ceil_div(steps, std::min(wanted, steps)) * positions_of_step;
  plan.chunks = ceil_div(s.positions(), plan.chunk_len);
  return plan;
}

// dweight (wide channels, taps), float32.
template <typename T, int V, typename Exec>
void run_small_channel_weight(Exec& launcher, const SmallChannelShape& shape, const T* image,
                              const T* wide, float* dweight) {
  using Kernel = SmallChannelWeightKernel<T, V>;
  const SmallChannelWeightPlan plan =
      plan_small_channel_weight<V>(shape, Kernel::kPositions, launcher.template wave<Kernel>());
  const std::int64_t size = std::int64_t(shape.wide) * shape.taps();
  float* const part = plan.chunks > 1 ? launcher.floats(plan.chunks * size) : dweight;
  launcher.staged(Kernel{shape, plan, image, wide, part}, plan.blocks(shape));
  if (plan.chunks > 1) {
    launcher.reduce(RowSumKernel{plan.chunks, size, part, nullptr, dweight, nullptr},
                    ceil_div(size, kMergeColumns));
  }
}

}  // namespace cuda
}  // namespace fastgan
