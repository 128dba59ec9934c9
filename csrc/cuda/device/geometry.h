// How blocks and threads cover a tensor. No torch or CUDA includes: unit-tested on the host.
//
// A tensor of (segments * runs, channels, spatial) is a set of columns, each a list of units:
//
//                  unit                          column                       slots of a column
//   channels-last  V neighbouring channels       one V-channel group of one   V channels
//                  at one position               segment
//   contiguous     V neighbouring positions      one channel of one segment   1 channel
//                  of one channel
//
// A block owns a tile of 2^log_tx columns times one chunk of their units; its threads form a
// (2^log_tx columns) x (lanes) grid. Columns are numbered through all segments, so a tile may
// straddle two of them and small segments (instance norm) fill a block.
#pragma once

#include "cuda/device/element.h"

namespace fastgan {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kMaxCluster = 16;  // blocks: what sm_90 and sm_100 hold; 8 is the portable maximum

enum class Layout { kChannelsLast, kContiguous };

FASTGAN_HD std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// n / divisor for n < 2^31 by a multiplication (Granlund and Montgomery 1994): with
// 2^s >= divisor and magic = ceil(2^(31+s) / divisor), the error n * (divisor - 1) stays below
// 2^(31+s), so the quotient is exact.
struct FastDiv {
  std::uint32_t magic;
  int shift;

  FASTGAN_HD std::uint32_t operator()(std::uint32_t n) const {
    return std::uint32_t((std::uint64_t(n) * magic) >> shift);
  }
};

inline FastDiv make_fast_div(std::uint32_t divisor) {
  int s = 0;
  while ((std::uint64_t(1) << s) < divisor) {
    ++s;
  }
  const std::uint64_t magic = ((std::uint64_t(1) << (31 + s)) + divisor - 1) / divisor;
  return {std::uint32_t(magic), 31 + s};
}

template <Layout L, int V>
constexpr int kSlots = L == Layout::kChannelsLast ? V : 1;

struct Geometry {
  std::int64_t segments;
  std::int64_t runs;  // samples of one segment
  std::int64_t channels;
  std::int64_t spatial;
  std::int64_t columns;       // of all segments
  std::int64_t seg_columns;   // of one segment
  std::int64_t units;         // of one column
  std::int64_t spatial_units; // contiguous: units of one sample
  FastDiv spatial_div;        // by spatial_units, where `narrow`
  FastDiv segment_div;        // by seg_columns, where `narrow`
  bool narrow;                // unit and column numbers stay below 2^31
  int values_per_unit;        // values of one channel that a unit holds

  FASTGAN_HD std::int64_t values() const { return runs * spatial; }  // of one (segment, channel)
};

inline Geometry make_geometry(Layout layout, int vector, std::int64_t segments,
                              std::int64_t batch, std::int64_t channels, std::int64_t spatial) {
  Geometry g{};
  g.segments = segments;
  g.runs = batch / segments;
  g.channels = channels;
  g.spatial = spatial;
  const bool last = layout == Layout::kChannelsLast;
  g.seg_columns = last ? channels / vector : channels;
  g.columns = segments * g.seg_columns;
  g.spatial_units = last ? spatial : spatial / vector;
  g.units = g.runs * g.spatial_units;
  g.narrow = (g.units | g.columns) < (std::int64_t(1) << 31);
  g.spatial_div = make_fast_div(g.narrow ? std::uint32_t(g.spatial_units) : 1u);
  g.segment_div = make_fast_div(g.narrow ? std::uint32_t(g.seg_columns) : 1u);
  g.values_per_unit = last ? 1 : vector;
  return g;
}

// One column of the tensor: where its units lie and which channels it holds.
template <Layout L, int V>
struct Column {
  std::int64_t base;     // element offset of unit 0
  std::int64_t channel;  // its first channel
  std::int64_t stat;     // index of that channel's (segment, channel) statistics

  FASTGAN_HD Column(const Geometry& g, std::int64_t column) {
    const std::int64_t segment = g.narrow ? std::int64_t(g.segment_div(std::uint32_t(column)))
                                          : column / g.seg_columns;
    const std::int64_t within = column - segment * g.seg_columns;
    channel = within * kSlots<L, V>;
    stat = segment * g.channels + channel;
    const std::int64_t sample = segment * g.runs * g.channels * g.spatial;
    base = L == Layout::kChannelsLast ? sample + channel : sample + channel * g.spatial;
  }

  FASTGAN_HD std::int64_t offset(const Geometry& g, std::int64_t unit) const {
    if (L == Layout::kChannelsLast) {
      return base + unit * g.channels;
    }
    const std::int64_t run = g.narrow ? std::int64_t(g.spatial_div(std::uint32_t(unit)))
                                      : unit / g.spatial_units;
    const std::int64_t position = unit - run * g.spatial_units;
    return base + run * g.channels * g.spatial + position * V;
  }
};

// Which part of the work a block takes. Blocks of one tile are neighbours, so that the blocks of a
// cluster share a tile and their rank is the chunk.
struct Plan {
  int log_tx;              // columns of a tile
  std::int64_t chunks;     // of a column
  FastDiv chunk_div;       // by chunks: a launch has fewer than 2^31 blocks
  std::int64_t chunk_len;  // in units
  std::int64_t tiles;

  FASTGAN_HD int lanes() const { return kThreads >> log_tx; }
  FASTGAN_HD std::int64_t blocks() const { return tiles * chunks; }
};

// A thread's place: its column of the tile and its lane among the threads that share the column.
// Neighbouring threads touch neighbouring memory: columns first in channels-last, lanes first in
// contiguous.
template <Layout L>
struct Place {
  int tx;
  int lane;
  int lane_stride;  // thread distance between neighbouring lanes of a column

  FASTGAN_HD Place(const Plan& plan, int thread) {
    if (L == Layout::kChannelsLast) {
      tx = thread & ((1 << plan.log_tx) - 1);
      lane = thread >> plan.log_tx;
      lane_stride = 1 << plan.log_tx;
    } else {
      lane = thread & (plan.lanes() - 1);
      tx = thread / plan.lanes();
      lane_stride = 1;
    }
  }
};

// The block's tile and chunk.
struct BlockWork {
  std::int64_t first_column;
  std::int64_t chunk;
  std::int64_t first;  // units [first, last)
  std::int64_t last;

  FASTGAN_HD BlockWork(const Geometry& g, const Plan& plan, std::int64_t block) {
    const std::int64_t tile = plan.chunk_div(std::uint32_t(block));
    chunk = block - tile * plan.chunks;
    first_column = tile << plan.log_tx;
    first = chunk * plan.chunk_len;
    last = first + plan.chunk_len < g.units ? first + plan.chunk_len : g.units;
  }
};

// Values of one channel in chunk `chunk`: the counts that statistics are merged with.
FASTGAN_HD float chunk_count(const Geometry& g, const Plan& plan, std::int64_t chunk) {
  const std::int64_t first = chunk * plan.chunk_len;
  const std::int64_t last = first + plan.chunk_len < g.units ? first + plan.chunk_len : g.units;
  return last > first ? float((last - first) * g.values_per_unit) : 0.0f;
}

}  // namespace cuda
}  // namespace fastgan
