// norm_act backward, as seen by one thread; see cuda/norm_act/forward.h.
#pragma once

#include "cuda/norm_act/forward.h"

namespace fastgan {
namespace cuda {

// sum a and rstd * sum a * centred (dbias and dweight) of one chunk of every column of a tile.
// Reads dz and x once.
template <typename T_, int V, Layout L, typename A, int Loads = kTile<V, 2>>
struct GradSumsKernel {
  using T = T_;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kU = Loads;
  using Scratch = SumScratch<kS>;
  static constexpr int kBlocksPerSm = kBlocks<A>;
  static constexpr int kBlocksFromSm100 = 2;

  Geometry geometry;
  Plan plan;
  A act;
  ChannelStats stats;
  const T* dz;
  const T* x;
  float* sum_a;   // (chunks, segments, channels)
  float* sum_ax;  // the same

  FASTGAN_HD bool reduces() const { return true; }
  FASTGAN_HD int lanes() const { return plan.lanes(); }

  FASTGAN_HD void begin(std::int64_t block, int thread, Scratch& scratch,
                        const SharedTile<T, V>& kept_dz = {nullptr},
                        const SharedTile<T, V>& kept_x = {nullptr}) const {
    const TileIterator<L, V> iter(geometry, plan, block, thread);
    float a_of[kS] = {};
    float ax_of[kS] = {};
    if (!iter.idle(geometry)) {
      const Column<L, V> column(geometry, iter.column_index);
      const std::int64_t steps = iter.template steps<kU>();
      Pack<T, V> raw_dz[kU];
      Pack<T, V> raw_x[kU];
      load_tile(geometry, iter, column, dz, 0, raw_dz);  // before the coefficients, see Normalise
      load_tile(geometry, iter, column, x, 0, raw_x);
      const SlotAffine<kS> p = load_affine(stats, column);
      for (std::int64_t step = 0; step < steps;) {
        if (kept_x.packs) {
          keep_tile(iter, kept_dz, thread, step, raw_dz);
          keep_tile(iter, kept_x, thread, step, raw_x);
        }
        FASTGAN_UNROLL
        for (int k = 0; k < kU; ++k) {
          if (iter.holds(iter.template unit<kU>(step, k))) {
            absorb(p, raw_dz[k], raw_x[k], a_of, ax_of);
          }
        }
        if (++step < steps) {
          load_tile(geometry, iter, column, dz, step, raw_dz);
          load_tile(geometry, iter, column, x, step, raw_x);
        }
      }
      // scale is weight * rstd, so rstd is formed again from the variance.
      float var[kS];
      load_slots(stats.var, column.stat, 0.0f, var);
      FASTGAN_UNROLL
      for (int s = 0; s < kS; ++s) {
        ax_of[s] *= rsqrt_of<float>(var[s] + stats.eps);
      }
    }
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      scratch.first[s][thread] = a_of[s];
      scratch.second[s][thread] = ax_of[s];
    }
  }

  FASTGAN_HD void absorb(const SlotAffine<kS>& p, const Pack<T, V>& raw_dz,
                         const Pack<T, V>& raw_x, float (&a_of)[kS], float (&ax_of)[kS]) const {
    float g[V];
    float u[V];
    raw_dz.unpack(g);
    raw_x.unpack(u);
    const float slope = act.slope;
    with_act(act, [&](auto tag) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        const Affine<float>& q = p.slot[v % kS];
        float a;
        float centred;
        norm_act_terms<decltype(tag)::kind, decltype(tag)::first>(g[v], u[v], q.mean, q.scale,
                                                                  q.bias, slope, a, centred);
        a_of[v % kS] += a;
        ax_of[v % kS] += a * centred;
      }
    });
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
    const std::int64_t row = iter.work.chunk * geometry.segments * geometry.channels;
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      sum_a[row + column.stat + s] = scratch.first[s][thread];
      sum_ax[row + column.stat + s] = scratch.second[s][thread];
    }
  }
};

// What dx needs of one channel: dx = scale * (a - k0 - centred * k1).
template <int S>
struct GradCoefficients {
  SlotAffine<S> affine;
  float k0[S];
  float k1[S];
};

// From the sums over one (segment, channel): k0 = sum a / n and k1 = rstd^2 * sum a * centred / n.
// inverse: 1 / n.
FASTGAN_HD void grad_coefficients(float sum_a, float sum_ax, float var, float eps, float inverse,
                                  float& k0, float& k1) {
  k0 = sum_a * inverse;
  k1 = sum_ax * rsqrt_of<float>(var + eps) * inverse;
}

template <typename T, int V, int S, typename Activation>
FASTGAN_HD Pack<T, V> dx_of(const Activation& act, bool training, const GradCoefficients<S>& c,
                            const Pack<T, V>& raw_dz, const Pack<T, V>& raw_x) {
  float g[V];
  float u[V];
  raw_dz.unpack(g);
  raw_x.unpack(u);
  const float slope = act.slope;
  with_act(act, [&](auto tag) {
    constexpr int A = decltype(tag)::kind;
    constexpr bool First = decltype(tag)::first;
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) {
      const Affine<float>& q = c.affine.slot[v % S];
      // Eval has no terms through the statistics; zero coefficients would make an infinite x NaN.
      g[v] = training ? norm_act_dx<A, First>(g[v], u[v], q.mean, q.scale, q.bias, c.k0[v % S],
                                              c.k1[v % S], slope)
                      : norm_act_dx_eval<A, First>(g[v], u[v], q.mean, q.scale, q.bias, slope);
    }
  });
  return Pack<T, V>::pack(g);
}

// dx from dz, x and the sums (eval: without them). Reads two tensors, writes one.
template <typename T_, int V, Layout L, typename A>
struct GradApplyKernel {
  using T = T_;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kU = kTile<V, 2>;
  static constexpr int kBlocksPerSm = kBlocks<A>;
  static constexpr int kBlocksFromSm100 = 2;

  Geometry geometry;
  Plan plan;
  A act;
  ChannelStats stats;
  bool training;
  const float* sum_a;   // (segments, channels); unread in eval
  const float* sum_ax;  // the same
  const T* dz;
  const T* x;
  T* dx;

  // Backwards through the chunk, as NormaliseKernel.
  FASTGAN_HD void run(std::int64_t block, int thread) const {
    const TileIterator<L, V> iter(geometry, plan, block, thread);
    if (iter.idle(geometry)) {
      return;
    }
    const Column<L, V> column(geometry, iter.column_index);
    std::int64_t step = iter.template steps<kU>() - 1;
    Pack<T, V> raw_dz[kU];
    Pack<T, V> raw_x[kU];
    load_tile(geometry, iter, column, dz, step, raw_dz);
    load_tile(geometry, iter, column, x, step, raw_x);
    GradCoefficients<kS> c;
    c.affine = load_affine(stats, column);
    const float inverse = inverse_of(float(geometry.values()));
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      c.k0[s] = 0.0f;
      c.k1[s] = 0.0f;
    }
    if (training) {
      float a[kS];
      float ax[kS];
      float var[kS];
      load_slots(sum_a, column.stat, 0.0f, a);
      load_slots(sum_ax, column.stat, 0.0f, ax);
      load_slots(stats.var, column.stat, 0.0f, var);
      FASTGAN_UNROLL
      for (int s = 0; s < kS; ++s) {
        grad_coefficients(a[s], ax[s], var[s], stats.eps, inverse, c.k0[s], c.k1[s]);
      }
    }
    while (true) {
      FASTGAN_UNROLL
      for (int k = 0; k < kU; ++k) {
        const std::int64_t unit = iter.template unit<kU>(step, k);
        if (iter.holds(unit)) {
          store<T, V>(dx + column.offset(geometry, unit),
                      dx_of<T, V, kS>(act, training, c, raw_dz[k], raw_x[k]));
        }
      }
      if (--step < 0) {
        return;
      }
      load_tile(geometry, iter, column, dz, step, raw_dz);
      load_tile(geometry, iter, column, x, step, raw_x);
    }
  }
};

// Training in one launch: dz and x stay in the shared memory of a cluster. Reads two tensors once,
// writes one.
template <typename T_, Layout L, typename A>
struct SinglePassBackwardKernel {
  using T = T_;
  static constexpr int V = kWide<T>;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kTensors = 2;
  static constexpr int kBlocksPerSm = 2;
  using Scratch = SumScratch<kS>;
  struct Kept {
    SharedTile<T, V> dz;
    SharedTile<T, V> x;
  };

  using SumsOf = GradSumsKernel<T, V, L, A, kTileAlone<A, V, 2>>;
  SumsOf sums;  // its sum_a and sum_ax are the results, (segments, channels)
  T* dx;

  FASTGAN_HD const Plan& plan() const { return sums.plan; }

  FASTGAN_HD Kept shared_tile_of(void* shared) const {
    Pack<T, V>* const first = static_cast<Pack<T, V>*>(shared);
    const std::int64_t packs = ceil_div(sums.plan.chunk_len, sums.plan.lanes()) * kThreads;
    return {{first}, {first + packs}};
  }

  FASTGAN_HD void begin(std::int64_t block, int thread, Scratch& scratch, const Kept& kept) const {
    sums.begin(block, thread, scratch, kept.dz, kept.x);
  }

  FASTGAN_HD void step(int thread, int half, Scratch& scratch) const {
    sums.step(thread, half, scratch);
  }

  template <typename Peers>
  FASTGAN_HD void gather(std::int64_t block, int thread, Scratch& scratch,
                         const Peers& peer) const {
    const Plan& p = sums.plan;
    const int tx = thread & ((1 << p.log_tx) - 1);
    const int slot = thread >> p.log_tx;
    if (slot >= kS) {
      return;
    }
    const int from = total_thread<L>(p, tx);
    float a = 0.0f;
    float ax = 0.0f;
    FASTGAN_UNROLL
    for (int rank = 0; rank < kMaxCluster; ++rank) {
      if (rank < int(p.chunks)) {
        a += peer(rank).first[slot][from];
        ax += peer(rank).second[slot][from];
      }
    }
    scratch.total_first[thread] = a;
    scratch.total_second[thread] = ax;
    const BlockWork work(sums.geometry, p, block);
    if (work.chunk == 0 && work.first_column + tx < sums.geometry.columns) {
      const Column<L, V> column(sums.geometry, work.first_column + tx);
      sums.sum_a[column.stat + slot] = a;
      sums.sum_ax[column.stat + slot] = ax;
    }
  }

  FASTGAN_HD void finish(std::int64_t block, int thread, const Scratch& scratch,
                         const Kept& kept) const {
    const Geometry& g = sums.geometry;
    const TileIterator<L, V> iter(g, sums.plan, block, thread);
    if (iter.idle(g)) {
      return;
    }
    const Column<L, V> column(g, iter.column_index);
    GradCoefficients<kS> c;
    c.affine = load_affine(sums.stats, column);
    const float inverse = inverse_of(float(g.values()));
    float var[kS];
    load_slots(sums.stats.var, column.stat, 0.0f, var);
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      const int at = (s << sums.plan.log_tx) + iter.place.tx;
      grad_coefficients(scratch.total_first[at], scratch.total_second[at], var[s], sums.stats.eps,
                        inverse, c.k0[s], c.k1[s]);
    }
    const std::int64_t steps = iter.template steps<1>();
    for (std::int64_t i = 0; i < steps; ++i) {
      const std::int64_t unit = iter.template unit<1>(i, 0);
      if (iter.holds(unit)) {
        store<T, V>(dx + column.offset(g, unit),
                    dx_of<T, V, kS>(sums.act, true, c, kept.dz.at(i, thread),
                                    kept.x.at(i, thread)));
      }
    }
  }
};

}  // namespace cuda
}  // namespace fastgan
