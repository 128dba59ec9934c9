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

#include "../elementwise.h"
#include "tiles.h"

namespace fastgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kFloat16;
    case ScalarType::Double: return Dtype::kFloat64;
    default: STD_TORCH_CHECK(false, "x: expected float32, bfloat16, float16 or float64");
  }
  return Dtype::kFloat32;
}

inline ScalarType stat_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Memory of x as N x C x S: `columns` where channels are innermost (or S is 1).
struct Layout {
  int64_t batch, channels, size;
  bool columns;
};

inline Layout layout_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2, "x: expected at least 2 dimensions, got ", x.dim());
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
                  "x: expected a contiguous or a channels-last dense tensor");
  if (!contiguous) l.columns = true;
  return l;
}

// Elements in a tile: two passes over it stay in the second-level cache, and merging one mean and one
// M2 for each of its columns is cheap beside reading it.
constexpr int64_t kTileElements = 16384;
constexpr int64_t kMinColumns = 128;
// A unit (all tiles of a group of channels) no larger than this is walked whole by one thread for
// every pass, so that the second pass finds it in that thread's cache.
constexpr int64_t kUnitBytes = 512 * 1024;

// Tiles of one segment. A unit is a group of channels [first, last) (columns in the column layout)
// with `tiles_per_unit` tiles each.
class Plan {
 public:
  Plan(const Layout& l, int64_t segments, int64_t element_bytes) : layout(l) {
    batch = l.batch / segments;
    if (l.columns) {
      period = std::lcm(l.channels, kColumnQuantum);
      if (period < kMinColumns) period *= (kMinColumns + period - 1) / period;
      const int64_t total = batch * l.size * l.channels;
      full_rows = total / period;
      tail = total % period;
      rows_per_tile = std::max<int64_t>(8, kTileElements / period / 8 * 8);
      tiles_per_unit = std::max<int64_t>(1, (full_rows + rows_per_tile - 1) / rows_per_tile);
      width = period;
      // Narrower units only when their rows are still several cache lines long.
      const int64_t fitting = kUnitBytes / element_bytes / std::max<int64_t>(1, full_rows);
      if (period == l.channels && fitting * element_bytes >= 256 && fitting < period) {
        width = std::max(kColumnQuantum, fitting / kColumnQuantum * kColumnQuantum);
      }
      units = (period + width - 1) / width;
      unit_bytes = full_rows * width * element_bytes;
    } else {
      width = std::clamp<int64_t>((1024 + l.size - 1) / l.size, 1, std::min<int64_t>(64, l.channels));
      units = (l.channels + width - 1) / width;
      pieces = std::max<int64_t>(1, (l.size + kTileElements - 1) / kTileElements);
      piece = ((l.size + pieces - 1) / pieces + kColumnQuantum - 1) / kColumnQuantum * kColumnQuantum;
      rows_per_tile = pieces > 1 ? 1 : std::max<int64_t>(1, kTileElements / (width * l.size));
      row_tiles = (batch + rows_per_tile - 1) / rows_per_tile;
      tiles_per_unit = row_tiles * pieces;
      period = l.channels;
      unit_bytes = batch * width * l.size * element_bytes;
    }
  }

  int64_t tiles() const { return units * tiles_per_unit; }
  bool fused(int64_t segments) const { return units * segments > 1 && unit_bytes <= kUnitBytes; }

  // The rectangle of tile `index`, and its offset in elements from the start of the segment.
  int64_t place(int64_t index, Tile& t) const {
    const int64_t unit = index / tiles_per_unit, k = index % tiles_per_unit;
    t.planes = !layout.columns;
    t.first = unit * width;
    t.last = std::min(period, t.first + width);
    if (layout.columns) {
      const int64_t row = k * rows_per_tile;
      t.rows = std::min(rows_per_tile, full_rows - row);
      t.ld = period;
      t.tail = k == tiles_per_unit - 1 ? tail : 0;
      return row * period;
    }
    const int64_t row = k / pieces * rows_per_tile;
    t.rows = std::min(rows_per_tile, batch - row);
    t.channels = layout.channels;
    t.size = layout.size;
    t.begin = std::min(layout.size, k % pieces * piece);
    t.end = std::min(layout.size, t.begin + piece);
    return row * layout.channels * layout.size;
  }

  // How many values of one channel (or column) a tile holds.
  static int64_t count(const Tile& t, int64_t index) {
    return t.planes ? t.rows * (t.end - t.begin) : t.rows + (index < t.tail ? 1 : 0);
  }

  int64_t segment_elements() const { return batch * layout.channels * layout.size; }
  int64_t channel_count() const { return batch * layout.size; }

  Layout layout;
  int64_t batch;   // of one segment
  int64_t period;  // columns of a row (a multiple of the channels), or the channels
  int64_t width;   // columns or channels of a unit
  int64_t units;
  int64_t tiles_per_unit;
  int64_t unit_bytes;
  int64_t rows_per_tile;

 private:
  int64_t full_rows = 0, tail = 0;                // columns
  int64_t pieces = 1, piece = 0, row_tiles = 1;  // planes
};

// Uninitialised memory for n values of P.
template <typename P>
std::unique_ptr<P[]> scratch(int64_t n) {
  return std::unique_ptr<P[]>(new P[static_cast<size_t>(std::max<int64_t>(1, n))]);
}

template <typename P>
const P* data_or_null(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<const P*>(t->data_ptr()) : nullptr;
}

inline const char* at(const Tensor& t, int64_t elements) {
  return static_cast<const char*>(t.data_ptr()) + elements * static_cast<int64_t>(t.element_size());
}
inline char* at_mutable(const Tensor& t, int64_t elements) {
  return static_cast<char*>(t.data_ptr()) + elements * static_cast<int64_t>(t.element_size());
}

}  // namespace fastgan
