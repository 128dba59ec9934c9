// norm_act backward: the op's CUDA key, in its own file so that it builds beside the forward.
// Kernels: cuda/norm_act/backward.h and cuda/device/merge.h; their launches, with the bytes they move:
// cuda/norm_act/backward_launches.h.
#include "cuda/norm_act/arguments.cuh"
#include "cuda/norm_act/backward_launches.h"

namespace fastgan {
namespace cuda {

static std::tuple<Tensor, Tensor, Tensor> norm_act_backward(
    Tensor dz, Tensor x, Tensor mean, Tensor var, OptionalTensor weight, OptionalTensor bias,
    double eps, std::int64_t activation, double negative_slope, std::int64_t segments,
    bool act_first, bool training, bool need_dx, bool need_dparams) {
  const Shape shape = shape_of(x, "x");
  check_like(dz, "dz", x, shape);
  check_segments(shape, segments);
  const Act act = make_act(activation, negative_slope, act_first);
  Launcher launcher(x);
  Tensor dx = need_dx ? torch::stable::empty_like(x) : no_elements(x);
  const std::int64_t parameters = need_dparams ? shape.channels : 0;
  Tensor dweight = new_floats(x, {parameters});
  Tensor dbias = new_floats(x, {parameters});
  for_dtype(x, [&](auto type) {
    using T = typename decltype(type)::T;
    const ChannelStats stats =
        channel_stats(launcher, x, shape, segments, mean, var, weight, bias, eps);
    if (x.numel() == 0) {
      torch::stable::zero_(dweight);
      torch::stable::zero_(dbias);
      return;
    }
    const bool wide = aligned(x) && aligned(dz) && (!need_dx || aligned(dx));
    for_kind<T>(shape, wide, [&](auto kind) {
      constexpr int V = decltype(kind)::V;
      constexpr Layout L = decltype(kind)::L;
      for_act<V>(act, [&](const auto& known) {
        using A = std::decay_t<decltype(known)>;
        run_backward<T, V, L>(
            launcher, Backward<T, A>{geometry_of(shape, V, segments), known, stats, training,
                                     in<T>(dz), in<T>(x), need_dx ? out<T>(dx) : nullptr,
                                     need_dparams ? float_out(dweight) : nullptr,
                                     need_dparams ? float_out(dbias) : nullptr});
      });
    });
  });
  return {dx, dweight, dbias};
}

}  // namespace cuda
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("norm_act_backward.kernel", TORCH_BOX(&fastgan::cuda::norm_act_backward));
}
