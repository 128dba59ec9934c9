// The launches that make up norm_act forward, over an executor: the CUDA one (cuda/device/launcher.cuh), or a
// host test's that runs the same bodies thread by thread. No torch or CUDA includes.
//
// Bytes moved, with B the bytes of x (per-channel tensors are negligible):
//   training, on chip       1 launch       x read once, z written            2 B
//   training, streamed      2 or 3         x read twice, z written           3 B
//   eval                    1              x read once, z written            2 B
// A second read finds up to the L2 cache's size already there.
#pragma once

#include "cuda/device/merge.h"
#include "cuda/device/plan.h"
#include "cuda/norm_act/forward.h"

namespace fastgan {
namespace cuda {

template <typename T, int V, Layout L, typename Exec>
void run_normalise(Exec& exec, const Geometry& geometry, const Act& act, const ChannelStats& stats,
                   const T* x, T* z) {
  using Body = NormaliseBody<T, V, L>;
  const Plan plan = plan_stream(L, geometry, Body::kU, exec.template wave<Body>());
  exec.map(Body{geometry, plan, act, stats, x, z}, plan.blocks());
}

// Chunk moments, their merge (where there is more than one chunk), then z.
template <typename T, int V, Layout L, typename Exec>
void run_train_streamed(Exec& exec, const Geometry& geometry, const Act& act,
                        const ChannelStats& stats, const T* x, float* mean, float* var, T* z) {
  using Body = MomentsBody<T, V, L>;
  const Plan plan = plan_stream(L, geometry, Body::kU, exec.template wave<Body>());
  if (plan.chunks == 1) {
    exec.reduce(Body{geometry, plan, act, x, mean, var}, plan.blocks());
  } else {
    const std::int64_t statistics = geometry.segments * geometry.channels;
    float* const part_mean = exec.floats(2 * plan.chunks * statistics);
    float* const part_m2 = part_mean + plan.chunks * statistics;
    exec.reduce(Body{geometry, plan, act, x, part_mean, part_m2}, plan.blocks());
    exec.reduce(MomentsMergeBody{geometry, plan, part_mean, part_m2, mean, var},
                ceil_div(statistics, kMergeColumns));
  }
  run_normalise<T, V, L>(exec, geometry, act, stats, x, z);
}

// False where the tensor does not fit on chip; nothing has run then.
template <typename T, Layout L, typename Exec>
bool run_train_onchip(Exec& exec, const Geometry& geometry, const Act& act,
                      const ChannelStats& stats, const T* x, float* mean, float* var, T* z) {
  using Body = OnchipForwardBody<T, L>;
  using Moments = MomentsBody<T, kWide<T>, L>;
  const OnchipPlan onchip =
      plan_onchip(L, geometry, Moments::kU, Body::kTensors, int(sizeof(typename Body::Scratch)),
                  exec.template limits<Body>());
  if (onchip.fits) {
    exec.onchip(Body{{geometry, onchip.plan, act, x, mean, var}, stats, z}, onchip.stash_bytes);
  }
  return onchip.fits;
}

// Statistics and z. `stats.mean` and `stats.var` are `mean` and `var`.
template <typename T, int V, Layout L, typename Exec>
void run_train(Exec& exec, const Geometry& geometry, const Act& act, const ChannelStats& stats,
               const T* x, float* mean, float* var, T* z) {
  if constexpr (V > 1) {
    if (run_train_onchip<T, L>(exec, geometry, act, stats, x, mean, var, z)) {
      return;
    }
  }
  run_train_streamed<T, V, L>(exec, geometry, act, stats, x, mean, var, z);
}

}  // namespace cuda
}  // namespace fastgan
