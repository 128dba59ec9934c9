// The launches that make up norm_act forward, over a launcher: the CUDA one
// (cuda/device/launcher.cuh), or a host test's that runs the same kernels thread by thread. No
// torch or CUDA includes.
//
// Bytes moved, with B the bytes of x (per-channel tensors are negligible):
//   training, single pass   1 launch       x read once, z written            2 B
//   training, streamed      2 or 3         x read twice, z written           3 B
//   eval                    1              x read once, z written            2 B
// A second read finds up to the L2 cache's size already there.
#pragma once

#include "cuda/device/merge.h"
#include "cuda/device/plan.h"
#include "cuda/norm_act/forward.h"

namespace fastgan {
namespace cuda {

template <typename T, int V, Layout L, typename A, typename Exec>
void run_normalise(Exec& launcher, const Geometry& geometry, const A& act,
                   const ChannelStats& stats, const T* x, T* z) {
  using Kernel = NormaliseKernel<T, V, L, A>;
  const Plan plan = plan_stream(L, geometry, Kernel::kU, launcher.template wave<Kernel>());
  launcher.map(Kernel{geometry, plan, act, stats, x, z}, plan.blocks());
}

// Chunk moments, their merge (where there is more than one chunk), then z.
template <typename T, int V, Layout L, typename A, typename Exec>
void run_train_streamed(Exec& launcher, const Geometry& geometry, const A& act,
                        const ChannelStats& stats, const T* x, float* mean, float* var, T* z) {
  using Kernel = MomentsKernel<T, V, L, A>;
  const Plan plan = plan_stream(L, geometry, Kernel::kU, launcher.template wave<Kernel>());
  if (plan.chunks == 1) {
    launcher.reduce(Kernel{geometry, plan, act, x, mean, var}, plan.blocks());
  } else {
    const std::int64_t statistics = geometry.segments * geometry.channels;
    float* const part_mean = launcher.floats(2 * plan.chunks * statistics);
    float* const part_m2 = part_mean + plan.chunks * statistics;
    launcher.reduce(Kernel{geometry, plan, act, x, part_mean, part_m2}, plan.blocks());
    launcher.reduce(MomentsMergeKernel{geometry, plan, part_mean, part_m2, mean, var},
                    ceil_div(statistics, kMergeColumns));
  }
  run_normalise<T, V, L>(launcher, geometry, act, stats, x, z);
}

// False where the tensor does not fit in shared memory; nothing has run then.
template <typename T, Layout L, typename A, typename Exec>
bool run_train_single_pass(Exec& launcher, const Geometry& geometry, const A& act,
                      const ChannelStats& stats, const T* x, float* mean, float* var, T* z) {
  using Kernel = SinglePassForwardKernel<T, L, A>;
  const SinglePassPlan single_pass = plan_single_pass(
      L, geometry, Kernel::MomentsOf::kU, Kernel::kTensors, launcher.template limits<Kernel>());
  if (single_pass.fits) {
    launcher.single_pass(Kernel{{geometry, single_pass.plan, act, x, mean, var}, stats, z},
                         single_pass.shared_bytes);
  }
  return single_pass.fits;
}

// Statistics and z. `stats.mean` and `stats.var` are `mean` and `var`.
template <typename T, int V, Layout L, typename A, typename Exec>
void run_train(Exec& launcher, const Geometry& geometry, const A& act, const ChannelStats& stats,
               const T* x, float* mean, float* var, T* z) {
  if constexpr (V > 1) {
    if (run_train_single_pass<T, L>(launcher, geometry, act, stats, x, mean, var, z)) {
      return;
    }
  }
  run_train_streamed<T, V, L>(launcher, geometry, act, stats, x, mean, var, z);
}

}  // namespace cuda
}  // namespace fastgan
