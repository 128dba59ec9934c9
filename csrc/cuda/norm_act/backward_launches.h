// The launches that make up norm_act backward; see cuda/norm_act/forward_launches.h.
//
// Bytes moved, with B the bytes of x (per-channel tensors are negligible):
//   training, dx, single pass 1 launch (2 with segments)   dz, x read once, dx written       3 B
//   training, dx, streamed    2 or 3 (+1)                  dz, x read twice, dx written      5 B
//   eval, dx                  1                            dz, x read once, dx written       3 B
//   parameters only           1 or 2                       dz, x read once                   2 B
//   eval, dx and parameters   2 or 3                       dz, x read twice, dx written      5 B
// A second read finds up to the L2 cache's size already there.
#pragma once

#include "cuda/device/merge.h"
#include "cuda/device/plan.h"
#include "cuda/norm_act/backward.h"

namespace fastgan {
namespace cuda {

template <typename T, typename A>
struct Backward {
  Geometry geometry;
  A act;
  ChannelStats stats;
  bool training;
  const T* dz;
  const T* x;
  T* dx;           // null: not wanted
  float* dweight;  // (channels); null, with dbias: not wanted
  float* dbias;

  // dx needs the sums of each (segment, channel).
  bool per_segment() const { return dx && training; }
  std::int64_t statistics() const { return geometry.segments * geometry.channels; }
};

// The two sums of the backward: of a, and of a * xhat.
struct Sums {
  float* a;
  float* ax;
};

template <typename Exec>
Sums new_sums(Exec& launcher, std::int64_t count) {
  float* const a = launcher.floats(2 * count);
  return {a, a + count};
}

template <typename Exec>
void run_row_sum(Exec& launcher, std::int64_t rows, std::int64_t columns, const Sums& from,
                 const Sums& to) {
  launcher.reduce(RowSumKernel{rows, columns, from.a, from.ax, to.a, to.ax},
                  ceil_div(columns, kMergeColumns));
}

// Where the sums of each (segment, channel) go: with one segment they are the gradients.
template <typename T, typename A, typename Exec>
Sums segment_sums(Exec& launcher, const Backward<T, A>& b) {
  if (b.dweight && b.geometry.segments == 1) {
    return {b.dbias, b.dweight};
  }
  return new_sums(launcher, b.statistics());
}

template <typename T, typename A, typename Exec>
void run_parameter_sums(Exec& launcher, const Backward<T, A>& b, const Sums& sums) {
  if (b.dweight && b.geometry.segments > 1) {
    run_row_sum(launcher, b.geometry.segments, b.geometry.channels, sums, {b.dbias, b.dweight});
  }
}

template <typename T, int V, Layout L, typename A, typename Exec>
void run_apply(Exec& launcher, const Backward<T, A>& b, const Sums& sums) {
  using Kernel = GradApplyKernel<T, V, L, A>;
  const Plan plan = plan_stream(L, b.geometry, Kernel::kU, launcher.template wave<Kernel>());
  launcher.map(
      Kernel{b.geometry, plan, b.act, b.stats, b.training, sums.a, sums.ax, b.dz, b.x, b.dx},
      plan.blocks());
}

// The chunks' sums, added over rows that `to` has `columns` of: chunks alone, or chunks * segments.
template <typename T, int V, Layout L, typename A, typename Exec>
void run_sums(Exec& launcher, const Backward<T, A>& b, std::int64_t columns, const Sums& to) {
  using Kernel = GradSumsKernel<T, V, L, A>;
  const Plan plan = plan_stream(L, b.geometry, Kernel::kU, launcher.template wave<Kernel>());
  const std::int64_t rows = plan.chunks * b.statistics() / columns;
  const Sums sums = rows == 1 ? to : new_sums(launcher, rows * columns);
  launcher.reduce(Kernel{b.geometry, plan, b.act, b.stats, b.dz, b.x, sums.a, sums.ax},
                  plan.blocks());
  if (rows > 1) {
    run_row_sum(launcher, rows, columns, sums, to);
  }
}

template <typename T, int V, Layout L, typename A, typename Exec>
void run_backward_streamed(Exec& launcher, const Backward<T, A>& b) {
  Sums sums{nullptr, nullptr};
  if (b.per_segment()) {
    sums = segment_sums(launcher, b);
    run_sums<T, V, L>(launcher, b, b.statistics(), sums);
    run_parameter_sums(launcher, b, sums);
  } else if (b.dweight) {
    run_sums<T, V, L>(launcher, b, b.geometry.channels, {b.dbias, b.dweight});
  }
  if (b.dx) {
    run_apply<T, V, L>(launcher, b, sums);
  }
}

// False where the tensors do not fit in shared memory; nothing has run then.
template <typename T, Layout L, typename A, typename Exec>
bool run_backward_single_pass(Exec& launcher, const Backward<T, A>& b) {
  using Kernel = SinglePassBackwardKernel<T, L, A>;
  const SinglePassPlan single_pass = plan_single_pass(
      L, b.geometry, Kernel::SumsOf::kU, Kernel::kTensors, launcher.template limits<Kernel>());
  if (!single_pass.fits) {
    return false;
  }
  const Sums sums = segment_sums(launcher, b);
  launcher.single_pass(
      Kernel{{b.geometry, single_pass.plan, b.act, b.stats, b.dz, b.x, sums.a, sums.ax}, b.dx},
      single_pass.shared_bytes);
  run_parameter_sums(launcher, b, sums);
  return true;
}

template <typename T, int V, Layout L, typename A, typename Exec>
void run_backward(Exec& launcher, const Backward<T, A>& b) {
  if constexpr (V > 1) {
    if (b.per_segment() && run_backward_single_pass<T, L>(launcher, b)) {
      return;
    }
  }
  run_backward_streamed<T, V, L>(launcher, b);
}

}  // namespace cuda
}  // namespace fastgan
