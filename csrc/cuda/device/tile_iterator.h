// How one thread iterates over its units of a chunk, a tile of independent loads at a time, and the
// scratch that joins the threads of a block. No torch or CUDA includes.
#pragma once

#include "cuda/device/geometry.h"

namespace fastgan {
namespace cuda {

// Loads of one tensor that a thread keeps in flight: over all tensors 64 bytes in 16-byte loads, so
// 32 to 48 KiB on an SM of two or three blocks. An H200's bandwidth times its latency asks for 23.
template <int V, int Tensors>
constexpr int kTile = (V == 1 ? 8 : 4) / Tensors;

// A thread's share of a block's work.
template <Layout L, int V>
struct TileIterator {
  Place<L> place;
  BlockWork work;
  std::int64_t column_index;
  int log_tx;
  int lanes;

  FASTGAN_HD TileIterator(const Geometry& g, const Plan& plan, std::int64_t block, int thread)
      : place(plan, thread),
        work(g, plan, block),
        column_index(work.first_column + place.tx),
        log_tx(plan.log_tx),
        lanes(plan.lanes()) {}

  FASTGAN_HD bool idle(const Geometry& g) const { return column_index >= g.columns; }

  template <int Tile>
  FASTGAN_HD std::int64_t steps() const {
    const std::int64_t units = work.last - work.first;
    // By lanes * Tile, as a shift: lanes << log_tx are the threads.
    const std::int64_t tiles = ceil_div(units, std::int64_t(Tile)) << log_tx;
    return units > 0 ? ceil_div(tiles, std::int64_t(kThreads)) : 0;
  }

  // Unit k of tile `step`, and whether the chunk holds it.
  template <int Tile>
  FASTGAN_HD std::int64_t unit(std::int64_t step, int k) const {
    return work.first + place.lane + (step * Tile + k) * lanes;
  }
  FASTGAN_HD bool holds(std::int64_t unit) const { return unit < work.last; }
};

// A thread's packs of one tensor, kept in shared memory by the single-launch kernels. Each thread
// reads back only what it wrote, neighbouring threads 16 bytes apart: no conflicts, no barrier.
template <typename T, int V>
struct SharedTile {
  Pack<T, V>* packs;  // null: nothing is kept

  FASTGAN_HD Pack<T, V>& at(std::int64_t index, int thread) const {
    return packs[index * kThreads + thread];
  }
};

// Loads tile `step` of `source`; units past the chunk become zeros.
template <typename T, int V, Layout L, int Tile>
FASTGAN_HD void load_tile(const Geometry& g, const TileIterator<L, V>& iter,
                          const Column<L, V>& column, const T* source, std::int64_t step,
                          Pack<T, V> (&raw)[Tile]) {
  FASTGAN_UNROLL
  for (int k = 0; k < Tile; ++k) {
    const std::int64_t unit = iter.template unit<Tile>(step, k);
    raw[k] = iter.holds(unit) ? load<T, V>(source + column.offset(g, unit)) : Pack<T, V>::zero();
  }
}

template <typename T, int V, Layout L, int Tile>
FASTGAN_HD void keep_tile(const TileIterator<L, V>& iter, const SharedTile<T, V>& shared_tile,
                          int thread, std::int64_t step, const Pack<T, V> (&raw)[Tile]) {
  FASTGAN_UNROLL
  for (int k = 0; k < Tile; ++k) {
    if (iter.holds(iter.template unit<Tile>(step, k))) {
      shared_tile.at(step * Tile + k, thread) = raw[k];
    }
  }
}

// Two sums (of products) for each slot of each thread, added over the lanes in a fixed tree.
template <int S>
struct SumScratch {
  float first[S][kThreads];
  float second[S][kThreads];
  float total_first[kThreads];  // single-launch kernels: over the cluster, by (slot, tile column)
  float total_second[kThreads];

  FASTGAN_HD void fold(int thread, int partner) {
    FASTGAN_UNROLL
    for (int s = 0; s < S; ++s) {
      first[s][thread] += first[s][partner];
      second[s][thread] += second[s][partner];
    }
  }
};

// Moments whose mean is mean + rest, with rest below the last digit of mean. Between threads and
// blocks few merges carry great weights: without the rest each would round a mean far from zero
// once more. (A thread's own merges need none of it: their roundings average out over threads.)
struct WideMoments {
  float count;
  float mean;
  float rest;
  float m2;
};

// The mean of `a` moved by `step`, with Knuth's exact sum of two floats.
FASTGAN_HD WideMoments moved(const WideMoments& a, float step, float count, float m2) {
  const float by = a.rest + step;
  const float mean = a.mean + by;
  const float taken = mean - a.mean;
  return {count, mean, (a.mean - (mean - taken)) + (by - taken), m2};
}

// The part of `some` in `all` values, above 0: of a division's rounding nothing is left but in the
// last digits of a step, so the short one does.
FASTGAN_HD float share_of(float some, float all) {
#ifdef __CUDA_ARCH__
  return __fdividef(some, all);
#else
  return some / all;
#endif
}

// 1 / count, of a count of values, without the slow path of a division, which would cost registers.
FASTGAN_HD float inverse_of(float count) {
#ifdef __CUDA_ARCH__
  const float near = __fdividef(1.0f, count);
  return near + near * (1.0f - count * near);  // Newton's step: all its digits
#else
  return 1.0f / count;
#endif
}

// Chan, Golub and LeVeque 1979; share: the part of b in the count of both, which is above 0.
FASTGAN_HD WideMoments merge_wide(const WideMoments& a, const WideMoments& b, float share) {
  const float delta = (b.mean - a.mean) + (b.rest - a.rest);
  return moved(a, delta * share, a.count + b.count,
               a.m2 + b.m2 + delta * delta * a.count * share);
}

FASTGAN_HD WideMoments merge_wide(const WideMoments& a, const WideMoments& b) {
  const float count = a.count + b.count;
  return count > 0.0f ? merge_wide(a, b, share_of(b.count, count)) : a;
}

// All at once: as many independent terms and one division, where merges one by one would wait for
// each other's. The first is not empty, unless all are.
template <int N>
FASTGAN_HD WideMoments merge_all(const WideMoments (&of)[N]) {
  float count = 0.0f;
  float weighted = 0.0f;
  float delta[N];
  FASTGAN_UNROLL
  for (int i = 0; i < N; ++i) {
    const float apart = (of[i].mean - of[0].mean) + (of[i].rest - of[0].rest);
    delta[i] = of[i].count > 0.0f ? apart : 0.0f;
    count += of[i].count;
    weighted += of[i].count * delta[i];
  }
  if (!(count > 0.0f)) {
    return of[0];
  }
  const float step = weighted / count;
  float m2 = 0.0f;
  FASTGAN_UNROLL
  for (int i = 0; i < N; ++i) {
    m2 += of[i].m2 + of[i].count * (delta[i] - step) * (delta[i] - step);
  }
  return moved(of[0], step, count, m2);
}

// WideMoments for each slot of each thread. The slots of a thread share their count.
template <int S>
struct MomentsScratch {
  float count[kThreads];
  float mean[S][kThreads];
  float rest[S][kThreads];
  float m2[S][kThreads];
  float total_mean[kThreads];  // single-launch kernels: over the cluster, by (slot, tile column)
  float total_var[kThreads];

  FASTGAN_HD WideMoments get(int slot, int thread) const {
    return {count[thread], mean[slot][thread], rest[slot][thread], m2[slot][thread]};
  }

  FASTGAN_HD void put(int slot, int thread, const WideMoments& m) {
    mean[slot][thread] = m.mean;
    rest[slot][thread] = m.rest;
    m2[slot][thread] = m.m2;
  }

  FASTGAN_HD void fold(int thread, int partner) {
    const float joint = count[thread] + count[partner];
    if (!(joint > 0.0f)) {
      return;
    }
    const float share = share_of(count[partner], joint);
    FASTGAN_UNROLL
    for (int s = 0; s < S; ++s) {
      put(s, thread, merge_wide(get(s, thread), get(s, partner), share));
    }
    count[thread] = joint;
  }
};

// One step of the tree over the lanes of a column: lane i takes in lane i + half.
template <Layout L, typename Scratch>
FASTGAN_HD void fold_lanes(const Plan& plan, int thread, int half, Scratch& scratch) {
  const Place<L> place(plan, thread);
  if (place.lane < half) {
    scratch.fold(thread, thread + half * place.lane_stride);
  }
}

// The single-launch kernels' last merge, over the blocks of a cluster, is done by one thread for
// each (slot, tile column); this is the thread whose lane tree left that column's total.
template <Layout L>
FASTGAN_HD int total_thread(const Plan& plan, int tile_column) {
  return L == Layout::kChannelsLast ? tile_column : tile_column * plan.lanes();
}

}  // namespace cuda
}  // namespace fastgan
