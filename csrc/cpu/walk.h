// Walks the tiles of every segment: a pass that gives partial results, a merge for each unit, and a
// pass that uses what was merged.
#pragma once

#include <vector>

#include "plan.h"

namespace fastgan {

// Coefficients and partial results of all segments. P is float, or double for float64.
template <typename P>
struct Workspace {
  Workspace(const Plan& plan, int64_t segments)
      : period(plan.period),
        tiles_per_unit(plan.tiles_per_unit),
        mean(scratch<P>(segments * period)),
        scale(scratch<P>(segments * period)),
        bias(scratch<P>(segments * period)),
        k0(scratch<P>(segments * period)),
        k1(scratch<P>(segments * period)) {}

  void reserve_partials(int64_t segments) {
    r1 = scratch<P>(segments * tiles_per_unit * period);
    r2 = scratch<P>(segments * tiles_per_unit * period);
  }

  void bind(Tile& t, int64_t segment, int64_t k) const {
    t.mean = mean.get() + segment * period;
    t.scale = scale.get() + segment * period;
    t.bias = bias.get() + segment * period;
    t.k0 = k0.get() + segment * period;
    t.k1 = k1.get() + segment * period;
    t.r1 = r1.get() + (segment * tiles_per_unit + k) * period;
    t.r2 = r2.get() + (segment * tiles_per_unit + k) * period;
  }

  int64_t period, tiles_per_unit;
  std::unique_ptr<P[]> mean, scale, bias, k0, k1, r1, r2;
};

// The channels of a unit, and each group of columns that stands for them. Where a row repeats the
// channels (period a multiple of them), the single unit holds several groups.
struct Channels {
  Channels(const Plan& plan, int64_t unit) {
    const int64_t c = plan.layout.channels;
    const bool repeats = plan.period != c;
    column = unit * plan.width;
    first = repeats ? 0 : column;
    count = repeats ? c : std::min(plan.period, column + plan.width) - column;
    groups = repeats ? plan.period / c : 1;
  }
  int64_t column, first, count, groups;
};

// Runs `first` on every tile, `merge` on every unit once its tiles are done, `second` on every tile.
// A null function is left out. Arguments: (segment, tile index) and (segment, unit).
template <typename First, typename Merge, typename Second>
void walk(const Plan& plan, int64_t segments, bool run_first, const First& first, const Merge& merge,
          bool run_second, const Second& second) {
  const int64_t per_unit = plan.tiles_per_unit, tiles = plan.tiles(), units = plan.units;
  const auto on_tiles = [&](const auto& function) {
    torch::stable::parallel_for(0, segments * tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) function(i / tiles, i % tiles);
    });
  };
  if (plan.fused(segments)) {
    torch::stable::parallel_for(0, segments * units, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t segment = i / units, unit = i % units;
        for (int64_t k = 0; run_first && k < per_unit; ++k) first(segment, unit * per_unit + k);
        merge(segment, unit);
        for (int64_t k = 0; run_second && k < per_unit; ++k) second(segment, unit * per_unit + k);
      }
    });
    return;
  }
  if (run_first) on_tiles(first);
  torch::stable::parallel_for(0, segments * units, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) merge(i / units, i % units);
  });
  if (run_second) on_tiles(second);
}

// Adds the partial sums r1, r2 of one unit over its tiles, in tile order, in double.
template <typename P>
void merge_sums(const Plan& plan, const Workspace<P>& w, int64_t segment, const Channels& ch,
                bool both, double* s1, double* s2) {
  std::fill(s1, s1 + ch.count, 0.0);
  if (both) std::fill(s2, s2 + ch.count, 0.0);
  for (int64_t k = 0; k < plan.tiles_per_unit; ++k) {
    const int64_t row = (segment * plan.tiles_per_unit + k) * plan.period + ch.column;
    for (int64_t g = 0; g < ch.groups; ++g) {
      const P* r1 = w.r1.get() + row + g * ch.count;
      const P* r2 = w.r2.get() + row + g * ch.count;
      for (int64_t c = 0; c < ch.count; ++c) s1[c] += r1[c];
      for (int64_t c = 0; both && c < ch.count; ++c) s2[c] += r2[c];
    }
  }
}

// Mean and M2 of each channel of a unit from those of its tiles: the weighted mean of the means, then
// M2 + count * (mean - total mean)^2. Sums of deviations only, as in Chan et al. 1979.
template <typename P>
void merge_moments(const Plan& plan, const Workspace<P>& w, int64_t segment, int64_t unit,
                   const Channels& ch, double* mean, double* m2) {
  std::fill(mean, mean + ch.count, 0.0);
  std::fill(m2, m2 + ch.count, 0.0);
  const double total = static_cast<double>(std::max<int64_t>(1, plan.channel_count()));
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t k = 0; k < plan.tiles_per_unit; ++k) {
      Tile t{};
      plan.place(unit * plan.tiles_per_unit + k, t);
      const int64_t row = (segment * plan.tiles_per_unit + k) * plan.period;
      for (int64_t g = 0; g < ch.groups; ++g) {
        const int64_t column = ch.column + g * ch.count;
        const P* r1 = w.r1.get() + row + column;
        const P* r2 = w.r2.get() + row + column;
        for (int64_t c = 0; c < ch.count; ++c) {
          const double n = static_cast<double>(Plan::count(t, column + c));
          if (pass == 0) {
            mean[c] += n * r1[c];
          } else {
            const double delta = r1[c] - mean[c];
            m2[c] += r2[c] + n * delta * delta;
          }
        }
      }
    }
    for (int64_t c = 0; pass == 0 && c < ch.count; ++c) mean[c] /= total;
  }
}

// Writes the coefficients of one unit's channels, repeated for each group of columns.
template <typename P>
void set_affine(Workspace<P>& w, int64_t segment, const Channels& ch, const P* mean, const P* var,
                const P* weight, const P* bias, P eps) {
  for (int64_t g = 0; g < ch.groups; ++g) {
    const int64_t base = segment * w.period + ch.column + g * ch.count;
    for (int64_t i = 0; i < ch.count; ++i) {
      const int64_t c = ch.first + i;
      const Affine<P> a = affine<P>(mean[c], var[c], weight ? weight[c] : P(1), bias ? bias[c] : P(0),
                                    eps);
      w.mean[base + i] = a.mean;
      w.scale[base + i] = a.scale;
      w.bias[base + i] = a.bias;
    }
  }
}

}  // namespace fastgan
