// bias_act on the CPU: the passes over a tensor, of checked arguments. The forward is the normalising
// loop with mean 0 and scale 1; the backward reads the output z and sums its result in the same pass.
#include "cpu/runtime/entries.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

template <typename Call>
Tile tile_of(const Call& a) {
  Tile t{};
  t.dtype = a.dtype;
  t.activation = a.activation;
  set_writing(a.dtype, a.layout, t);
  t.slope = a.slope;
  return t;
}

template <typename P>
void forward_pass(const BiasForward& a) {
  const Plan plan(a.layout, 1);
  Workspace<P> w(plan, 1, kCoefficients);
  const P* biases = static_cast<const P*>(a.bias);
  std::fill_n(w.mean, plan.period, P(0));
  std::fill_n(w.scale, plan.period, P(1));
  for (int64_t j = 0; j < plan.period; j += a.layout.channels) {
    if (biases) {
      std::copy_n(biases, a.layout.channels, w.bias + j);
    } else {
      std::fill_n(w.bias + j, a.layout.channels, P(0));
    }
  }
  const Tile any = tile_of(a);
  for_tiles(plan, 1, false, [&](int64_t, int64_t i) {
    Tile t = any;
    const int64_t offset = w.place(plan, 0, i, t);
    t.x = at(a.x, a.dtype, offset);
    t.out = at(a.z, a.dtype, offset);
    tile_kernels().forward(t);
  });
}

template <typename P>
void backward_pass(const BiasBackward& a) {
  const Plan plan(a.layout, 1);
  Workspace<P> w(plan, 1, kForSums);
  const Tile any = tile_of(a);
  for_tiles(plan, 1, false, [&](int64_t, int64_t i) {
    Tile t = any;
    const int64_t offset = w.place(plan, 0, i, t);
    t.x = at(a.z, a.dtype, offset);
    t.dz = at(a.dz, a.dtype, offset);
    t.out = at(a.dx, a.dtype, offset);
    tile_kernels().bias_backward(t);
  });
  if (!a.dbias) return;
  P* out = static_cast<P*>(a.dbias);
  for_channels(plan, 1, [&](int64_t, const Channels& ch) {
    double sums[kChannelBlock];
    tile_kernels().merge_sums(merge_of(plan, w, 0, ch, sums, nullptr));
    for (int64_t c = 0; c < ch.count; ++c) out[ch.first + c] = P(sums[c]);
  });
}

}  // namespace

void bias_forward(const BiasForward& a) {
  a.dtype == Dtype::kFloat64 ? forward_pass<double>(a) : forward_pass<float>(a);
}

void bias_backward(const BiasBackward& a) {
  a.dtype == Dtype::kFloat64 ? backward_pass<double>(a) : backward_pass<float>(a);
}

}  // namespace fastgan
