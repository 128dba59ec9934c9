// bias_act on the CPU. The forward is the normalising loop with mean 0 and scale 1; the backward reads
// the output z and sums its result in the same pass.
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

void check(const Tensor& x, const Layout& l, const std::optional<Tensor>& bias, int64_t activation,
           const char* name = "x") {
  dtype_of(x, name);  // says what is wrong here: from within a parallel loop no message comes back
  STD_TORCH_CHECK(activation >= kLeakyRelu && activation <= kSigmoid, "activation: unknown code ",
                  activation);
  if (!bias.has_value()) return;
  STD_TORCH_CHECK(bias->scalar_type() == stat_type(x) && bias->is_contiguous() &&
                      bias->numel() == l.channels,
                  "bias: expected ", l.channels, " contiguous values in float32 (float64 for "
                  "float64 x)");
}

Tile tile_of(const Tensor& x, int64_t activation, double slope) {
  Tile t{};
  t.dtype = dtype_of(x);
  t.activation = static_cast<int>(activation);
  set_writing(x, t);
  t.slope = slope;
  return t;
}

template <typename P>
void forward_pass(const Tensor& x, const Tensor& z, const std::optional<Tensor>& bias,
                  const Layout& l, int64_t activation, double slope) {
  const Plan plan(l, 1);
  Workspace<P> w(plan, 1);
  const P* biases = data_or_null<P>(bias);
  for (int64_t j = 0; j < plan.period; ++j) {
    w.mean[j] = P(0);
    w.scale[j] = P(1);
    w.bias[j] = biases ? biases[j % l.channels] : P(0);
  }
  for_tiles(plan, 1, false, [&](int64_t, int64_t i) {
    Tile t = tile_of(x, activation, slope);
    int64_t k;
    const int64_t offset = plan.place(i, t, k);
    t.x = at(x, offset);
    t.out = at_mutable(z, offset);
    w.bind(t, 0, k);
    tile_kernels().forward(t);
  });
}

template <typename P>
void backward_pass(const Tensor& dz, const Tensor& z, const Tensor& dx, const Tensor& dbias,
                   const Layout& l, int64_t activation, double slope) {
  const Plan plan(l, 1);
  Workspace<P> w(plan, 1);
  w.reserve_partials(plan, 1);
  for_tiles(plan, 1, false, [&](int64_t, int64_t i) {
    Tile t = tile_of(z, activation, slope);
    int64_t k;
    const int64_t offset = plan.place(i, t, k);
    t.x = at(z, offset);
    t.dz = at(dz, offset);
    t.out = at_mutable(dx, offset);
    w.bind(t, 0, k);
    tile_kernels().bias_backward(t);
  });
  if (dbias.numel() == 0) return;
  P* out = static_cast<P*>(dbias.data_ptr());
  for_channels(plan, 1, [&](int64_t, const Channels& ch) {
    std::vector<double> sums(ch.count);
    tile_kernels().merge_sums(merge_of(plan, w, 0, ch, sums.data(), nullptr));
    for (int64_t c = 0; c < ch.count; ++c) out[ch.first + c] = P(sums[c]);
  });
}

Tensor bias_act_forward(Tensor x, std::optional<Tensor> bias, int64_t activation, double slope) {
  const Layout l = layout_of(x);
  check(x, l, bias, activation);
  Tensor z = output_like(x);
  if (x.numel() == 0) return z;
  if (x.scalar_type() == ScalarType::Double) {
    forward_pass<double>(x, z, bias, l, activation, slope);
  } else {
    forward_pass<float>(x, z, bias, l, activation, slope);
  }
  return z;
}

std::tuple<Tensor, Tensor> bias_act_backward(Tensor dz, Tensor z, int64_t activation, double slope,
                                             bool need_dbias) {
  const Layout l = layout_of(z, "z");
  check(z, l, std::nullopt, activation, "z");
  const Layout d = layout_of(dz, "dz");
  STD_TORCH_CHECK(dz.scalar_type() == z.scalar_type() && d.batch == l.batch &&
                      d.channels == l.channels && d.size == l.size && d.columns == l.columns,
                  "dz: expected the dtype, shape and layout of z");
  Tensor dx = output_like(z);
  Tensor dbias = torch::stable::new_empty(z, {need_dbias ? l.channels : 0}, stat_type(z));
  if (z.numel() == 0) {
    torch::stable::zero_(dbias);
  } else if (z.scalar_type() == ScalarType::Double) {
    backward_pass<double>(dz, z, dx, dbias, l, activation, slope);
  } else {
    backward_pass<float>(dz, z, dx, dbias, l, activation, slope);
  }
  return {dx, dbias};
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("bias_act.kernel", TORCH_BOX(&fastgan::bias_act_forward));
  m.impl("bias_act_backward.kernel", TORCH_BOX(&fastgan::bias_act_backward));
}
