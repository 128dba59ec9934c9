// The workspace of an op, the loops over its tiles, and the merging of partial results.
#pragma once

#include <type_traits>
#include <vector>

#include "cpu/runtime/plan.h"

namespace fastgan {

// What of a workspace a pass needs: coefficients, with the partial results of moments, or with those of
// sums and the coefficients that come of them.
enum Needs { kCoefficients, kForMoments, kForSums };

// Coefficients and partial results of all segments, in one block. P is float, or double for float64.
template <typename P>
struct Workspace {
  Workspace(const Plan& plan, int64_t segments, Needs needs)
      : period(plan.period), partials(plan.partials()) {
    const bool moments = needs == kForMoments, sums = needs == kForSums;
    const int64_t coefficients = whole_lines(segments * period);
    const int64_t results = needs == kCoefficients ? 0 : whole_lines(segments * partials * period);
    block_ = scratch<P>((sums ? 5 : 3) * coefficients + (moments ? 3 : 2) * results);
    P* next = block_.get();
    const auto part = [&next](int64_t n) {
      next += n;
      return next - n;
    };
    for (P** p : {&mean, &scale, &bias}) *p = part(coefficients);
    if (needs == kCoefficients) return;
    if (sums) k0 = part(coefficients), k1 = part(coefficients);
    r1 = part(results), r2 = part(results);
    if (moments) r3 = part(results);
    counts.resize(partials);
    for (int64_t k = 0; k < partials; ++k) counts[k] = plan.count(k);
  }

  // Makes `t` a tile of a segment: its rectangle, coefficients and partial results. Gives the offset
  // of its first value from the start of the tensor.
  int64_t place(const Plan& plan, int64_t segment, int64_t index, Tile& t) const {
    int64_t k;
    const int64_t offset = segment * plan.segment_elements() + plan.place(index, t, k);
    bind(t, segment, k);
    return offset;
  }

  int64_t period, partials;
  P *mean, *scale, *bias, *k0 = nullptr, *k1 = nullptr;
  P *r1 = nullptr, *r2 = nullptr, *r3 = nullptr;
  std::vector<int64_t> counts;  // values of a column in each partial result

 private:
  void bind(Tile& t, int64_t segment, int64_t k) const {
    const int64_t coefficient = segment * period, result = (segment * partials + k) * period;
    t.mean = mean + coefficient;
    t.scale = scale + coefficient;
    t.bias = bias + coefficient;
    if (r1 == nullptr) return;
    t.r1 = r1 + result;
    t.r2 = r2 + result;
    if (r3) t.r3 = r3 + result;
    if (k0) t.k0 = k0 + coefficient, t.k1 = k1 + coefficient;
  }

  static int64_t whole_lines(int64_t n) {
    constexpr int64_t line = 64 / sizeof(P);
    return ceil_div(n, line) * line;
  }

  Scratch<P> block_;
};

// A block of channels, which one thread merges. Where a row repeats the channels they stand for
// `groups` columns each, a whole set of channels apart.
struct Channels {
  int64_t first, count, groups, stride;
};
constexpr int64_t kChannelBlock = 64;

// How many pieces of so many elements are worth a thread: waking one takes as long as 16k elements.
inline int64_t grain(int64_t elements) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, elements));
}

// As torch's, whose own overhead a single piece is spared.
template <typename Function>
void parallel_for(int64_t pieces, int64_t grain, const Function& function) {
  if (pieces <= grain) return function(0, pieces);
  torch::stable::parallel_for(0, pieces, grain, function);
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
  constexpr int64_t block = kChannelBlock;
  const int64_t channels = plan.layout.channels, blocks = (channels + block - 1) / block;
  const int64_t work = plan.partials() * plan.period / blocks;
  parallel_for(segments * blocks, grain(work), [&](int64_t begin, int64_t end) {
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
  parallel_for(segments * tiles, grain(work), [&](int64_t begin, int64_t end) {
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
  return {std::is_same_v<P, double>, w.r1 + at, w.r2 + at, w.r3 ? w.r3 + at : nullptr, w.counts.data(),
          plan.tail_columns(), w.partials, w.period,
          ch.first, ch.count, ch.groups, ch.stride,
          static_cast<double>(plan.channel_count()), out1, out2};
}

// Repeats what stands for a block of channels, from `first` on, for each further group of columns.
template <typename P>
void repeat(P* first, const Channels& ch) {
  for (int64_t g = 1; g < ch.groups; ++g) std::copy_n(first, ch.count, first + g * ch.stride);
}

// Writes the coefficients of a block of channels, repeated for each group of columns.
template <typename P>
void set_affine(Workspace<P>& w, int64_t segment, const Channels& ch, const P* mean, const P* var,
                const P* weight, const P* bias, P eps) {
  const int64_t base = segment * w.period + ch.first;
  for (int64_t i = 0; i < ch.count; ++i) {
    const int64_t c = ch.first + i;
    const P gamma = weight ? weight[c] : P(1), beta = bias ? bias[c] : P(0);
    const Affine<P> a = affine<P>(mean[c], var[c], gamma, beta, eps);
    w.mean[base + i] = a.mean;
    w.scale[base + i] = a.scale;
    w.bias[base + i] = a.bias;
  }
  for (P* coefficients : {w.mean, w.scale, w.bias}) repeat(coefficients + base, ch);
}

}  // namespace fastgan
