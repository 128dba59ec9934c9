// bias_act, as seen by one thread; see cuda/norm_act/forward.h. A bias has no statistics, so the whole batch
// is one segment.
#pragma once

#include "cuda/device/tile_iterator.h"

namespace fastgan {
namespace cuda {

// z = act(x + bias). Reads x, writes z.
template <typename T_, int V, Layout L>
struct BiasForwardKernel {
  using T = T_;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kU = kTile<V, 1>;
  static constexpr int kBlocksPerSm = 3;

  Geometry geometry;
  Plan plan;
  Act act;
  const float* bias;  // (channels); null: 0
  const T* x;
  T* z;

  FASTGAN_HD void run(std::int64_t block, int thread) const {
    const TileIterator<L, V> iter(geometry, plan, block, thread);
    if (iter.idle(geometry)) {
      return;
    }
    const Column<L, V> column(geometry, iter.column_index);
    float shift[kS];
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      shift[s] = bias ? bias[column.channel + s] : 0.0f;
    }
    const std::int64_t steps = iter.template steps<kU>();
    for (std::int64_t step = 0; step < steps; ++step) {
      Pack<T, V> raw[kU];
      load_tile(geometry, iter, column, x, step, raw);
      FASTGAN_UNROLL
      for (int k = 0; k < kU; ++k) {
        const std::int64_t unit = iter.template unit<kU>(step, k);
        if (iter.holds(unit)) {
          store<T, V>(z + column.offset(geometry, unit), transform(shift, raw[k]));
        }
      }
    }
  }

  FASTGAN_HD Pack<T, V> transform(const float (&shift)[kS], const Pack<T, V>& raw) const {
    float value[V];
    raw.unpack(value);
    const float slope = act.slope;
    with_kind<false>(act.kind, [&](auto tag) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        value[v] = fastgan::act<decltype(tag)::kind>(value[v] + shift[v % kS], slope);
      }
    });
    return Pack<T, V>::pack(value);
  }
};

template <int S>
struct BiasScratch {
  float sum[S][kThreads];

  FASTGAN_HD void fold(int thread, int partner) {
    FASTGAN_UNROLL
    for (int s = 0; s < S; ++s) {
      sum[s][thread] += sum[s][partner];
    }
  }
};

// dx = dz * act'(.) from the output z, and the chunk's sums of dx for dbias. Reads two tensors,
// writes one; the sums ride along.
template <typename T_, int V, Layout L>
struct BiasBackwardKernel {
  using T = T_;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kU = kTile<V, 2>;
  using Scratch = BiasScratch<kS>;
  static constexpr int kBlocksPerSm = 3;

  Geometry geometry;
  Plan plan;
  Act act;
  const T* dz;
  const T* z;
  T* dx;
  float* sum;  // (chunks, channels); null: dbias is not wanted

  FASTGAN_HD bool reduces() const { return sum != nullptr; }
  FASTGAN_HD int lanes() const { return plan.lanes(); }

  FASTGAN_HD void begin(std::int64_t block, int thread, Scratch& scratch) const {
    const TileIterator<L, V> iter(geometry, plan, block, thread);
    float sum_of[kS] = {};
    if (!iter.idle(geometry)) {
      const Column<L, V> column(geometry, iter.column_index);
      const std::int64_t steps = iter.template steps<kU>();
      for (std::int64_t step = 0; step < steps; ++step) {
        Pack<T, V> raw_dz[kU];
        Pack<T, V> raw_z[kU];
        load_tile(geometry, iter, column, dz, step, raw_dz);
        load_tile(geometry, iter, column, z, step, raw_z);
        FASTGAN_UNROLL
        for (int k = 0; k < kU; ++k) {
          const std::int64_t unit = iter.template unit<kU>(step, k);
          if (iter.holds(unit)) {
            store<T, V>(dx + column.offset(geometry, unit), absorb(raw_dz[k], raw_z[k], sum_of));
          }
        }
      }
    }
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      scratch.sum[s][thread] = sum_of[s];
    }
  }

  // The sum takes the float32 gradient, not the rounded one that is stored.
  FASTGAN_HD Pack<T, V> absorb(const Pack<T, V>& raw_dz, const Pack<T, V>& raw_z,
                               float (&sum_of)[kS]) const {
    float g[V];
    float out[V];
    raw_dz.unpack(g);
    raw_z.unpack(out);
    const float slope = act.slope;
    with_kind<false>(act.kind, [&](auto tag) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        g[v] = act_grad_from_output<decltype(tag)::kind>(g[v], out[v], slope);
        sum_of[v % kS] += g[v];
      }
    });
    return Pack<T, V>::pack(g);
  }

  FASTGAN_HD void step(int thread, int half, Scratch& scratch) const {
    fold_lanes<L>(plan, thread, half, scratch);
  }

  FASTGAN_HD void finish(std::int64_t block, int thread, const Scratch& scratch) const {
    const TileIterator<L, V> iter(geometry, plan, block, thread);
    if (iter.place.lane != 0 || iter.idle(geometry)) {
      return;
    }
    const Column<L, V> column(geometry, iter.column_index);
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      sum[iter.work.chunk * geometry.channels + column.channel + s] = scratch.sum[s][thread];
    }
  }
};

}  // namespace cuda
}  // namespace fastgan
