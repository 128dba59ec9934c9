// norm_act on the CPU as operators: validation of what the kernels rely on, and allocation.
#include "cpu/runtime/entries.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

using OptionalTensor = std::optional<Tensor>;

// The arguments that all passes have, checked.
NormCall call_of(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                 const NormSpec& spec, bool training) {
  const Layout l = layout_of(x);
  const Dtype dtype = dtype_of(x);
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
  return {dtype, l, spec, training, x.data_ptr(), pointer(weight),
          pointer(bias)};
}

void check_stats(const Tensor& x, const NormCall& a, const Tensor& mean, const Tensor& var) {
  const int64_t segments = a.spec.segments, channels = a.layout.channels;
  for (const Tensor* t : {&mean, &var}) {
    STD_TORCH_CHECK(t->scalar_type() == stat_type(x) && t->is_contiguous() &&
                        t->numel() == segments * channels,
                    "mean, var: expected (", segments, ", ", channels, ") contiguous values in "
                    "float32 (float64 for float64 x)");
  }
}

Tensor new_stats(const Tensor& x, const NormCall& a) {
  return torch::stable::new_empty(x, {a.spec.segments, a.layout.channels}, stat_type(x));
}

std::tuple<Tensor, Tensor, Tensor> norm_act_train(Tensor x, OptionalTensor weight,
                                                  OptionalTensor bias, double eps,
                                                  int64_t activation, double slope,
                                                  int64_t segments, bool act_first) {
  const NormSpec spec{eps, static_cast<int>(activation), slope, segments, act_first};
  const NormCall call = call_of(x, weight, bias, spec, true);
  Tensor z = output_like(x), mean = new_stats(x, call), var = new_stats(x, call);
  if (x.numel() == 0) {
    torch::stable::zero_(mean);
    torch::stable::zero_(var);
  } else {
    norm_forward({call, mean.data_ptr(), var.data_ptr(), z.data_ptr()});
  }
  return {z, mean, var};
}

Tensor norm_act_eval(Tensor x, Tensor mean, Tensor var, OptionalTensor weight, OptionalTensor bias,
                     double eps, int64_t activation, double slope, int64_t segments,
                     bool act_first) {
  const NormSpec spec{eps, static_cast<int>(activation), slope, segments, act_first};
  const NormCall call = call_of(x, weight, bias, spec, false);
  check_stats(x, call, mean, var);
  Tensor z = output_like(x);
  if (x.numel() != 0) norm_forward({call, mean.data_ptr(), var.data_ptr(), z.data_ptr()});
  return z;
}

std::tuple<Tensor, Tensor, Tensor> norm_act_backward(
    Tensor dz, Tensor x, Tensor mean, Tensor var, OptionalTensor weight, OptionalTensor bias,
    double eps, int64_t activation, double slope, int64_t segments, bool act_first, bool training,
    bool need_dx, bool need_dparams) {
  const NormSpec spec{eps, static_cast<int>(activation), slope, segments, act_first};
  const NormCall call = call_of(x, weight, bias, spec, training);
  const Layout &l = call.layout, d = layout_of(dz, "dz");
  check_stats(x, call, mean, var);
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
  norm_backward({call, dz.data_ptr(), mean.data_ptr(), var.data_ptr(),
                 need_dx ? dx.data_ptr() : nullptr, need_dparams ? dweight.data_ptr() : nullptr,
                 need_dparams ? dbias.data_ptr() : nullptr});
  return {dx, dweight, dbias};
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
  update_running_stats({mean.scalar_type() == ScalarType::Double, running_mean.data_ptr(),
                        running_var.data_ptr(), mean.data_ptr(), var.data_ptr(), segments, channels,
                        momentum, count, average});
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("norm_act_train.kernel", TORCH_BOX(&fastgan::norm_act_train));
  m.impl("norm_act_eval.kernel", TORCH_BOX(&fastgan::norm_act_eval));
  m.impl("norm_act_backward.kernel", TORCH_BOX(&fastgan::norm_act_backward));
  m.impl("update_running_stats_.kernel", TORCH_BOX(&fastgan::update_running_stats_));
}
