// norm_act on the CPU: the passes over a tensor, of checked arguments.
#include "cpu/runtime/entries.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

template <typename Function>
void by_accumulator(bool wide, const Function& function) {
  wide ? function(double{}) : function(float{});
}

Tile tile_of(const NormCall& a) {
  Tile t{};
  t.dtype = a.dtype;
  t.activation = a.spec.activation;
  t.act_first = a.spec.act_first;
  set_writing(a.dtype, a.layout, t);
  t.slope = a.spec.slope;
  return t;
}

template <typename P>
void forward_pass(const NormForward& a) {
  const int64_t segments = a.spec.segments, channels = a.layout.channels;
  const Plan plan(a.layout, segments);
  Workspace<P> w(plan, segments, a.training ? kForMoments : kCoefficients);
  P *means = static_cast<P*>(a.mean), *vars = static_cast<P*>(a.var);
  const P *weights = static_cast<const P*>(a.weight), *biases = static_cast<const P*>(a.bias);
  const TileKernels& loops = tile_kernels();
  const Tile any = tile_of(a);
  const auto tile = [&](int64_t segment, int64_t index, bool reversed = false) {
    Tile t = any;
    t.reversed = reversed;
    const int64_t offset = w.place(plan, segment, index, t);
    t.x = at(a.x, a.dtype, offset);
    t.out = at(a.z, a.dtype, offset);
    return t;
  };
  if (a.training) {
    for_tiles(plan, segments, false, [&](int64_t s, int64_t i) { loops.stats(tile(s, i)); });
  }
  for_channels(plan, segments, [&](int64_t segment, const Channels& ch) {
    P *m = means + segment * channels, *v = vars + segment * channels;
    if (a.training) {
      double total[kChannelBlock], m2[kChannelBlock];
      loops.merge_moments(merge_of(plan, w, segment, ch, total, m2));
      for (int64_t c = 0; c < ch.count; ++c) {
        m[ch.first + c] = P(total[c]);
        v[ch.first + c] = P(m2[c] / static_cast<double>(plan.channel_count()));
      }
    }
    set_affine(w, segment, ch, m, v, weights, biases, P(a.spec.eps));
  });
  for_tiles(plan, segments, a.training,
            [&](int64_t s, int64_t i) { loops.forward(tile(s, i, a.training)); });
}

// Sums of a and a * centred of every (segment, channel).
struct Sums {
  explicit Sums(int64_t n) : s1(n, 0.0), s2(n, 0.0) {}
  std::vector<double> s1, s2;
};

template <typename P>
void parameter_gradients(const Sums& sums, const NormBackward& a) {
  const P* var = static_cast<const P*>(a.var);
  const int64_t channels = a.layout.channels;
  for (int64_t c = 0; c < channels; ++c) {
    double w = 0, b = 0;
    for (int64_t s = 0; s < a.spec.segments; ++s) {
      const int64_t i = s * channels + c;
      w += sums.s2[i] * rsqrt_of<P>(var[i] + P(a.spec.eps));
      b += sums.s1[i];
    }
    static_cast<P*>(a.dweight)[c] = P(w);
    static_cast<P*>(a.dbias)[c] = P(b);
  }
}

template <typename P>
void backward_pass(const NormBackward& a) {
  const int64_t segments = a.spec.segments, channels = a.layout.channels;
  const bool reduces = a.dweight != nullptr || (a.training && a.dx != nullptr);
  const Plan plan(a.layout, segments);
  Workspace<P> w(plan, segments, reduces ? kForSums : kCoefficients);
  Sums sums(reduces ? segments * channels : 0);
  const P *means = static_cast<const P*>(a.mean), *vars = static_cast<const P*>(a.var);
  const P *weights = static_cast<const P*>(a.weight), *biases = static_cast<const P*>(a.bias);
  const TileKernels& loops = tile_kernels();
  const double n = static_cast<double>(plan.channel_count());
  const Tile any = tile_of(a);
  const auto tile = [&](int64_t segment, int64_t index, bool reversed = false) {
    Tile t = any;
    t.reversed = reversed;
    const int64_t offset = w.place(plan, segment, index, t);
    t.x = at(a.x, a.dtype, offset);
    t.dz = at(a.dz, a.dtype, offset);
    if (a.dx) t.out = at(a.dx, a.dtype, offset);
    if (!a.training) t.k0 = t.k1 = nullptr;
    return t;
  };
  // The coefficients must stand before the first pass, which recomputes act'(.) from x.
  for_channels(plan, segments, [&](int64_t s, const Channels& ch) {
    set_affine(w, s, ch, means + s * channels, vars + s * channels, weights, biases,
               P(a.spec.eps));
  });
  if (reduces) {
    for_tiles(plan, segments, false, [&](int64_t s, int64_t i) { loops.reduce(tile(s, i)); });
    for_channels(plan, segments, [&](int64_t segment, const Channels& ch) {
      const int64_t first = segment * channels + ch.first, base = segment * w.period + ch.first;
      double *s1 = sums.s1.data() + first, *s2 = sums.s2.data() + first;
      loops.merge_sums(merge_of(plan, w, segment, ch, s1, s2));
      for (int64_t c = 0; c < ch.count; ++c) {
        w.k0[base + c] = P(s1[c] / n);
        w.k1[base + c] = P(s2[c] / (n * (static_cast<double>(vars[first + c]) + a.spec.eps)));
      }
      for (P* k : {w.k0, w.k1}) repeat(k + base, ch);
    });
  }
  if (a.dx) {
    for_tiles(plan, segments, reduces,
              [&](int64_t s, int64_t i) { loops.dx(tile(s, i, reduces)); });
  }
  if (a.dweight) parameter_gradients<P>(sums, a);
}

template <typename P>
void update_stats(void* moved, const void* of_batch, const RunningStats& a, P factor) {
  P* running = static_cast<P*>(moved);
  const P* batch = static_cast<const P*>(of_batch);
  const P momentum = P(a.momentum);
  for (int64_t c = 0; c < a.channels; ++c) {
    if (a.average) {
      double sum = 0;
      for (int64_t s = 0; s < a.segments; ++s) sum += batch[s * a.channels + c];
      const P mean = P(sum / static_cast<double>(a.segments));
      running[c] += momentum * (mean * factor - running[c]);
      continue;
    }
    for (int64_t s = 0; s < a.segments; ++s) {
      running[c] =
          momentum * (batch[s * a.channels + c] * factor) + (P(1) - momentum) * running[c];
    }
  }
}

}  // namespace

void norm_forward(const NormForward& a) {
  by_accumulator(a.dtype == Dtype::kFloat64, [&](auto p) { forward_pass<decltype(p)>(a); });
}

void norm_backward(const NormBackward& a) {
  by_accumulator(a.dtype == Dtype::kFloat64, [&](auto p) { backward_pass<decltype(p)>(a); });
}

void update_running_stats(const RunningStats& a) {
  const double unbiased = static_cast<double>(a.count) / static_cast<double>(a.count - 1);
  by_accumulator(a.wide, [&](auto p) {
    using P = decltype(p);
    update_stats<P>(a.running_mean, a.mean, a, P(1));
    update_stats<P>(a.running_var, a.var, a, P(unbiased));
  });
}

}  // namespace fastgan
