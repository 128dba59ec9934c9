// bias_act on the CPU as operators: validation of what the kernels rely on, and allocation.
#include "cpu/runtime/entries.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

void check_activation(int64_t activation) {
  STD_TORCH_CHECK(activation >= kLeakyRelu && activation <= kSigmoid, "activation: unknown code ",
                  activation);
}

Tensor bias_act_forward(Tensor x, std::optional<Tensor> bias, int64_t activation, double slope) {
  const Layout l = layout_of(x);
  const Dtype dtype = dtype_of(x);
  check_activation(activation);
  STD_TORCH_CHECK(!bias.has_value() ||
                      (bias->scalar_type() == stat_type(x) && bias->is_contiguous() &&
                       bias->numel() == l.channels),
                  "bias: expected ", l.channels, " contiguous values in float32 (float64 for "
                  "float64 x)");
  Tensor z = output_like(x);
  if (x.numel() != 0) {
    bias_forward({dtype, l, static_cast<int>(activation), slope, x.data_ptr(),
                  pointer(bias), z.data_ptr()});
  }
  return z;
}

std::tuple<Tensor, Tensor> bias_act_backward(Tensor dz, Tensor z, int64_t activation, double slope,
                                             bool need_dbias) {
  const Layout l = layout_of(z, "z"), d = layout_of(dz, "dz");
  const Dtype dtype = dtype_of(z, "z");
  check_activation(activation);
  STD_TORCH_CHECK(dz.scalar_type() == z.scalar_type() && d.batch == l.batch &&
                      d.channels == l.channels && d.size == l.size && d.columns == l.columns,
                  "dz: expected the dtype, shape and layout of z");
  Tensor dx = output_like(z);
  Tensor dbias = torch::stable::new_empty(z, {need_dbias ? l.channels : 0}, stat_type(z));
  if (z.numel() == 0) {
    torch::stable::zero_(dbias);
  } else {
    bias_backward({dtype, l, static_cast<int>(activation), slope, dz.data_ptr(), z.data_ptr(),
                   dx.data_ptr(), dbias.numel() ? dbias.data_ptr() : nullptr});
  }
  return {dx, dbias};
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("bias_act.kernel", TORCH_BOX(&fastgan::bias_act_forward));
  m.impl("bias_act_backward.kernel", TORCH_BOX(&fastgan::bias_act_backward));
}
