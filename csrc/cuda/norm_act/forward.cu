// norm_act forward, eval and running statistics: the ops' CUDA key. Kernels: cuda/norm_act/forward.h and
// cuda/device/merge.h; their launches, with the bytes they move: cuda/norm_act/forward_launches.h.
#include "cuda/norm_act/arguments.cuh"
#include "cuda/norm_act/forward_launches.h"

namespace fastgan {
namespace cuda {

static std::tuple<Tensor, Tensor, Tensor> norm_act_train(
    Tensor x, OptionalTensor weight, OptionalTensor bias, double eps, std::int64_t activation,
    double negative_slope, std::int64_t segments, bool act_first) {
  const Shape shape = shape_of(x, "x");
  check_segments(shape, segments);
  const Act act = make_act(activation, negative_slope, act_first);
  Launcher launcher(x);
  Tensor z = torch::stable::empty_like(x);
  Tensor mean = new_floats(x, {segments, shape.channels});
  Tensor var = new_floats(x, {segments, shape.channels});
  for_dtype(x, [&](auto type) {
    using T = typename decltype(type)::T;
    const ChannelStats stats =
        channel_stats(launcher, x, shape, segments, mean, var, weight, bias, eps);
    if (x.numel() == 0) {
      torch::stable::zero_(mean);
      torch::stable::zero_(var);
      return;
    }
    for_kind<T>(shape, aligned(x) && aligned(z), [&](auto kind) {
      constexpr int V = decltype(kind)::V;
      constexpr Layout L = decltype(kind)::L;
      for_act<V>(act, [&](const auto& known) {
        run_train<T, V, L>(launcher, geometry_of(shape, V, segments), known, stats, in<T>(x),
                           float_out(mean), float_out(var), out<T>(z));
      });
    });
  });
  return {z, mean, var};
}

static Tensor norm_act_eval(Tensor x, Tensor mean, Tensor var, OptionalTensor weight,
                            OptionalTensor bias, double eps, std::int64_t activation,
                            double negative_slope, std::int64_t segments, bool act_first) {
  const Shape shape = shape_of(x, "x");
  check_segments(shape, segments);
  const Act act = make_act(activation, negative_slope, act_first);
  Launcher launcher(x);
  Tensor z = torch::stable::empty_like(x);
  for_dtype(x, [&](auto type) {
    using T = typename decltype(type)::T;
    const ChannelStats stats =
        channel_stats(launcher, x, shape, segments, mean, var, weight, bias, eps);
    if (x.numel() == 0) {
      return;
    }
    for_kind<T>(shape, aligned(x) && aligned(z), [&](auto kind) {
      constexpr int V = decltype(kind)::V;
      constexpr Layout L = decltype(kind)::L;
      for_act<V>(act, [&](const auto& known) {
        run_normalise<T, V, L>(launcher, geometry_of(shape, V, segments), known, stats, in<T>(x),
                               out<T>(z));
      });
    });
  });
  return z;
}

static void update_running_stats_(Tensor running_mean, Tensor running_var, Tensor mean, Tensor var,
                                  double momentum, std::int64_t count, bool average) {
  STD_TORCH_CHECK(mean.is_cuda() && mean.dim() == 2,
                  "mean: expected a CUDA tensor of (segments, channels), got ", mean.dim(),
                  " dimensions");
  STD_TORCH_CHECK(count > 1, "count: expected more than one value per channel, got ", count);
  const std::int64_t segments = mean.size(0);
  const std::int64_t channels = mean.size(1);
  float_data(running_mean, "running_mean", channels, mean);
  float_data(running_var, "running_var", channels, mean);
  const RunningKernel kernel{segments,
                         channels,
                         float(momentum),
                         float(double(count) / double(count - 1)),
                         average,
                         float_data(mean, "mean", segments * channels, mean),
                         float_data(var, "var", segments * channels, mean),
                         float_out(running_mean),
                         float_out(running_var)};
  if (segments * channels > 0) {
    Launcher launcher(mean);
    launcher.map(kernel, ceil_div(channels, kThreads));
  }
}

}  // namespace cuda
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("norm_act_train.kernel", TORCH_BOX(&fastgan::cuda::norm_act_train));
  m.impl("norm_act_eval.kernel", TORCH_BOX(&fastgan::cuda::norm_act_eval));
  m.impl("update_running_stats_.kernel", TORCH_BOX(&fastgan::cuda::update_running_stats_));
}
