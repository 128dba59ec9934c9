// bias_act: the ops' CUDA key. Kernels: cuda/bias_act/kernel.h; their launches, with the bytes they move:
// cuda/bias_act/launches.h.
#include "cuda/bias_act/launches.h"
#include "cuda/device/launcher.cuh"

namespace fastgan {
namespace cuda {

static Tensor bias_act_forward(Tensor x, OptionalTensor bias, std::int64_t activation,
                               double negative_slope) {
  const Shape shape = shape_of(x, "x");
  const Act act = make_act(activation, negative_slope, false);
  Launcher launcher(x);
  Tensor z = torch::stable::empty_like(x);
  for_dtype(x, [&](auto type) {
    using T = typename decltype(type)::T;
    const float* const shift = float_data(bias, "bias", shape.channels, x);
    if (x.numel() == 0) {
      return;
    }
    for_kind<T>(shape, aligned(x) && aligned(z), [&](auto kind) {
      constexpr int V = decltype(kind)::V;
      constexpr Layout L = decltype(kind)::L;
      run_bias_forward<T, V, L>(launcher, geometry_of(shape, V, 1), act, shift, in<T>(x), out<T>(z));
    });
  });
  return z;
}

static std::tuple<Tensor, Tensor> bias_act_backward(Tensor dz, Tensor z, std::int64_t activation,
                                                    double negative_slope, bool need_dbias) {
  const Shape shape = shape_of(z, "z");
  check_like(dz, "dz", z, shape);
  const Act act = make_act(activation, negative_slope, false);
  Launcher launcher(z);
  Tensor dx = torch::stable::empty_like(z);
  Tensor dbias = new_floats(z, {need_dbias ? shape.channels : 0});
  for_dtype(z, [&](auto type) {
    using T = typename decltype(type)::T;
    if (z.numel() == 0) {
      torch::stable::zero_(dbias);
      return;
    }
    for_kind<T>(shape, aligned(z) && aligned(dz) && aligned(dx), [&](auto kind) {
      constexpr int V = decltype(kind)::V;
      constexpr Layout L = decltype(kind)::L;
      run_bias_backward<T, V, L>(launcher, geometry_of(shape, V, 1), act, in<T>(dz), in<T>(z),
                                 out<T>(dx), need_dbias ? float_out(dbias) : nullptr);
    });
  });
  return {dx, dbias};
}

}  // namespace cuda
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("bias_act.kernel", TORCH_BOX(&fastgan::cuda::bias_act_forward));
  m.impl("bias_act_backward.kernel", TORCH_BOX(&fastgan::cuda::bias_act_backward));
}
