// How a tensor is cut into tiles, and the coefficients and partial results that go with them.
//
// The cut depends on shapes alone, never on the number of threads, and partial results are merged in
// tile order: results are the same bits on any number of threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "cpu/runtime/entries.h"
#include "cpu/runtime/allocator.h"
#include "cpu/runtime/tiles.h"
#include "elementwise.h"

namespace fastgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& x, const char* name = "x") {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kFloat16;
    case ScalarType::Double: return Dtype::kFloat64;
    default: STD_TORCH_CHECK(false, name, ": expected float32, bfloat16, float16 or float64");
  }
  return Dtype::kFloat32;
}

inline ScalarType stat_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Layout layout_of(const Tensor& x, const char* name = "x") {
  STD_TORCH_CHECK(x.dim() >= 2, name, ": expected at least 2 dimensions, got ", x.dim());
  const auto sizes = x.sizes();
  Layout l{sizes[0], sizes[1], 1, false};
  for (int64_t d = 2; d < x.dim(); ++d) l.size *= sizes[d];
  if (l.batch * l.channels * l.size == 0 || l.size == 1) {
    l.columns = true;
  }
  // Channels-last: stride 1 on the channels, then the spatial dimensions from the last to the first.
  bool channels_last = true, contiguous = true;
  int64_t last = l.channels, dense = 1;
  for (int64_t d = x.dim() - 1; d >= 0; --d) {
    if (sizes[d] != 1 && x.stride(d) != dense) contiguous = false;
    dense *= sizes[d];
    if (d == 1) {
      if (l.channels != 1 && x.stride(1) != 1) channels_last = false;
    } else {
      if (sizes[d] != 1 && x.stride(d) != last) channels_last = false;
      last *= sizes[d];
    }
  }
  STD_TORCH_CHECK(contiguous || channels_last || dense == 0,
                  name, ": expected a contiguous or a channels-last dense tensor");
  if (!contiguous) l.columns = true;
  return l;
}

// Elements in a tile: few enough that large tensors make work for many threads, and so many that
// merging one mean and one M2 for each of its columns is cheap beside reading it.
constexpr int64_t kTileElements = 32768;
// Shorter rows are repeated up to this many columns, which keeps sums apart that would wait for each
// other.
constexpr int64_t kMinColumns = 256;

// Up to this size a tensor, of halves of floats or of others, is written down blocks of rows; a
// larger one comes from memory, whose fetching such a run of writes disturbs more than it saves.
constexpr int64_t kBlockedBytesOfHalves = int64_t{4} << 20, kBlockedBytes = int64_t{2} << 20;

// From this size on a tensor is written by non-temporal stores: beside what it is made from it does
// not fit the last one, which would read its memory first and have dropped most of it before it is
// read.
constexpr int64_t kStreamedBytes = int64_t{16} << 20;

// Tiles of one segment, numbered in the order of memory: the processor's prefetching wants long
// runs, and taking one group of channels at a time is several times slower, cached or not.
//
// A tile covers a group of channels `unit` (all of them in the column layout) and a piece k of the
// rest; partial results are kept by (k, column).
class Plan {
 public:
  Plan(const Layout& l, int64_t segments) : layout(l), batch(l.batch / segments) {
    if (l.columns) {
      period = std::lcm(l.channels, kColumnQuantum);
      if (period < kMinColumns) period *= (kMinColumns + period - 1) / period;
      width = period;
      total_rows = segment_elements() / period;
      tail = segment_elements() % period;
      rows_per_tile = std::max<int64_t>(8, kTileElements / period);
      row_tiles = std::max<int64_t>(1, (total_rows + rows_per_tile - 1) / rows_per_tile);
      return;
    }
    period = l.channels;
    total_rows = batch;
    width = std::clamp<int64_t>(kTileElements / l.size, 1, l.channels);
    units = (l.channels + width - 1) / width;
    pieces = std::max<int64_t>(1, l.size / kTileElements);
    piece = (l.size + pieces - 1) / pieces;
    rows_per_tile = std::max<int64_t>(1, kTileElements / (l.channels * l.size));
    row_tiles = (batch + rows_per_tile - 1) / rows_per_tile;
  }

  int64_t partials() const { return row_tiles * pieces; }
  int64_t tiles() const { return partials() * units; }

  // Sets the rectangle of tile `index`; gives its offset in elements from the start of the segment
  // and, in k, the place of its partial results.
  int64_t place(int64_t index, Tile& t, int64_t& k) const {
    const int64_t p = index % pieces, unit = index / pieces % units, row_tile = index / pieces / units;
    k = row_tile * pieces + p;
    t.planes = !layout.columns;
    t.first = unit * width;
    t.last = std::min(period, t.first + width);
    t.rows = rows(row_tile);
    t.ld = period;
    t.tail = row_tile == row_tiles - 1 ? tail : 0;
    t.channels = layout.channels;
    t.size = layout.size;
    t.begin = p * piece;
    t.end = std::min(layout.size, t.begin + piece);
    t.streamed &= segment_elements() % kColumnQuantum == 0 &&
                  (layout.columns || (t.begin % kColumnQuantum == 0 && t.size % kColumnQuantum == 0));
    return row_tile * rows_per_tile * (layout.columns ? period : layout.channels * layout.size);
  }

  // How many values of a channel (or column) the tiles of partial result k hold. In the last one,
  // columns below tail_columns() hold one more.
  int64_t count(int64_t k) const {
    const int64_t row_tile = k / pieces, p = k % pieces;
    if (layout.columns) return rows(row_tile);
    return rows(row_tile) * (std::min(layout.size, (p + 1) * piece) - p * piece);
  }
  int64_t tail_columns() const { return tail; }

  int64_t segment_elements() const { return batch * layout.channels * layout.size; }
  int64_t channel_count() const { return batch * layout.size; }

  Layout layout;
  int64_t batch;       // of one segment
  int64_t period = 0;  // columns of a row (a multiple of the channels), or the channels

 private:
  int64_t rows(int64_t row_tile) const {
    return std::min(rows_per_tile, total_rows - row_tile * rows_per_tile);
  }

  int64_t width = 0, units = 1;       // columns or channels of a unit
  int64_t total_rows = 0, tail = 0;   // whole rows (batch indices), columns of an incomplete one
  int64_t rows_per_tile = 1, row_tiles = 1;
  int64_t pieces = 1, piece = 0;      // of a plane larger than a tile
};

// Uninitialised memory for n values of P, aligned to a cache line, which no vector then straddles.
struct Free {
  void operator()(void* p) const { give(p); }
};
template <typename P>
using Scratch = std::unique_ptr<P[], Free>;

template <typename P>
Scratch<P> scratch(int64_t n) {
  return Scratch<P>(static_cast<P*>(take(sizeof(P) * static_cast<size_t>(n))));
}

inline int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32: return 4;
    case Dtype::kFloat64: return 8;
    default: return 2;
  }
}

// Sets how the tiles of a tensor are written.
inline void set_writing(Dtype dtype, const Layout& l, Tile& t) {
  const int64_t size = size_of(dtype), bytes = l.batch * l.channels * l.size * size;
  t.blocked = bytes <= (size == 2 ? kBlockedBytesOfHalves : kBlockedBytes);
  t.streamed = bytes >= kStreamedBytes;
}

// Its memory, or null where it is not given.
inline const void* pointer(const std::optional<Tensor>& t) {
  return t.has_value() ? t->data_ptr() : nullptr;
}

// A convolution's bias, checked.
inline const float* bias_or_null(const std::optional<Tensor>& bias, int64_t channels) {
  STD_TORCH_CHECK(!bias.has_value() || (bias->scalar_type() == ScalarType::Float &&
                                        bias->is_contiguous() && bias->numel() == channels),
                  "bias: expected ", channels, " contiguous values in float32");
  return static_cast<const float*>(pointer(bias));
}

inline const char* at(const void* p, Dtype dtype, int64_t elements) {
  return static_cast<const char*>(p) + elements * size_of(dtype);
}
inline char* at(void* p, Dtype dtype, int64_t elements) {
  return static_cast<char*>(p) + elements * size_of(dtype);
}
inline const char* at(const Tensor& t, int64_t elements) {
  return static_cast<const char*>(t.data_ptr()) + elements * static_cast<int64_t>(t.element_size());
}
inline char* at_mutable(const Tensor& t, int64_t elements) {
  return static_cast<char*>(t.data_ptr()) + elements * static_cast<int64_t>(t.element_size());
}

}  // namespace fastgan
