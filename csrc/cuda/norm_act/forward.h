// norm_act forward, as seen by one thread. Each struct is a kernel's argument and its code; the
// kernels in cuda/device/launcher.cuh add only barriers, and a host test runs the same kernels
// thread by thread.
#pragma once

#include <type_traits>

#include "cuda/device/tile_iterator.h"

namespace fastgan {
namespace cuda {

// Per-channel inputs of the normalisation, aligned to 16 bytes. weight and bias may be null: 1
// and 0.
struct ChannelStats {
  const float* mean;    // (segments, channels)
  const float* var;     // (segments, channels), biased
  const float* weight;  // (channels)
  const float* bias;    // (channels)
  float eps;
};

// By the registers that an activation leaves: blocks of an SM, and loads that a thread keeps in
// flight where its block has an SM to itself, as one that fills the shared memory has. Three blocks
// leave 80 registers a thread, of which code for sm_100 and newer needs more.
template <typename A>
constexpr int kBlocks = std::is_same<A, LeakyRelu>::value ? 3 : 2;
template <typename A, int V, int Tensors>
constexpr int kTileAlone = (std::is_same<A, LeakyRelu>::value ? 2 : 1) * kTile<V, Tensors>;

template <int S>
struct SlotAffine {
  Affine<float> slot[S];
};

// The values of a thread's slots, in 16-byte loads that do not wait for each other where there are
// several: `from` is aligned to them. `otherwise`: where there is no array.
template <int S>
FASTGAN_HD void load_slots(const float* from, std::int64_t at, float otherwise, float (&to)[S]) {
  constexpr int wide = S == 1 ? 1 : kWide<float>;
  FASTGAN_UNROLL
  for (int s = 0; s < S; ++s) {
    to[s] = otherwise;
  }
  if (from) {
    FASTGAN_UNROLL
    for (int s = 0; s < S; s += wide) {
      float some[wide];
      load<float, wide>(from + at + s).unpack(some);
      FASTGAN_UNROLL
      for (int i = 0; i < wide; ++i) {
        to[s + i] = some[i];
      }
    }
  }
}

template <int S>
FASTGAN_HD SlotAffine<S> channel_affine(const ChannelStats& stats, std::int64_t channel,
                                        const float (&mean)[S], const float (&var)[S]) {
  float weight[S];
  float bias[S];
  load_slots(stats.weight, channel, 1.0f, weight);
  load_slots(stats.bias, channel, 0.0f, bias);
  SlotAffine<S> out;
  FASTGAN_UNROLL
  for (int s = 0; s < S; ++s) {
    out.slot[s] = affine<float>(mean[s], var[s], weight[s], bias[s], stats.eps);
  }
  return out;
}

template <Layout L, int V>
FASTGAN_HD SlotAffine<kSlots<L, V>> load_affine(const ChannelStats& stats,
                                                const Column<L, V>& column) {
  float mean[kSlots<L, V>];
  float var[kSlots<L, V>];
  load_slots(stats.mean, column.stat, 0.0f, mean);
  load_slots(stats.var, column.stat, 0.0f, var);
  return channel_affine(stats, column.channel, mean, var);
}

// Moments of one chunk of every column of a tile. Reads x once.
template <typename T_, int V, Layout L, typename A, int Loads = kTile<V, 1>>
struct MomentsKernel {
  using T = T_;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kU = Loads;
  using Scratch = MomentsScratch<kS>;
  static constexpr int kBlocksPerSm = kBlocks<A>;
  static constexpr int kBlocksFromSm100 = 2;

  Geometry geometry;
  Plan plan;
  A act;
  const T* x;
  float* mean;  // (chunks, segments, channels), or the result where chunks is 1
  float* m2;    // the same; the biased variance where chunks is 1

  FASTGAN_HD bool reduces() const { return true; }
  FASTGAN_HD int lanes() const { return plan.lanes(); }

  FASTGAN_HD void begin(std::int64_t block, int thread, Scratch& scratch,
                        const SharedTile<T, V>& shared_tile = {nullptr}) const {
    const TileIterator<L, V> iter(geometry, plan, block, thread);
    float count = 0.0f;
    float mean_of[kS] = {};
    float m2_of[kS] = {};
    if (!iter.idle(geometry)) {
      const Column<L, V> column(geometry, iter.column_index);
      const std::int64_t steps = iter.template steps<kU>();
      for (std::int64_t step = 0; step < steps; ++step) {
        Pack<T, V> raw[kU];
        load_tile(geometry, iter, column, x, step, raw);
        if (shared_tile.packs) {
          keep_tile(iter, shared_tile, thread, step, raw);
        }
        absorb(iter, step, raw, count, mean_of, m2_of);
      }
    }
    scratch.count[thread] = count;
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      scratch.put(s, thread, {count, mean_of[s], 0.0f, m2_of[s]});
    }
  }

  // The tile's own mean and squared deviations, from registers, then one merge: no value is ever
  // squared before its mean is taken off.
  FASTGAN_HD void absorb(const TileIterator<L, V>& iter, std::int64_t step,
                         const Pack<T, V> (&raw)[kU], float& count, float (&mean_of)[kS],
                         float (&m2_of)[kS]) const {
    float value[kU][V];
    float weight[kU];
    float held = 0.0f;
    FASTGAN_UNROLL
    for (int k = 0; k < kU; ++k) {
      raw[k].unpack(value[k]);
      weight[k] = iter.holds(iter.template unit<kU>(step, k)) ? 1.0f : 0.0f;
      held += weight[k];
    }
    if (!(held > 0.0f)) {
      return;
    }
    if (act.first) {
      const float slope = act.slope;
      with_kind<true>(act.kind, [&](auto tag) {
        FASTGAN_UNROLL
        for (int i = 0; i < kU * V; ++i) {
          float& v = value[i / V][i % V];
          v = fastgan::act<decltype(tag)::kind>(v, slope);
        }
      });
    }
    const float added = held * float(V / kS);
    const float inverse = inverse_of(added);
    float tile_mean[kS] = {};
    float tile_m2[kS] = {};
    FASTGAN_UNROLL
    for (int i = 0; i < kU * V; ++i) {
      tile_mean[(i % V) % kS] += weight[i / V] * value[i / V][i % V];
    }
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      tile_mean[s] *= inverse;
    }
    FASTGAN_UNROLL
    for (int i = 0; i < kU * V; ++i) {
      const float d = weight[i / V] * (value[i / V][i % V] - tile_mean[(i % V) % kS]);
      tile_m2[(i % V) % kS] += d * d;
    }
    const float share = share_of(added, count + added);
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      const float delta = tile_mean[s] - mean_of[s];
      mean_of[s] += delta * share;
      m2_of[s] += tile_m2[s] + delta * delta * count * share;
    }
    count += added;
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
      const WideMoments m = scratch.get(s, thread);
      mean[row + column.stat + s] = m.mean;
      m2[row + column.stat + s] = plan.chunks == 1 ? m.m2 / m.count : m.m2;
    }
  }
};

// z from x and known statistics: the second half of training, and all of eval.
template <typename T_, int V, Layout L, typename A>
struct NormaliseKernel {
  using T = T_;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kU = kTile<V, 1>;
  static constexpr int kBlocksPerSm = kBlocks<A>;
  static constexpr int kBlocksFromSm100 = 2;

  Geometry geometry;
  Plan plan;
  A act;
  ChannelStats stats;
  const T* x;
  T* z;

  static FASTGAN_HD Pack<T, V> transform(const A& act, const SlotAffine<kS>& p,
                                         const Pack<T, V>& raw) {
    float value[V];
    raw.unpack(value);
    const float slope = act.slope;
    with_act(act, [&](auto tag) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        const Affine<float>& a = p.slot[v % kS];
        value[v] = norm_act_element<decltype(tag)::kind, decltype(tag)::first>(
            value[v], a.mean, a.scale, a.bias, slope);
      }
    });
    return Pack<T, V>::pack(value);
  }

  // The chunk is read backwards: what the moments kernel read last is still in the L2 cache.
  FASTGAN_HD void run(std::int64_t block, int thread) const {
    const TileIterator<L, V> iter(geometry, plan, block, thread);
    if (iter.idle(geometry)) {
      return;
    }
    const Column<L, V> column(geometry, iter.column_index);
    SlotAffine<kS> p{};
    const std::int64_t last = iter.template steps<kU>() - 1;
    for (std::int64_t step = last; step >= 0; --step) {
      Pack<T, V> raw[kU];
      load_tile(geometry, iter, column, x, step, raw);
      if (step == last) {  // not before: the first loads of x would wait for those of p
        p = load_affine(stats, column);
      }
      FASTGAN_UNROLL
      for (int k = 0; k < kU; ++k) {
        const std::int64_t unit = iter.template unit<kU>(step, k);
        if (iter.holds(unit)) {
          store<T, V>(z + column.offset(geometry, unit), transform(act, p, raw[k]));
        }
      }
    }
  }
};

// Training in one launch: the blocks of a cluster keep a tile's columns in shared memory, merge
// their moments and write z. x is read once, z written once.
template <typename T_, Layout L, typename A>
struct SinglePassForwardKernel {
  using T = T_;
  static constexpr int V = kWide<T>;
  static constexpr int kS = kSlots<L, V>;
  static constexpr int kTensors = 1;
  using MomentsOf = MomentsKernel<T, V, L, A, kTileAlone<A, V, 1>>;
  static constexpr int kBlocksPerSm = 2;
  using Scratch = MomentsScratch<kS>;
  using Kept = SharedTile<T, V>;

  MomentsOf moments;  // its mean and m2 are the results: mean and variance
  ChannelStats stats;
  T* z;

  FASTGAN_HD const Plan& plan() const { return moments.plan; }

  FASTGAN_HD Kept shared_tile_of(void* shared) const { return {static_cast<Pack<T, V>*>(shared)}; }

  FASTGAN_HD void begin(std::int64_t block, int thread, Scratch& scratch, const Kept& kept) const {
    moments.begin(block, thread, scratch, kept);
  }

  FASTGAN_HD void step(int thread, int half, Scratch& scratch) const {
    moments.step(thread, half, scratch);
  }

  // Merges the blocks of the cluster in rank order, in every block alike; rank 0 writes the result.
  template <typename Peers>
  FASTGAN_HD void gather(std::int64_t block, int thread, Scratch& scratch,
                         const Peers& peer) const {
    const Plan& p = moments.plan;
    const int tx = thread & ((1 << p.log_tx) - 1);
    const int slot = thread >> p.log_tx;
    if (slot >= kS) {
      return;
    }
    const int from = total_thread<L>(p, tx);
    WideMoments of[kMaxCluster] = {};
    FASTGAN_UNROLL
    for (int rank = 0; rank < kMaxCluster; ++rank) {
      if (rank < int(p.chunks)) {
        of[rank] = peer(rank).get(slot, from);
      }
    }
    const WideMoments m = merge_all(of);
    const float var = m.m2 / m.count;
    scratch.total_mean[thread] = m.mean;
    scratch.total_var[thread] = var;
    const BlockWork work(moments.geometry, p, block);
    if (work.chunk == 0 && work.first_column + tx < moments.geometry.columns) {
      const Column<L, V> column(moments.geometry, work.first_column + tx);
      moments.mean[column.stat + slot] = m.mean;
      moments.m2[column.stat + slot] = var;
    }
  }

  FASTGAN_HD void finish(std::int64_t block, int thread, const Scratch& scratch,
                         const Kept& kept) const {
    const Geometry& g = moments.geometry;
    const TileIterator<L, V> iter(g, moments.plan, block, thread);
    if (iter.idle(g)) {
      return;
    }
    const Column<L, V> column(g, iter.column_index);
    float mean[kS];
    float var[kS];
    FASTGAN_UNROLL
    for (int s = 0; s < kS; ++s) {
      const int at = (s << moments.plan.log_tx) + iter.place.tx;
      mean[s] = scratch.total_mean[at];
      var[s] = scratch.total_var[at];
    }
    const SlotAffine<kS> p = channel_affine(stats, column.channel, mean, var);
    const std::int64_t count = iter.template steps<1>();
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t unit = iter.template unit<1>(i, 0);
      if (iter.holds(unit)) {
        store<T, V>(z + column.offset(g, unit),
                    NormaliseKernel<T, V, L, A>::transform(moments.act, p, kept.at(i, thread)));
      }
    }
  }
};

}  // namespace cuda
}  // namespace fastgan
