// The transforms of the Winograd convolutions (cpu/conv/winograd/kernel.h) and the tiles they read
// and write. In an unnamed namespace, as cpu/simd/vec.h and for the same reason.
#pragma once

#include <cstdint>

#include "cpu/conv/gemm_tile.h"
#include "cpu/conv/winograd/kernel.h"

namespace fastgan {
namespace {

constexpr int64_t kNines = kProductsOfTile;

using Nine = VecF[3][3];

// ---- transforms

// Of a 3x3 patch.
FASTGAN_HD void patch_transform(Nine& d) {
  FASTGAN_UNROLL
  for (int i = 0; i < 3; ++i) {
    d[i][0] -= d[i][1];
    d[i][2] -= d[i][1];
  }
  FASTGAN_UNROLL
  for (int j = 0; j < 3; ++j) {
    d[0][j] -= d[1][j];
    d[2][j] -= d[1][j];
  }
}

// Of the 2x2 taps of a phase, and, being the adjoint of `gather`, of a 2x2 tile of gradients.
FASTGAN_HD void spread(const VecF (&g)[2][2], Nine& to) {
  VecF rows[3][2];
  FASTGAN_UNROLL
  for (int j = 0; j < 2; ++j) {
    rows[0][j] = g[0][j];
    rows[1][j] = g[0][j] + g[1][j];
    rows[2][j] = g[1][j];
  }
  FASTGAN_UNROLL
  for (int i = 0; i < 3; ++i) {
    to[i][0] = rows[i][0];
    to[i][1] = rows[i][0] + rows[i][1];
    to[i][2] = rows[i][1];
  }
}

// A 2x2 tile from the 9 products.
FASTGAN_HD void gather(const Nine& m, VecF (&y)[2][2]) {
  VecF rows[2][3];
  FASTGAN_UNROLL
  for (int j = 0; j < 3; ++j) {
    rows[0][j] = m[0][j] + m[1][j];
    rows[1][j] = m[1][j] + m[2][j];
  }
  FASTGAN_UNROLL
  for (int i = 0; i < 2; ++i) {
    y[i][0] = rows[i][0] + rows[i][1];
    y[i][1] = rows[i][1] + rows[i][2];
  }
}

FASTGAN_HD void load_nine(const float* from, int64_t plane, Nine& to) {
  FASTGAN_UNROLL
  for (int i = 0; i < 3; ++i) {
    FASTGAN_UNROLL
    for (int j = 0; j < 3; ++j) to[i][j] = load(from + (i * 3 + j) * plane);
  }
}
FASTGAN_HD void store_nine(const Nine& from, float* to, int64_t plane) {
  FASTGAN_UNROLL
  for (int i = 0; i < 3; ++i) {
    FASTGAN_UNROLL
    for (int j = 0; j < 3; ++j) store(to + (i * 3 + j) * plane, from[i][j]);
  }
}

// ---- where tiles lie

struct Place {
  int64_t sample, row, column;  // the first position of the tile
};

Place place_of(const WinogradShape& s, int64_t tile) {
  const int64_t across = s.tile_columns(), down = s.tile_rows();
  return {tile / (across * down), tile / across % down * 2, tile % across * 2};
}

// Channels-last (batch, rows, columns, channels).
template <typename T>
struct Grid {
  T* data;
  int64_t rows, columns, channels;

  // Null outside.
  T* at(int64_t sample, int64_t row, int64_t column) const {
    if (row < 0 || row >= rows || column < 0 || column >= columns) return nullptr;
    return data + ((sample * rows + row) * columns + column) * channels;
  }
};

// From a tile to the one that comes four later, which may lie outside: only to be fetched.
template <typename T>
int64_t to_later(const WinogradShape& s, const Grid<T>& grid, int64_t tile) {
  const int64_t scale = grid.rows / s.rows;  // of the image 2
  const auto offset = [&](const Place& p) {
    return ((p.sample * grid.rows + scale * p.row) * grid.columns + scale * p.column) * grid.channels;
  };
  return offset(place_of(s, tile + 4)) - offset(place_of(s, tile));
}

template <typename T>
FASTGAN_HD VecF load_or_zero(const T* p, int64_t c) {
  return p ? load(p + c) : VecF{};
}

// Channels [first, first + n) of the patch that begins at (row, column) and goes by steps, transformed.
// Fetches the patch that lies `ahead`, if not 0.
template <typename T>
void input(const Grid<const T>& from, int64_t sample, int64_t row, int64_t column, int64_t step,
           int64_t first, int64_t n, int64_t ahead, float* to, int64_t plane) {
  const T* at[3][3];
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) at[i][j] = from.at(sample, row + i * step, column + j * step);
  }
  for (int64_t c = 0; c < n; c += kWidth) {
    Nine d;
    FASTGAN_UNROLL
    for (int i = 0; i < 3; ++i) {
      FASTGAN_UNROLL
      for (int j = 0; j < 3; ++j) {
        d[i][j] = load_or_zero(at[i][j], first + c);
        if (ahead && at[i][j]) __builtin_prefetch(at[i][j] + first + c + ahead, 0, 2);
      }
    }
    patch_transform(d);
    store_nine(d, to + c, plane);
  }
}

// Channels [first, first + n) of the tile that begins at (row, column) and goes by steps, from its 9
// products; bias of all channels, or null. Fetches the tile that lies `ahead`.
template <typename T>
void output(const float* from, int64_t plane, const float* bias, const Grid<T>& to, int64_t sample,
            int64_t row, int64_t column, int64_t step, int64_t first, int64_t n, int64_t ahead) {
  T* at[2][2];
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) at[i][j] = to.at(sample, row + i * step, column + j * step);
  }
  for (int64_t c = 0; c < n; c += kWidth) {
    Nine m;
    VecF y[2][2];
    load_nine(from + c, plane, m);
    gather(m, y);
    const VecF added = bias ? load(bias + first + c) : VecF{};
    FASTGAN_UNROLL
    for (int i = 0; i < 2; ++i) {
      FASTGAN_UNROLL
      for (int j = 0; j < 2; ++j) {
        if (at[i][j] == nullptr) continue;
        __builtin_prefetch(at[i][j] + first + c + ahead, 0, 2);
        store(at[i][j] + first + c, y[i][j] + added);
      }
    }
  }
}

}  // namespace
}  // namespace fastgan
