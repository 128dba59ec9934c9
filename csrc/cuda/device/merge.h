// The second launches: partial results of the chunks to one result a channel, in a fixed order, and
// the update of running statistics. Small tensors only; see cuda/norm_act/forward.h for the style.
#pragma once

#include "cuda/device/tile_iterator.h"

namespace fastgan {
namespace cuda {

// A block merges 8 neighbouring channels (32 bytes a row, a memory sector) with 32 lanes each.
constexpr int kMergeColumns = 8;
constexpr int kMergeLanes = kThreads / kMergeColumns;

// (chunks, statistics) partial moments to mean and biased variance.
struct MomentsMergeKernel {
  using Scratch = MomentsScratch<1>;
  static constexpr int kBlocksPerSm = 2;
  Geometry geometry;
  Plan plan;  // that of the kernel that made the partials
  const float* part_mean;
  const float* part_m2;
  float* mean;
  float* var;

  FASTGAN_HD std::int64_t statistics() const { return geometry.segments * geometry.channels; }

  FASTGAN_HD bool reduces() const { return true; }
  FASTGAN_HD int lanes() const { return kMergeLanes; }

  FASTGAN_HD void begin(std::int64_t block, int thread, Scratch& scratch) const {
    const std::int64_t i = block * kMergeColumns + thread % kMergeColumns;
    WideMoments m{0.0f, 0.0f, 0.0f, 0.0f};
    if (i < statistics()) {
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
      for (std::int64_t chunk = thread / kMergeColumns; chunk < plan.chunks;
           chunk += kMergeLanes) {
        const std::int64_t at = chunk * statistics() + i;
        m = merge_wide(m, {chunk_count(geometry, plan, chunk), part_mean[at], 0.0f, part_m2[at]});
      }
    }
    scratch.count[thread] = m.count;
    scratch.put(0, thread, m);
  }

  FASTGAN_HD void step(int thread, int half, Scratch& scratch) const {
    if (thread / kMergeColumns < half) {
      scratch.fold(thread, thread + half * kMergeColumns);
    }
  }

  FASTGAN_HD void finish(std::int64_t block, int thread, const Scratch& scratch) const {
    const std::int64_t i = block * kMergeColumns + thread;
    if (thread < kMergeColumns && i < statistics()) {
      mean[i] = scratch.mean[0][thread];
      var[i] = scratch.m2[0][thread] / scratch.count[thread];
    }
  }
};

// Sums over the rows of one or two (rows, columns) arrays.
struct RowSumKernel {
  using Scratch = SumScratch<1>;
  static constexpr int kBlocksPerSm = 4;
  std::int64_t rows;
  std::int64_t columns;
  const float* first;
  const float* second;  // null: one array
  float* out_first;
  float* out_second;

  FASTGAN_HD bool reduces() const { return true; }
  FASTGAN_HD int lanes() const { return kMergeLanes; }

  FASTGAN_HD void begin(std::int64_t block, int thread, Scratch& scratch) const {
    const std::int64_t i = block * kMergeColumns + thread % kMergeColumns;
    float a = 0.0f;
    float b = 0.0f;
    if (i < columns) {
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
      for (std::int64_t row = thread / kMergeColumns; row < rows; row += kMergeLanes) {
        a += first[row * columns + i];
        b += second ? second[row * columns + i] : 0.0f;
      }
    }
    scratch.first[0][thread] = a;
    scratch.second[0][thread] = b;
  }

  FASTGAN_HD void step(int thread, int half, Scratch& scratch) const {
    if (thread / kMergeColumns < half) {
      scratch.fold(thread, thread + half * kMergeColumns);
    }
  }

  FASTGAN_HD void finish(std::int64_t block, int thread, const Scratch& scratch) const {
    const std::int64_t i = block * kMergeColumns + thread;
    if (thread < kMergeColumns && i < columns) {
      out_first[i] = scratch.first[0][thread];
      if (second) {
        out_second[i] = scratch.second[0][thread];
      }
    }
  }
};

// Running statistics of one channel: the segments in order, or (average) their mean once, as
// torch.nn.functional.instance_norm does.
struct RunningKernel {
  static constexpr int kBlocksPerSm = 4;
  std::int64_t segments;
  std::int64_t channels;
  float momentum;
  float unbias;  // count / (count - 1)
  bool average;
  const float* mean;  // (segments, channels)
  const float* var;
  float* running_mean;  // (channels)
  float* running_var;

  FASTGAN_HD void run(std::int64_t block, int thread) const {
    const std::int64_t c = block * kThreads + thread;
    if (c >= channels) {
      return;
    }
    float m = running_mean[c];
    float v = running_var[c];
    float mean_sum = 0.0f;
    float var_sum = 0.0f;
    for (std::int64_t s = 0; s < segments; ++s) {
      const float new_mean = mean[s * channels + c];
      const float new_var = var[s * channels + c] * unbias;
      if (average) {
        mean_sum += new_mean;
        var_sum += new_var;
      } else {
        m = (1.0f - momentum) * m + momentum * new_mean;
        v = (1.0f - momentum) * v + momentum * new_var;
      }
    }
    if (average) {
      m = (1.0f - momentum) * m + momentum * (mean_sum / float(segments));
      v = (1.0f - momentum) * v + momentum * (var_sum / float(segments));
    }
    running_mean[c] = m;
    running_var[c] = v;
  }
};

}  // namespace cuda
}  // namespace fastgan
