// Sizes and index arithmetic of convolutions between an image of at most four channels and a wide,
// channels-last tensor. No torch or CUDA includes: unit-tested on the host.
//
// Position (n, r, q) of the wide tensor meets the image of sample n at row r * stride - padding + i
// and column q * stride - padding + j for the kernel's taps (c, i, j), c being the image's channel.
#pragma once

#include "cuda/device/geometry.h"

namespace fastgan {
namespace cuda {

constexpr int kMaxSmallChannels = 4;  // channels of the image, and steps of the stride
constexpr int kMaxSmallKernel = 7;    // rows or columns of the kernel
constexpr int kWideChannels = 64;     // wide channels that a block takes

struct SmallChannelShape {
  int batch;
  int channels, height, width;            // the image
  std::int64_t image_stride[4];           // of (n, c, row, column)
  int wide, rows, columns;                // the wide tensor
  int kernel[2], stride[2], padding[2];   // rows, columns
  std::int64_t weight_stride[4];          // of (wide channel, c, i, j)
  FastDiv by_columns, by_rows, by_kernel_columns, by_kernel;

  FASTGAN_HD int taps() const { return channels * kernel[0] * kernel[1]; }
  FASTGAN_HD std::int64_t positions() const { return std::int64_t(batch) * rows * columns; }
  FASTGAN_HD int wide_chunks() const { return (wide + kWideChannels - 1) / kWideChannels; }
};

inline void set_divisors(SmallChannelShape& s) {
  s.by_columns = make_fast_div(std::uint32_t(s.columns));
  s.by_rows = make_fast_div(std::uint32_t(s.rows));
  s.by_kernel_columns = make_fast_div(std::uint32_t(s.kernel[1]));
  s.by_kernel = make_fast_div(std::uint32_t(s.kernel[0] * s.kernel[1]));
}

struct Tap {
  int c, i, j;

  FASTGAN_HD Tap(const SmallChannelShape& s, int tap) {
    c = int(s.by_kernel(std::uint32_t(tap)));
    const int inside = tap - c * s.kernel[0] * s.kernel[1];
    i = int(s.by_kernel_columns(std::uint32_t(inside)));
    j = inside - i * s.kernel[1];
  }
};

// Where the taps of a position begin; a row below any tap's reach where there is no such position.
struct Corner {
  std::int64_t sample;
  int row, column;

  FASTGAN_HD Corner(const SmallChannelShape& s, std::int64_t position) {
    if (position >= s.positions()) {
      sample = 0;
      row = -kMaxSmallKernel;
      column = 0;
      return;
    }
    const std::uint32_t line = s.by_columns(std::uint32_t(position));
    const std::uint32_t n = s.by_rows(line);
    sample = std::int64_t(n) * s.image_stride[0];
    row = (int(line) - int(n) * s.rows) * s.stride[0] - s.padding[0];
    column = (int(position) - int(line) * s.columns) * s.stride[1] - s.padding[1];
  }
};

template <typename T>
FASTGAN_HD float image_value(const SmallChannelShape& s, const T* image, const Corner& at,
                             const Tap& tap) {
  const int row = at.row + tap.i;
  const int column = at.column + tap.j;
  const bool inside = std::uint32_t(row) < std::uint32_t(s.height) &&
                      std::uint32_t(column) < std::uint32_t(s.width);
  return inside ? to_float(image[at.sample + tap.c * s.image_stride[1] +
                                 row * s.image_stride[2] + column * s.image_stride[3]])
                : 0.0f;
}

template <typename T>
FASTGAN_HD float weight_value(const SmallChannelShape& s, const T* weight, int k, const Tap& tap) {
  return to_float(weight[k * s.weight_stride[0] + tap.c * s.weight_stride[1] +
                         tap.i * s.weight_stride[2] + tap.j * s.weight_stride[3]]);
}

// A thread's place among the channels of a block's chunk, V each, and the threads that share them.
template <int V>
struct SmallChannelPlace {
  static constexpr int kLanes = kWideChannels / V;
  static constexpr int kGroups = kThreads / kLanes;

  int lane, group;

  FASTGAN_HD explicit SmallChannelPlace(int thread)
      : lane(thread % kLanes), group(thread / kLanes) {}
  FASTGAN_HD int channel() const { return lane * V; }  // of the chunk
};

// Rows x V products that a thread keeps in registers, and the rows that a block has.
template <int V>
constexpr int kRows = 32 / V;
constexpr int kBlockRows = 128;

template <int V>
struct SmallChannelTile {
  float sum[kRows<V>][V];

  FASTGAN_HD void clear() {
    FASTGAN_UNROLL
    for (int r = 0; r < kRows<V>; ++r) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        sum[r][v] = 0.0f;
      }
    }
  }

  // `rows` and `columns` are in shared memory; a 16-byte load brings four.
  FASTGAN_HD void absorb(const float* rows, const float* columns) {
    float row[kRows<V>];
    float column[V];
    FASTGAN_UNROLL
    for (int r = 0; r < kRows<V>; ++r) {
      row[r] = rows[r];
    }
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) {
      column[v] = columns[v];
    }
    FASTGAN_UNROLL
    for (int r = 0; r < kRows<V>; ++r) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        sum[r][v] += row[r] * column[v];
      }
    }
  }
};

}  // namespace cuda
}  // namespace fastgan
