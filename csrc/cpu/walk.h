// The workspace of an op, the walks over its tiles, and the merging of partial results.
#pragma once

#include <cmath>
#include <vector>

#include "plan.h"

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

  void reserve_partials(int64_t segments) {
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
  std::unique_ptr<P[]> mean, scale, bias, k0, k1, r1, r2, r3;
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

// Adds the partial sums r1 (and r2, if s2 is given) of a block of channels, in order, in double.
template <typename P>
void merge_sums(const Plan& plan, const Workspace<P>& w, int64_t segment, const Channels& ch,
                double* s1, double* s2) {
  std::fill(s1, s1 + ch.count, 0.0);
  if (s2) std::fill(s2, s2 + ch.count, 0.0);
  for (int64_t k = 0; k < plan.partials(); ++k) {
    for (int64_t g = 0; g < ch.groups; ++g) {
      const int64_t at = (segment * plan.partials() + k) * plan.period + ch.first + g * ch.stride;
      const P *r1 = w.r1.get() + at, *r2 = w.r2.get() + at;
      for (int64_t c = 0; c < ch.count; ++c) s1[c] += r1[c];
      for (int64_t c = 0; s2 && c < ch.count; ++c) s2[c] += r2[c];
    }
  }
}

// Mean and M2 of a block of channels from those of the tiles: the weighted mean of the means, then
// M2 + count * (mean - total mean)^2. Sums of deviations only, as in Chan et al. 1979.
template <typename P>
void merge_moments(const Plan& plan, const Workspace<P>& w, int64_t segment, const Channels& ch,
                   double* mean, double* m2) {
  std::fill(mean, mean + ch.count, 0.0);
  std::fill(m2, m2 + ch.count, 0.0);
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t k = 0; k < plan.partials(); ++k) {
      for (int64_t g = 0; g < ch.groups; ++g) {
        const int64_t column = ch.first + g * ch.stride;
        const int64_t at = (segment * plan.partials() + k) * plan.period + column;
        const P *r1 = w.r1.get() + at, *r2 = w.r2.get() + at, *r3 = w.r3.get() + at;
        for (int64_t c = 0; c < ch.count; ++c) {
          const double n = static_cast<double>(plan.count(k, column + c));
          // An infinite mean has no finite rest.
          const double own = std::isfinite(r3[c]) ? double(r1[c]) + double(r3[c]) : double(r1[c]);
          if (pass == 0) {
            mean[c] += n * own;
          } else {
            const double delta = own - mean[c];
            m2[c] += r2[c] + n * delta * delta;
          }
        }
      }
    }
    const double total = static_cast<double>(plan.channel_count());
    for (int64_t c = 0; pass == 0 && c < ch.count; ++c) mean[c] /= total;
  }
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
