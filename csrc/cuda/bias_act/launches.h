// The launches that make up bias_act; see cuda/norm_act/forward_launches.h.
//
// Bytes moved, with B the bytes of x:
//   forward     1 launch    x read, z written                                  2 B
//   backward    1 or 2      dz, z read, dx written; dbias' sums ride along     3 B
#pragma once

#include "cuda/bias_act/kernel.h"
#include "cuda/device/merge.h"
#include "cuda/device/plan.h"

namespace fastgan {
namespace cuda {

template <typename T, int V, Layout L, typename Exec>
void run_bias_forward(Exec& launcher, const Geometry& geometry, const Act& act, const float* bias,
                      const T* x, T* z) {
  using Kernel = BiasForwardKernel<T, V, L>;
  const Plan plan = plan_stream(L, geometry, Kernel::kU, launcher.template wave<Kernel>());
  launcher.map(Kernel{geometry, plan, act, bias, x, z}, plan.blocks());
}

// dbias may be null: not wanted.
template <typename T, int V, Layout L, typename Exec>
void run_bias_backward(Exec& launcher, const Geometry& geometry, const Act& act, const T* dz,
                       const T* z, T* dx, float* dbias) {
  using Kernel = BiasBackwardKernel<T, V, L>;
  const Plan plan = plan_stream(L, geometry, Kernel::kU, launcher.template wave<Kernel>());
  const bool partial = dbias && plan.chunks > 1;
  float* const sum = partial ? launcher.floats(plan.chunks * geometry.channels) : dbias;
  launcher.reduce(Kernel{geometry, plan, act, dz, z, dx, sum}, plan.blocks());
  if (partial) {
    launcher.reduce(RowSumKernel{plan.chunks, geometry.channels, sum, nullptr, dbias, nullptr},
                    ceil_div(geometry.channels, kMergeColumns));
  }
}

}  // namespace cuda
}  // namespace fastgan
