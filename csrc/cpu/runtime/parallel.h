// The workspace of an op, the loops over its tiles, and the merging of partial results.
#pragma once

#include <type_traits>
#include <vector>

#include "cpu/runtime/plan.h"

namespace fastgan {

// Coefficients and partial results of all segments. P is float, or double for float64.
template <typename P>
struct Workspace {
  Workspace(const Plan& plan, int64_t segments)
      : period(plan.period),
        partials(plan.partials()),
        mean(scratch<P>(segments * period)),
        scale(scratch<P>(segments * period)),
        bias(scratch<P>(segments * period)),
        k0(scratch<P>(segments * period)),
        k1(scratch<P>(segments * period)) {}

  void reserve_partials(const Plan& plan, int64_t segments) {
    counts.resize(partials);
    for (int64_t k = 0; k < partials; ++k) counts[k] = plan.count(k);
    r1 = scratch<P>(segments * partials * period);
    r2 = scratch<P>(segments * partials * period);
    r3 = scratch<P>(segments * partials * period);
  }

  void bind(Tile& t, int64_t segment, int64_t k) const {
    t.mean = mean.get() + segment * period;
    t.scale = scale.get() + segment * period;
    t.bias = bias.get() + segment * period;
    t.k0 = k0.get() + segment * period;
    t.k1 = k1.get() + segment * period;
    t.r1 = r1.get() + (segment * partials + k) * period;
    t.r2 = r2.get() + (segment * partials + k) * period;
    t.r3 = r3.get() + (segment * partials + k) * period;
  }

  int64_t period, partials;
  Scratch<P> mean, scale, bias, k0, k1, r1, r2, r3;
  std::vector<int64_t> counts;  // values of a column in each partial result
};

// A block of channels, which one thread merges. Where a row repeats the channels they stand for
// `groups` columns each, a whole set of channels apart.
struct Channels {
  int64_t first, count, groups, stride;
};

// How many pieces of so many elements are worth a thread: waking one takes as long as 16k elements.
inline int64_t grain(int64_t elements) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, elements));
}

// Memory that is kept from call to call: touching fresh memory takes longer than writing it.
template <typename T>
class KeptScratch {
 public:
  T* at_least(int64_t count) {
    if (count > size_) {
      kept_ = scratch<T>(count);
      size_ = count;
    }
    return kept_.get();
  }

 private:
  Scratch<T> kept_;
  int64_t size_ = 0;
};

// Calls function(segment, block of channels) for all of them, in parallel.
template <typename Function>
void for_channels(const Plan& plan, int64_t segments, const Function& function) {
  constexpr int64_t block = 64;
  const int64_t channels = plan.layout.channels, blocks = (channels + block - 1) / block;
  const int64_t work = plan.partials() * plan.period / blocks;
  torch::stable::parallel_for(0, segments * blocks, grain(work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * block;
      const Channels ch{first, std::min(block, channels - first), plan.period / channels, channels};
      function(i / blocks, ch);
    }
  });
}

// Calls function(segment, tile index) for all tiles, in parallel and in the order of memory. With
// `reversed` every thread goes backwards through its share, which is the same as before: a second
// pass meets first what the one before it left in the cache.
template <typename Function>
void for_tiles(const Plan& plan, int64_t segments, bool reversed, const Function& function) {
  const int64_t tiles = plan.tiles(), work = plan.segment_elements() / tiles;
  torch::stable::parallel_for(0, segments * tiles, grain(work), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t i = reversed ? end - 1 - (n - begin) : n;
      function(i / tiles, i % tiles);
    }
  });
}

// The partial results of a segment, to be merged for a block of channels into out1 and out2.
template <typename P>
Merge merge_of(const Plan& plan, const Workspace<P>& w, int64_t segment, const Channels& ch,
               double* out1, double* out2) {
  const int64_t at = segment * w.partials * w.period;
  std::fill(out1, out1 + ch.count, 0.0);
  if (out2) std::fill(out2, out2 + ch.count, 0.0);
  return {std::is_same_v<P, double>, w.r1.get() + at, w.r2.get() + at, w.r3.get() + at,
          w.counts.data(), plan.tail_columns(), w.partials, w.period,
          ch.first, ch.count, ch.groups, ch.stride,
          static_cast<double>(plan.channel_count()), out1, out2};
}

// Writes the coefficients of a block of channels, repeated for each group of columns.
template <typename P>
void set_affine(Workspace<P>& w, int64_t segment, const Channels& ch, const P* mean, const P* var,
                const P* weight, const P* bias, P eps) {
  for (int64_t g = 0; g < ch.groups; ++g) {
    const int64_t base = segment * w.period + ch.first + g * ch.stride;
    for (int64_t i = 0; i < ch.count; ++i) {
      const int64_t c = ch.first + i;
      const P gamma = weight ? weight[c] : P(1), beta = bias ? bias[c] : P(0);
      const Affine<P> a = affine<P>(mean[c], var[c], gamma, beta, eps);
      w.mean[base + i] = a.mean;
      w.scale[base + i] = a.scale;
      w.bias[base + i] = a.bias;
    }
  }
}

}  // namespace fastgan
