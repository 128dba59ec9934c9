// norm_act on the CPU: validation of what the kernels rely on, allocation, and the passes.
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

struct Spec {
  double eps;
  int activation;
  double slope;
  int64_t segments;
  bool act_first;
};

template <typename Function>
auto by_accumulator(const Tensor& x, const Function& function) {
  return x.scalar_type() == ScalarType::Double ? function(double{}) : function(float{});
}

Tile tile_of(const Tensor& x, const Spec& spec) {
  Tile t{};
  t.dtype = dtype_of(x);
  t.activation = spec.activation;
  t.act_first = spec.act_first;
  set_writing(x, t);
  t.slope = spec.slope;
  return t;
}

void check(const Tensor& x, const Layout& l, const Spec& spec, const std::optional<Tensor>& weight,
           const std::optional<Tensor>& bias) {
  dtype_of(x);  // says what is wrong here: from within a parallel loop no message comes back
  STD_TORCH_CHECK(spec.segments >= 1 && l.batch % spec.segments == 0, "segments: ", spec.segments,
                  " does not divide the batch of ", l.batch);
  STD_TORCH_CHECK(spec.activation >= kLeakyRelu && spec.activation <= kSigmoid,
                  "activation: unknown code ", spec.activation);
  for (const auto* p : {&weight, &bias}) {
    if (!p->has_value()) continue;
    const Tensor& t = p->value();
    STD_TORCH_CHECK(t.scalar_type() == stat_type(x) && t.is_contiguous() && t.numel() == l.channels,
                    "weight, bias: expected ", l.channels, " contiguous values in float32 "
                    "(float64 for float64 x)");
  }
}

void check_stats(const Tensor& x, const Layout& l, int64_t segments, const Tensor& mean,
                 const Tensor& var) {
  for (const Tensor* t : {&mean, &var}) {
    STD_TORCH_CHECK(t->scalar_type() == stat_type(x) && t->is_contiguous() &&
                        t->numel() == segments * l.channels,
                    "mean, var: expected (", segments, ", ", l.channels, ") contiguous values in "
                    "float32 (float64 for float64 x)");
  }
}

Tensor new_stats(const Tensor& x, int64_t segments, int64_t channels) {
  return torch::stable::new_empty(x, {segments, channels}, stat_type(x));
}

template <typename P>
void forward_pass(const Tensor& x, const Tensor& z, const Tensor& mean, const Tensor& var,
                  const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                  const Layout& l, const Spec& spec, bool training) {
  const Plan plan(l, spec.segments);
  Workspace<P> w(plan, spec.segments);
  if (training) w.reserve_partials(plan, spec.segments);
  P* means = static_cast<P*>(mean.data_ptr());
  P* vars = static_cast<P*>(var.data_ptr());
  const P *weights = data_or_null<P>(weight), *biases = data_or_null<P>(bias);
  const TileKernels& loops = tile_kernels();
  const auto tile = [&](int64_t segment, int64_t index, bool reversed = false) {
    Tile t = tile_of(x, spec);
    t.reversed = reversed;
    int64_t k;
    const int64_t offset = segment * plan.segment_elements() + plan.place(index, t, k);
    t.x = at(x, offset);
    t.out = at_mutable(z, offset);
    w.bind(t, segment, k);
    return t;
  };
  if (training) {
    for_tiles(plan, spec.segments, false, [&](int64_t s, int64_t i) { loops.stats(tile(s, i)); });
  }
  for_channels(plan, spec.segments, [&](int64_t segment, const Channels& ch) {
    P *m = means + segment * l.channels, *v = vars + segment * l.channels;
    if (training) {
      std::vector<double> total(ch.count), m2(ch.count);
      loops.merge_moments(merge_of(plan, w, segment, ch, total.data(), m2.data()));
      for (int64_t c = 0; c < ch.count; ++c) {
        m[ch.first + c] = P(total[c]);
        v[ch.first + c] = P(m2[c] / static_cast<double>(plan.channel_count()));
      }
    }
    set_affine(w, segment, ch, m, v, weights, biases, P(spec.eps));
  });
  for_tiles(plan, spec.segments, training,
            [&](int64_t s, int64_t i) { loops.forward(tile(s, i, training)); });
}

std::tuple<Tensor, Tensor, Tensor> norm_act_train(Tensor x, std::optional<Tensor> weight,
                                                  std::optional<Tensor> bias, double eps,
                                                  int64_t activation, double slope,
                                                  int64_t segments, bool act_first) {
  const Layout l = layout_of(x);
  const Spec spec{eps, static_cast<int>(activation), slope, segments, act_first};
  check(x, l, spec, weight, bias);
  Tensor z = output_like(x);
  Tensor mean = new_stats(x, segments, l.channels), var = new_stats(x, segments, l.channels);
  if (x.numel() == 0) {
    torch::stable::zero_(mean);
    torch::stable::zero_(var);
    return {z, mean, var};
  }
  by_accumulator(x, [&](auto p) {
    forward_pass<decltype(p)>(x, z, mean, var, weight, bias, l, spec, true);
  });
  return {z, mean, var};
}

Tensor norm_act_eval(Tensor x, Tensor mean, Tensor var, std::optional<Tensor> weight,
                     std::optional<Tensor> bias, double eps, int64_t activation, double slope,
                     int64_t segments, bool act_first) {
  const Layout l = layout_of(x);
  const Spec spec{eps, static_cast<int>(activation), slope, segments, act_first};
  check(x, l, spec, weight, bias);
  check_stats(x, l, segments, mean, var);
  Tensor z = output_like(x);
  if (x.numel() == 0) return z;
  by_accumulator(x, [&](auto p) {
    forward_pass<decltype(p)>(x, z, mean, var, weight, bias, l, spec, false);
  });
  return z;
}

// Sums of a and a * centred of every (segment, channel).
struct Sums {
  explicit Sums(int64_t n) : s1(n, 0.0), s2(n, 0.0) {}
  std::vector<double> s1, s2;
};

template <typename P>
void parameter_gradients(const Sums& sums, const P* var, int64_t segments, int64_t channels,
                         double eps, P* dweight, P* dbias) {
  for (int64_t c = 0; c < channels; ++c) {
    double w = 0, b = 0;
    for (int64_t s = 0; s < segments; ++s) {
      const int64_t i = s * channels + c;
      w += sums.s2[i] * rsqrt_of<P>(var[i] + P(eps));
      b += sums.s1[i];
    }
    dweight[c] = P(w);
    dbias[c] = P(b);
  }
}

template <typename P>
void backward_pass(const Tensor& dz, const Tensor& x, const Tensor& dx, const Tensor& mean,
                   const Tensor& var, const std::optional<Tensor>& weight,
                   const std::optional<Tensor>& bias, const Layout& l, const Spec& spec,
                   bool training, bool need_dx, Sums* sums) {
  const Plan plan(l, spec.segments);
  Workspace<P> w(plan, spec.segments);
  const bool reduces = sums != nullptr;
  if (reduces) w.reserve_partials(plan, spec.segments);
  const P* means = static_cast<const P*>(mean.data_ptr());
  const P* vars = static_cast<const P*>(var.data_ptr());
  const P *weights = data_or_null<P>(weight), *biases = data_or_null<P>(bias);
  const TileKernels& loops = tile_kernels();
  const int64_t channels = l.channels;
  const double n = static_cast<double>(plan.channel_count());

  const auto tile = [&](int64_t segment, int64_t index, bool reversed = false) {
    Tile t = tile_of(x, spec);
    t.reversed = reversed;
    int64_t k;
    const int64_t offset = segment * plan.segment_elements() + plan.place(index, t, k);
    t.x = at(x, offset);
    t.dz = at(dz, offset);
    if (need_dx) t.out = at_mutable(dx, offset);
    w.bind(t, segment, k);
    if (!training) t.k0 = t.k1 = nullptr;
    return t;
  };
  // The coefficients must stand before the first pass, which recomputes act'(.) from x.
  for_channels(plan, spec.segments, [&](int64_t s, const Channels& ch) {
    set_affine(w, s, ch, means + s * channels, vars + s * channels, weights, biases, P(spec.eps));
  });
  if (reduces) {
    for_tiles(plan, spec.segments, false, [&](int64_t s, int64_t i) { loops.reduce(tile(s, i)); });
    for_channels(plan, spec.segments, [&](int64_t segment, const Channels& ch) {
      const int64_t first = segment * channels + ch.first;
      double *s1 = sums->s1.data() + first, *s2 = sums->s2.data() + first;
      loops.merge_sums(merge_of(plan, w, segment, ch, s1, s2));
      for (int64_t g = 0; g < ch.groups; ++g) {
        const int64_t base = segment * w.period + ch.first + g * ch.stride;
        for (int64_t c = 0; c < ch.count; ++c) {
          w.k0[base + c] = P(s1[c] / n);
          w.k1[base + c] = P(s2[c] / (n * (static_cast<double>(vars[first + c]) + spec.eps)));
        }
      }
    });
  }
  if (need_dx) {
    for_tiles(plan, spec.segments, reduces,
              [&](int64_t s, int64_t i) { loops.dx(tile(s, i, reduces)); });
  }
}

std::tuple<Tensor, Tensor, Tensor> norm_act_backward(
    Tensor dz, Tensor x, Tensor mean, Tensor var, std::optional<Tensor> weight,
    std::optional<Tensor> bias, double eps, int64_t activation, double slope, int64_t segments,
    bool act_first, bool training, bool need_dx, bool need_dparams) {
  const Layout l = layout_of(x);
  const Spec spec{eps, static_cast<int>(activation), slope, segments, act_first};
  check(x, l, spec, weight, bias);
  check_stats(x, l, segments, mean, var);
  const Layout d = layout_of(dz, "dz");
  STD_TORCH_CHECK(dz.scalar_type() == x.scalar_type() && d.batch == l.batch &&
                      d.channels == l.channels && d.size == l.size && d.columns == l.columns,
                  "dz: expected the dtype, shape and layout of x");
  const int64_t params = need_dparams ? l.channels : 0;
  Tensor dx = need_dx ? output_like(x) : torch::stable::new_empty(x, {0});
  Tensor dweight = torch::stable::new_empty(x, {params}, stat_type(x));
  Tensor dbias = torch::stable::new_empty(x, {params}, stat_type(x));
  if (x.numel() == 0) {
    torch::stable::zero_(dweight);
    torch::stable::zero_(dbias);
    return {dx, dweight, dbias};
  }
  by_accumulator(x, [&](auto p) {
    using P = decltype(p);
    Sums sums(segments * l.channels);
    const bool reduces = need_dparams || (training && need_dx);
    backward_pass<P>(dz, x, dx, mean, var, weight, bias, l, spec, training, need_dx,
                     reduces ? &sums : nullptr);
    if (need_dparams) {
      parameter_gradients<P>(sums, static_cast<const P*>(var.data_ptr()), segments, l.channels, eps,
                             static_cast<P*>(dweight.data_ptr()),
                             static_cast<P*>(dbias.data_ptr()));
    }
  });
  return {dx, dweight, dbias};
}

template <typename P>
void update_stats(P* running, const P* batch, int64_t segments, int64_t channels, P momentum,
                  P factor, bool average) {
  for (int64_t c = 0; c < channels; ++c) {
    if (average) {
      double sum = 0;
      for (int64_t s = 0; s < segments; ++s) sum += batch[s * channels + c];
      running[c] += momentum * (P(sum / static_cast<double>(segments)) * factor - running[c]);
      continue;
    }
    for (int64_t s = 0; s < segments; ++s) {
      running[c] = momentum * (batch[s * channels + c] * factor) + (P(1) - momentum) * running[c];
    }
  }
}

void update_running_stats_(Tensor running_mean, Tensor running_var, Tensor mean, Tensor var,
                           double momentum, int64_t count, bool average) {
  STD_TORCH_CHECK(mean.dim() == 2 && mean.is_contiguous() &&
                      (mean.scalar_type() == ScalarType::Float ||
                       mean.scalar_type() == ScalarType::Double),
                  "mean: expected (segments, channels) contiguous values in float32 or float64");
  STD_TORCH_CHECK(count > 1, "count: expected more than one value per channel, got ", count);
  const int64_t segments = mean.size(0), channels = mean.size(1);
  STD_TORCH_CHECK(var.scalar_type() == mean.scalar_type() && var.is_contiguous() &&
                      var.numel() == mean.numel(),
                  "var: expected (", segments, ", ", channels, ") contiguous values of mean's dtype");
  for (const Tensor* t : {&running_mean, &running_var}) {
    STD_TORCH_CHECK(t->scalar_type() == mean.scalar_type() && t->is_contiguous() &&
                        t->numel() == channels,
                    "running_mean, running_var: expected ", channels, " contiguous values of the "
                    "statistics' dtype");
  }
  const double unbiased = static_cast<double>(count) / static_cast<double>(count - 1);
  by_accumulator(mean, [&](auto p) {
    using P = decltype(p);
    update_stats<P>(static_cast<P*>(running_mean.data_ptr()), static_cast<const P*>(mean.data_ptr()),
                    segments, channels, P(momentum), P(1), average);
    update_stats<P>(static_cast<P*>(running_var.data_ptr()), static_cast<const P*>(var.data_ptr()),
                    segments, channels, P(momentum), P(unbiased), average);
  });
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("norm_act_train.kernel", TORCH_BOX(&fastgan::norm_act_train));
  m.impl("norm_act_eval.kernel", TORCH_BOX(&fastgan::norm_act_eval));
  m.impl("norm_act_backward.kernel", TORCH_BOX(&fastgan::norm_act_backward));
  m.impl("update_running_stats_.kernel", TORCH_BOX(&fastgan::update_running_stats_));
}
