// The weight gradient of the small-channel convolutions, as seen by one thread; see
// cuda/small_channels/kernel.h.
#pragma once

#include "cuda/small_channels/shape.h"

namespace fastgan {
namespace cuda {

// How the positions are cut into chunks, one for each block of 64 wide channels and 128 taps, and how
// a block's groups of threads share out the taps: where these need half of the groups or fewer, the
// others take every second position, or fourth.
struct SmallChannelWeightPlan {
  std::int64_t chunks;
  std::int64_t chunk_len;  // a multiple of the positions of a step
  int tap_tiles;
  int tap_groups;  // a power of two

  FASTGAN_HD std::int64_t blocks(const SmallChannelShape& s) const {
    return chunks * s.wide_chunks() * tap_tiles;
  }
};

// part[chunk][wide channel][tap] = the sum over the chunk's positions of wide * image. A step lays out
// 32 positions in shared memory, whose memory the threads' sums then take.
template <typename T_, int V>
struct SmallChannelWeightKernel {
  using T = T_;
  using Place = SmallChannelPlace<V>;
  using State = SmallChannelTile<V>;
  static constexpr int kPositions = 32;
  static constexpr int kBlocksPerSm = 2;
  struct Step {
    float patch[kPositions][kBlockRows];
    float wide[kPositions][kWideChannels];
  };
  union Shared {
    alignas(16) Step step;
    float sum[kRows<V> * V][kThreads];
  };

  SmallChannelShape shape;
  SmallChannelWeightPlan plan;
  const T* image;
  const T* wide;
  float* part;

  struct Work {
    std::int64_t chunk;
    int first_channel, first_tap;

    FASTGAN_HD Work(const SmallChannelWeightKernel& b, std::int64_t block) {
      const int rest = int(block) / b.plan.tap_tiles;
      first_tap = int(block) % b.plan.tap_tiles * kBlockRows;
      first_channel = rest % b.shape.wide_chunks() * kWideChannels;
      chunk = rest / b.shape.wide_chunks();
    }
  };

  FASTGAN_HD int steps() const { return int(plan.chunk_len / kPositions); }
  FASTGAN_HD std::int64_t first_position(const Work& work, int step) const {
    return work.chunk * plan.chunk_len + std::int64_t(step) * kPositions;
  }

  FASTGAN_HD void begin(std::int64_t, int, State& state) const { state.clear(); }

  FASTGAN_HD void stage(std::int64_t block, int thread, int step, Shared& shared) const {
    const Work work(*this, block);
    const std::int64_t first = first_position(work, step);
    const int row = thread % kBlockRows;
    const int tap = work.first_tap + row;
    const bool held = tap < shape.taps();
    const Tap at(shape, held ? tap : 0);
    for (int m = thread / kBlockRows; m < kPositions; m += kThreads / kBlockRows) {
      const Corner corner(shape, first + m);
      shared.step.patch[m][row] = held ? image_value(shape, image, corner, at) : 0.0f;
    }
    constexpr int packs = kWideChannels / V;
    for (int e = thread; e < kPositions * packs; e += kThreads) {
      const std::int64_t position = first + e / packs;
      const int lane = e % packs * V;
      const int k = work.first_channel + lane;
      const bool there = position < shape.positions() && k < shape.wide;
      float value[V];
      (there ? load<T, V>(wide + position * shape.wide + k) : Pack<T, V>::zero()).unpack(value);
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        shared.step.wide[e / packs][lane + v] = value[v];
      }
    }
  }

  FASTGAN_HD void absorb(std::int64_t, int thread, int, const Shared& shared, State& state) const {
    const Place place(thread);
    const int row = place.group % plan.tap_groups * kRows<V>;
    for (int m = place.group / plan.tap_groups; m < kPositions;
         m += Place::kGroups / plan.tap_groups) {
      state.absorb(&shared.step.patch[m][row], &shared.step.wide[m][place.channel()]);
    }
  }

  FASTGAN_HD void publish(int thread, Shared& shared, const State& state) const {
    FASTGAN_UNROLL
    for (int r = 0; r < kRows<V>; ++r) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        shared.sum[r * V + v][thread] = state.sum[r][v];
      }
    }
  }

  FASTGAN_HD void finish(std::int64_t block, int thread, const Shared& shared,
                         const State&) const {
    const Work work(*this, block);
    const Place place(thread);
    const int taps = shape.taps();
    if (place.group >= plan.tap_groups) {
      return;
    }
    for (int slot = 0; slot < kRows<V> * V; ++slot) {
      const int tap = work.first_tap + place.group * kRows<V> + slot / V;
      const int k = work.first_channel + place.channel() + slot % V;
      if (tap >= taps || k >= shape.wide) {
        continue;
      }
      float sum = 0.0f;
      for (int group = place.group; group < Place::kGroups; group += plan.tap_groups) {
        sum += shared.sum[slot][group * Place::kLanes + place.lane];
      }
      part[(work.chunk * shape.wide + k) * taps + tap] = sum;
    }
  }
};

}  // namespace cuda
}  // namespace fastgan
