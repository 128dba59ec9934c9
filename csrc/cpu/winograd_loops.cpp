// The loops of the minimal-filtering convolutions. Compiled once for each instruction set;
// FASTGAN_ISA names the copy.
#include <algorithm>
#include <cstdint>

#include "conv_product.h"
#include "isa.h"
#include "winograd.h"
#include "winograd_transforms.h"

namespace fastgan {
namespace {

constexpr int64_t kPanel = kMostVectors * kWidth;  // columns of a register tile
constexpr int64_t kWeightDepth = 64;   // tiles that one product of the weight gradient sums
constexpr int64_t kPad = 16;           // floats between planes, which else would meet in one cache set

constexpr auto kSquareSteps = steps<kWeightSquare>();

// ---- products

// c (rows x columns) = a (rows x depth) b, b in panels of kPanel columns, `depth` rows each.
void multiply(const float* a, int64_t rows, int64_t depth, const float* b, int64_t columns,
              float* c) {
  for (int64_t first = 0; first < depth; first += kDepth) {
    const int64_t terms = std::min(kDepth, depth - first);
    const auto& products = first ? kProducts<true>.of : kProducts<false>.of;
    for (int64_t column = 0; column < columns; column += kPanel) {
      const int64_t vectors = std::min(kPanel, columns - column) / kWidth;
      const float* panel = b + column * depth + first * kPanel;
      in_pieces(rows, most_rows(vectors), [&](int64_t row, int64_t count) {
        Product o{{}, kUnitSteps.data(), terms, panel, kPanel, c + row * columns + column, columns};
        for (int64_t p = 0; p < count; ++p) o.a[p] = a + (row + p) * depth + first;
        products[vectors - 1][count - 1](o);
      });
    }
  }
}

constexpr int64_t padded(int64_t columns) { return ceil_div(columns, kPanel) * kPanel; }

// ---- weights

// Taps of a phase: g[i][j] is that of row parity + 2 i, for the transposed convolution reversed.
template <typename T>
FASTGAN_HD void taps(const WinogradShape& s, const T* weight, int64_t k, int64_t phase, int64_t c,
                     bool transposed, Nine& u) {
  const int64_t row = phase / 2, column = phase % 2;
  VecF g[2][2];
  FASTGAN_UNROLL
  for (int i = 0; i < 2; ++i) {
    FASTGAN_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int64_t y = row + 2 * (transposed ? 1 - i : i), x = column + 2 * (transposed ? 1 - j : j);
      g[i][j] = load(weight + ((k * 4 + y) * 4 + x) * s.image + c);
    }
  }
  spread(g, u);
}

int64_t packed_floats(const WinogradShape& s, bool transposed) {
  const int64_t rows = transposed ? s.positions : s.image;
  return kNines * kPhases * rows * padded(transposed ? s.image : s.positions);
}

// Calls function(k, phase, c) for channels [first, last) of the positions, as many at a time as make
// whole rows of panels.
template <typename Function>
void for_taps(const WinogradShape& s, int64_t first, int64_t last, int64_t step,
              const Function& function) {
  for (int64_t begin = first; begin < last; begin += kPanel) {
    const int64_t end = std::min(last, begin + kPanel);
    for (int64_t phase = 0; phase < kPhases; ++phase) {
      for (int64_t c = 0; c < s.image; c += kWidth) {
        for (int64_t k = begin; k < end; k += step) function(k, phase, c);
      }
    }
  }
}

// By product: panels of positions, each (phase, channel of the image) x kPanel.
template <typename T>
void pack_conv(const WinogradShape& s, const T* weight, int64_t first, int64_t last, float* packed) {
  const int64_t depth = kPhases * s.image, plane = depth * padded(s.positions);
  for_taps(s, first, last, kWidth, [&](int64_t k, int64_t phase, int64_t c) {
    VecF u[kNines][kWidth];
    for (int64_t i = 0; i < kWidth; ++i) {
      Nine of;
      taps(s, weight, k + i, phase, c, false, of);
      for (int n = 0; n < kNines; ++n) u[n][i] = of[n / 3][n % 3];
    }
    float* to = packed + k / kPanel * kPanel * depth + k % kPanel + (phase * s.image + c) * kPanel;
    for (int n = 0; n < kNines; ++n, to += plane) {
      transpose(u[n]);
      for (int64_t i = 0; i < kWidth; ++i) store(to + i * kPanel, u[n][i]);
    }
  });
}

// By phase and product: panels of the image's channels, each (channel of the positions) x kPanel.
template <typename T>
void pack_transpose(const WinogradShape& s, const T* weight, int64_t first, int64_t last,
                    float* packed) {
  const int64_t plane = s.positions * padded(s.image);
  for_taps(s, first, last, 1, [&](int64_t k, int64_t phase, int64_t c) {
    Nine u;
    taps(s, weight, k, phase, c, true, u);
    float* const panel = packed + phase * kNines * plane + c / kPanel * kPanel * s.positions;
    store_nine(u, panel + k * kPanel + c % kPanel, plane);
  });
}

// ---- the three passes

int64_t scratch_floats(const WinogradShape& s, bool transposed, int64_t tiles) {
  const int64_t from = transposed ? s.positions : kPhases * s.image;
  const int64_t to = transposed ? s.image : s.positions;
  return kNines * (tiles * (from + to) + 2 * kPad);
}

template <typename T>
void conv(const WinogradShape& s, const T* image, const float* packed, int64_t first, int64_t last,
          T* positions, float* scratch) {
  const Grid<const T> from{image, 2 * s.rows, 2 * s.columns, s.image};
  const Grid<T> to{positions, s.rows, s.columns, s.positions};
  const int64_t tiles = last - first, depth = kPhases * s.image;
  const int64_t plane = tiles * depth + kPad, plane_out = tiles * s.positions + kPad;
  float* const products = scratch + kNines * plane;
  for (int64_t t = 0; t < tiles; ++t) {
    const Place p = place_of(s, first + t);
    for (int64_t phase = 0; phase < kPhases; ++phase) {
      input(from, p.sample, 2 * p.row + phase / 2 - 1, 2 * p.column + phase % 2 - 1, 2, 0, s.image,
            scratch + t * depth + phase * s.image, plane);
    }
  }
  for (int64_t n = 0; n < kNines; ++n) {
    multiply(scratch + n * plane, tiles, depth, packed + n * depth * padded(s.positions),
             s.positions, products + n * plane_out);
  }
  for (int64_t t = 0; t < tiles; ++t) {
    const Place p = place_of(s, first + t);
    output(products + t * s.positions, plane_out, to, p.sample, p.row, p.column, 1);
  }
}

template <typename T>
void conv_transpose(const WinogradShape& s, const T* positions, const float* packed, int64_t first,
                    int64_t last, T* image, float* scratch) {
  const Grid<const T> from{positions, s.rows, s.columns, s.positions};
  const Grid<T> to{image, 2 * s.rows, 2 * s.columns, s.image};
  const int64_t tiles = last - first, depth = s.positions;
  const int64_t plane = tiles * depth + kPad, plane_out = tiles * s.image + kPad;
  float* const products = scratch + kNines * plane;
  for (int64_t phase = 0; phase < kPhases; ++phase) {
    // Taps of odd rows meet even rows of the image, from the position before on.
    const int64_t row = phase / 2, column = phase % 2;
    for (int64_t t = 0; t < tiles; ++t) {
      const Place p = place_of(s, first + t);
      input(from, p.sample, p.row - row, p.column - column, 1, 0, depth, scratch + t * depth, plane);
    }
    for (int64_t n = 0; n < kNines; ++n) {
      multiply(scratch + n * plane, tiles, depth,
               packed + (phase * kNines + n) * depth * padded(s.image), s.image,
               products + n * plane_out);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const Place p = place_of(s, first + t);
      output(products + t * s.image, plane_out, to, p.sample, 2 * p.row + 1 - row,
             2 * p.column + 1 - column, 2);
    }
  }
}

// A 2x2 tile of the positions' gradient, channels [first, first + n), spread over the 9 products.
template <typename T>
void spread_tile(const Grid<const T>& from, const Place& p, int64_t first, int64_t n, float* to,
                 int64_t plane) {
  const T* at[2][2];
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) at[i][j] = from.at(p.sample, p.row + i, p.column + j);
  }
  for (int64_t c = 0; c < n; c += kWidth) {
    VecF g[2][2];
    Nine of;
    FASTGAN_UNROLL
    for (int i = 0; i < 2; ++i) {
      FASTGAN_UNROLL
      for (int j = 0; j < 2; ++j) g[i][j] = load_or_zero(at[i][j], first + c);
    }
    spread(g, of);
    store_nine(of, to + c, plane);
  }
}

// ---- the weight gradient

// Transformed, a block of so many channels (of the image: of a phase, too) is 9 planes of a row for
// each tile, those of the image first.
constexpr int64_t transformed_block(int64_t tiles) { return kNines * (tiles * kWeightSquare + kPad); }
constexpr int64_t kSumPlane = kWeightSquare * kWeightSquare + kPad;
int64_t transformed_floats(const WinogradShape& s, int64_t tiles) {
  return (kPhases * s.across(s.image) + s.across(s.positions)) * transformed_block(tiles);
}
int64_t sums_floats() { return kNines * kSumPlane; }

// Where a square lies in the gradient.
struct Square {
  int64_t phase, c, k;  // the first channel of the image and of the positions
  int64_t wide, high;   // and how many
};
Square square_of(const WinogradShape& s, int64_t i) {
  const int64_t across = s.across(s.image) * kPhases;
  const int64_t phase = i % kPhases, c = i % across / kPhases * kWeightSquare;
  const int64_t k = i / across * kWeightSquare;
  return {phase, c, k, std::min(kWeightSquare, s.image - c), std::min(kWeightSquare, s.positions - k)};
}

template <typename T>
void weight_transform(const WinogradShape& s, const T* image, const T* positions, int64_t first,
                      int64_t tiles, int64_t begin, int64_t end, float* transformed) {
  const Grid<const T> pixels{image, 2 * s.rows, 2 * s.columns, s.image};
  const Grid<const T> gradient{positions, s.rows, s.columns, s.positions};
  const int64_t block = transformed_block(tiles), plane = block / kNines;
  const int64_t blocks = kPhases * s.across(s.image);
  for (int64_t t = 0; t < tiles; ++t) {
    const Place p = place_of(s, first + t);
    float* to = transformed + t * kWeightSquare;
    for (int64_t i = 0; i < blocks; ++i, to += block) {
      if ((i + blocks - begin % blocks) % blocks >= end - begin) continue;
      const Square q = square_of(s, i);
      input(pixels, p.sample, 2 * p.row + q.phase / 2 - 1, 2 * p.column + q.phase % 2 - 1, 2, q.c,
            q.wide, to, plane);
    }
    to += begin / blocks * block;
    for (int64_t i = begin / blocks * blocks; i < end; i += blocks, to += block) {
      const Square q = square_of(s, i);
      spread_tile(gradient, p, q.k, q.high, to, plane);
    }
  }
}

void weight_multiply(const WinogradShape& s, const float* transformed, int64_t tiles, int64_t square,
                     bool add, float* sums) {
  const Square q = square_of(s, square);
  const int64_t block = transformed_block(tiles), plane = block / kNines;
  const int64_t blocks = kPhases * s.across(s.image);
  const float* right = transformed + square % blocks * block;
  const float* left = transformed + (blocks + square / blocks) * block;
  for (int64_t n = 0; n < kNines; ++n, left += plane, right += plane, sums += kSumPlane) {
    for (int64_t t = 0; t < tiles; t += kWeightDepth) {
      const int64_t terms = std::min(kWeightDepth, tiles - t);
      const auto& products = add || t ? kProducts<true>.of : kProducts<false>.of;
      for (int64_t at = 0; at < q.wide; at += kPanel) {
        const int64_t vectors = std::min(kPanel, q.wide - at) / kWidth;
        in_pieces(q.high, most_rows(vectors), [&](int64_t row, int64_t count) {
          Product o{{}, kSquareSteps.data(), terms, right + t * kWeightSquare + at, kWeightSquare,
                    sums + row * kWeightSquare + at, kWeightSquare};
          for (int64_t p = 0; p < count; ++p) o.a[p] = left + t * kWeightSquare + row + p;
          products[vectors - 1][count - 1](o);
        });
      }
    }
  }
}

template <typename T>
void weight_gather(const WinogradShape& s, const float* sums, int64_t square, T* out) {
  const Square q = square_of(s, square);
  const int64_t row = q.phase / 2, column = q.phase % 2;
  for (int64_t i = 0; i < q.high; ++i) {
    for (int64_t at = 0; at < q.wide; at += kWidth) {
      Nine m;
      VecF g[2][2];
      load_nine(sums + i * kWeightSquare + at, kSumPlane, m);
      gather(m, g);
      for (int y = 0; y < 2; ++y) {
        for (int x = 0; x < 2; ++x) {
          const int64_t tap = (row + 2 * y) * 4 + column + 2 * x;
          store(out + ((q.k + i) * 16 + tap) * s.image + q.c + at, g[y][x]);
        }
      }
    }
  }
}

// ---- by dtype

void pack_any(const WinogradShape& s, bool transposed, const void* weight, int64_t first,
              int64_t last, float* packed) {
  const int64_t from = first * kWinogradChannels, to = last * kWinogradChannels;
  with_type(s.dtype, [&](auto type) {
    transposed ? pack_transpose(s, as(type, weight), from, to, packed)
               : pack_conv(s, as(type, weight), from, to, packed);
  });
}

void conv_any(const WinogradShape& s, const void* image, const float* packed, int64_t first,
              int64_t last, void* positions, float* scratch) {
  with_type(s.dtype, [&](auto type) {
    conv(s, as(type, image), packed, first, last, as(type, positions), scratch);
  });
}

void transpose_any(const WinogradShape& s, const void* positions, const float* packed, int64_t first,
                   int64_t last, void* image, float* scratch) {
  with_type(s.dtype, [&](auto type) {
    conv_transpose(s, as(type, positions), packed, first, last, as(type, image), scratch);
  });
}

void weight_transform_any(const WinogradShape& s, const void* image, const void* positions,
                          int64_t first, int64_t tiles, int64_t begin, int64_t end,
                          float* transformed) {
  with_type(s.dtype, [&](auto type) {
    weight_transform(s, as(type, image), as(type, positions), first, tiles, begin, end, transformed);
  });
}

void weight_gather_any(const WinogradShape& s, const float* sums, int64_t square, void* out) {
  with_type(s.dtype, [&](auto type) { weight_gather(s, sums, square, as(type, out)); });
}

}  // namespace

extern const WinogradLoops FASTGAN_OF_ISA(kWinogradLoops);
const WinogradLoops FASTGAN_OF_ISA(kWinogradLoops) = {
    packed_floats, scratch_floats, transformed_floats,   sums_floats,     pack_any,
    conv_any,      transpose_any,  weight_transform_any, weight_multiply, weight_gather_any};

}  // namespace fastgan
