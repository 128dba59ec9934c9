// Launch parameters as pure functions of sizes and of the device's limits. Host only, no torch or
// CUDA includes: unit-tested on the CPU.
#pragma once

#include <algorithm>

#include "cuda/device/geometry.h"

namespace fastgan {
namespace cuda {

struct DeviceLimits {
  int sms;
  int dynamic_shared;  // bytes that a block may ask for beside those its kernel declares
  int max_cluster;     // 1 where thread-block clusters are not to be had
};

inline int log2_ceil(std::int64_t n) {
  int log = 0;
  while ((std::int64_t(1) << log) < n) {
    ++log;
  }
  return log;
}

// Columns of a tile, as a power of two.
//   channels-last  up to 32 (512 bytes of a row); narrower where 32 would leave over an eighth of
//                  the columns' threads idle, but at least 4 (64 bytes of 16-byte loads)
//   contiguous     so that a lane has half a tile of units, at least a warp wide where there are
//                  that many units; short columns share a block
inline int tile_columns_log2(Layout layout, const Geometry& g, int tile_units) {
  if (layout == Layout::kContiguous) {
    int log_lanes = std::min(5, log2_ceil(g.units));
    while (log_lanes < 8 && (std::int64_t(2) << log_lanes) * tile_units <= 2 * g.units) {
      ++log_lanes;
    }
    return 8 - log_lanes;
  }
  int log_tx = std::min(5, log2_ceil(g.columns));
  for (; log_tx > 2; --log_tx) {
    const std::int64_t covered = ceil_div(g.columns, std::int64_t(1) << log_tx) << log_tx;
    if ((covered - g.columns) * 8 <= g.columns) {
      break;
    }
  }
  return log_tx;
}

// One wave of blocks, each with as long a chunk as that allows: few partial results, long runs of
// loads. A chunk is never shorter than one tile of every lane.
// `wave` is the number of blocks that the device runs at once.
inline Plan plan_stream(Layout layout, const Geometry& g, int tile_units, int wave) {
  Plan plan{};
  plan.log_tx = tile_columns_log2(layout, g, tile_units);
  plan.tiles = ceil_div(g.columns, std::int64_t(1) << plan.log_tx);
  const std::int64_t lanes = plan.lanes();
  const std::int64_t wanted = std::max<std::int64_t>(1, wave / plan.tiles);
  const std::int64_t most = std::max<std::int64_t>(1, ceil_div(g.units, lanes * tile_units));
  const std::int64_t length = ceil_div(g.units, std::min(wanted, most));
  // Whole warps of lanes: contiguous chunks then begin on 512-byte steps of the column.
  const std::int64_t step = std::min<std::int64_t>(lanes, 32);
  plan.chunk_len = ceil_div(length, step) * step;
  plan.chunks = ceil_div(g.units, plan.chunk_len);
  plan.chunk_div = make_fast_div(std::uint32_t(plan.chunks));
  return plan;
}

struct SinglePassPlan {
  bool fits;
  Plan plan;
  int shared_bytes;  // dynamic shared memory
};

inline std::int64_t shared_bytes(const Plan& plan, int tensors) {
  return ceil_div(plan.chunk_len, plan.lanes()) * kThreads * 16 * tensors;
}

// Splits a tile over 1, 2, 4, 8 or 16 blocks of a cluster: as few as hold it, and then more while
// SMs are idle and a block has over 32 KiB to stream (below that a cluster barrier costs more than
// the second SM gains). 16 blocks take most of the SMs that share a scheduler (16 or 18 of an
// H200's), so they are asked for only where the clusters still run at once.
inline SinglePassPlan split_tile(const Geometry& g, int log_tx, int tensors,
                                 const DeviceLimits& limits) {
  Plan plan{};
  plan.log_tx = log_tx;
  plan.tiles = ceil_div(g.columns, std::int64_t(1) << log_tx);
  const auto may = [&](int cluster) {
    const bool at_once = cluster <= 8 || 4 * plan.tiles * cluster <= 3 * limits.sms;
    return cluster <= limits.max_cluster && at_once;
  };
  for (int cluster = 1; may(cluster); cluster *= 2) {
    plan.chunks = cluster;
    plan.chunk_div = make_fast_div(std::uint32_t(cluster));
    plan.chunk_len = ceil_div(g.units, cluster);
    const std::int64_t bytes = shared_bytes(plan, tensors);
    const bool fits = bytes <= limits.dynamic_shared;
    const bool spread = may(2 * cluster) && bytes > 32 * 1024 && plan.blocks() < limits.sms;
    if (fits && !spread) {
      return {true, plan, int(bytes)};
    }
  }
  return {false, plan, 0};
}

// The single-launch plan, where the columns of a tile fit the shared memory of a cluster. Channels-
// last tries tiles of 64 and then 32 bytes (a memory sector) of a row; the narrower also where the
// wider leaves half of the SMs without a block. By reasoning over bytes and barriers, not yet by
// measurement.
inline SinglePassPlan plan_single_pass(Layout layout, const Geometry& g, int tile_units,
                                       int tensors, const DeviceLimits& limits) {
  if (layout == Layout::kContiguous) {
    return split_tile(g, tile_columns_log2(layout, g, tile_units), tensors, limits);
  }
  const int widest = std::min(2, log2_ceil(g.columns));
  SinglePassPlan best = split_tile(g, widest, tensors, limits);
  if (widest > 1 && (!best.fits || best.plan.blocks() * 2 < limits.sms)) {
    const SinglePassPlan narrow = split_tile(g, widest - 1, tensors, limits);
    best = narrow.fits ? narrow : best;
  }
  return best;
}

}  // namespace cuda
}  // namespace fastgan
