// The kernels of the Winograd convolutions. Compiled once for each instruction set;
// FASTGAN_ISA names the copy.
#include <algorithm>
#include <cstdint>

#include "cpu/conv/winograd/kernel.h"
#include "cpu/conv/winograd/product.h"
#include "cpu/conv/winograd/transforms.h"
#include "cpu/simd/isa.h"

namespace fastgan {
namespace {

constexpr int64_t kPad = kLine;  // floats between planes, which else would meet in one cache set
// What packing fetches: channels of the image, or of the strided map, so many further on.
constexpr int64_t kImageAhead = 2 * kLine, kStridedAhead = 4;

// ---- products

// c (rows x columns) = a (rows x depth) b, b in panels of kPanel columns, `depth` rows each. The next
// product's b is to follow this one in memory.
void multiply(const float* a, int64_t rows, int64_t depth, const float* b, int64_t columns,
              float* c) {
  const int64_t panels = ceil_div(columns, kPanel);
  for (int64_t first = 0; first < depth; first += kDepth) {
    const int64_t terms = std::min(kDepth, depth - first), end = first + terms;
    const auto& products = first ? kPanels<true, 1>.of : kPanels<false, 1>.of;
    for (int64_t i = 0; i < panels; ++i) {
      const int64_t column = i * kPanel, vectors = std::min(kPanel, columns - column) / kWidth;
      const float* panel = b + (i * depth + first) * kPanel;
      const float* next = i + 1 < panels ? panel + depth * kPanel
                          : end < depth  ? b + end * kPanel
                                         : b + panels * depth * kPanel;
      int64_t pass = 0;
      in_pieces(rows, max_rows(vectors), [&](int64_t row, int64_t count) {
        Panel o{{}, terms, panel, next + pass++ * kLine % kPanel, kPanel,
                c + row * columns + column, columns};
        for (int64_t p = 0; p < count; ++p) o.a[p] = a + (row + p) * depth + first;
        products[vectors - 1][count - 1](o);
      });
    }
  }
}

constexpr int64_t padded(int64_t columns) { return ceil_div(columns, kPanel) * kPanel; }

// ---- weights

// Where tap (i, j) of a phase lies among the 16; the transposed convolution takes them reversed.
constexpr int64_t tap_of(int64_t phase, int64_t i, int64_t j) {
  return (phase / 2 + 2 * i) * 4 + phase % 2 + 2 * j;
}

int64_t packed_plane(int64_t depth, int64_t channels) { return depth * padded(channels) + kPad; }
int64_t packed_floats(const WinogradShape& s, bool transposed, int64_t channels) {
  return kNines * (transposed ? kPhases * packed_plane(s.strided, channels)
                              : packed_plane(kPhases * s.image, channels));
}

// The taps of a phase for a vector of the image's channels, turned to a vector of the strided map's
// for each.
template <typename T>
FASTGAN_HD void turned_taps(const WinogradShape& s, const T* weight, int64_t phase,
                            VecF (&taps)[2][2][kWidth]) {
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const T* from = weight + tap_of(phase, i, j) * s.image;
      for (int64_t k = 0; k < kWidth; ++k, from += kTaps * s.image) {
        taps[i][j][k] = load(from);
        __builtin_prefetch(from + kImageAhead, 0, 2);
      }
      transpose(taps[i][j]);
    }
  }
}

// By product: panels of the strided map's channels, each (phase, channel of the image) x kPanel.
template <typename T>
void pack_conv(const WinogradShape& s, const T* weight, const WinogradPart& part, float* packed) {
  const int64_t depth = kPhases * s.image, plane = packed_plane(depth, part.channels());
  for (int64_t k = part.begin; k < part.end; k += kPanel) {
    const int64_t vectors = std::min(kPanel, part.end - k) / kWidth;
    for (int64_t phase = 0; phase < kPhases; ++phase) {
      for (int64_t c = 0; c < s.image; c += kWidth) {
        VecF taps[kMaxVectors][2][2][kWidth];
        for (int64_t v = 0; v < vectors; ++v) {
          turned_taps(s, weight + (k + v * kWidth) * kTaps * s.image + c, phase, taps[v]);
        }
        // Whole rows of a panel: planes are written along memory.
        for (int64_t i = 0; i < kWidth; ++i, packed += kPanel) {
          for (int64_t v = 0; v < vectors; ++v) {
            const auto& of = taps[v];
            Nine u;
            spread({{of[0][0][i], of[0][1][i]}, {of[1][0][i], of[1][1][i]}}, u);
            store_nine(u, packed + v * kWidth, plane);
          }
        }
      }
    }
  }
}

// By phase and product: panels of the image's channels, each (channel of the strided map) x kPanel.
template <typename T>
void pack_transpose(const WinogradShape& s, const T* weight, const WinogradPart& part, float* packed) {
  const int64_t plane = packed_plane(s.strided, part.channels());
  for (int64_t phase = 0; phase < kPhases; ++phase) {
    float* row = packed + phase * kNines * plane;
    for (int64_t first = part.begin; first < part.end; first += kPanel) {
      const int64_t n = std::min(kPanel, part.end - first);
      for (int64_t k = 0; k < s.strided; ++k, row += kPanel) {
        for (int64_t c = 0; c < n; c += kWidth) {
          VecF g[2][2];
          Nine u;
          FASTGAN_UNROLL
          for (int i = 0; i < 2; ++i) {
            FASTGAN_UNROLL
            for (int j = 0; j < 2; ++j) {
              const T* from = weight + (k * kTaps + tap_of(phase, 1 - i, 1 - j)) * s.image + first + c;
              g[i][j] = load(from);
              __builtin_prefetch(from + kStridedAhead * kTaps * s.image, 0, 2);
            }
          }
          spread(g, u);
          store_nine(u, row + c, plane);
        }
      }
    }
  }
}

// ---- the three passes

int64_t scratch_floats(const WinogradShape& s, bool transposed, const WinogradPart& part) {
  const int64_t depth = transposed ? s.strided : kPhases * s.image;
  return kNines * (part.tiles() * (depth + part.channels()) + 2 * kPad);
}

template <typename T>
void conv(const WinogradShape& s, const T* image, const float* packed, const float* bias,
          const WinogradPart& part, T* strided, float* scratch) {
  const Grid<const T> from{image, 2 * s.rows, 2 * s.columns, s.image};
  const Grid<T> to{strided, s.rows, s.columns, s.strided};
  const int64_t tiles = part.tiles(), channels = part.channels(), depth = kPhases * s.image;
  const int64_t plane = tiles * depth + kPad, plane_out = tiles * channels + kPad;
  float* const products = scratch + kNines * plane;
  for (int64_t t = 0; t < tiles; ++t) {
    const Place p = place_of(s, part.first + t);
    const int64_t ahead = to_later(s, from, part.first + t);
    for (int64_t phase = 0; phase < kPhases; ++phase) {
      input(from, p.sample, 2 * p.row + phase / 2 - 1, 2 * p.column + phase % 2 - 1, 2, 0, s.image,
            ahead, scratch + t * depth + phase * s.image, plane);
    }
  }
  for (int64_t n = 0; n < kNines; ++n, packed += packed_plane(depth, channels)) {
    multiply(scratch + n * plane, tiles, depth, packed, channels, products + n * plane_out);
  }
  for (int64_t t = 0; t < tiles; ++t) {
    const Place p = place_of(s, part.first + t);
    output(products + t * channels, plane_out, bias, to, p.sample, p.row, p.column, 1, part.begin,
           channels, to_later(s, to, part.first + t));
  }
}

template <typename T>
void conv_transpose(const WinogradShape& s, const T* strided, const float* packed,
                    const float* bias, const WinogradPart& part, T* image, float* scratch) {
  const Grid<const T> from{strided, s.rows, s.columns, s.strided};
  const Grid<T> to{image, 2 * s.rows, 2 * s.columns, s.image};
  const int64_t tiles = part.tiles(), channels = part.channels(), depth = s.strided;
  const int64_t plane = tiles * depth + kPad, plane_out = tiles * channels + kPad;
  float* const products = scratch + kNines * plane;
  for (int64_t phase = 0; phase < kPhases; ++phase) {
    // Taps of odd rows meet even rows of the image, from the position before on.
    const int64_t row = phase / 2, column = phase % 2;
    for (int64_t t = 0; t < tiles; ++t) {
      const Place p = place_of(s, part.first + t);
      // Later phases find the strided map near.
      const int64_t ahead = phase == 0 ? to_later(s, from, part.first + t) : 0;
      input(from, p.sample, p.row - row, p.column - column, 1, 0, depth, ahead, scratch + t * depth,
            plane);
    }
    for (int64_t n = 0; n < kNines; ++n, packed += packed_plane(depth, channels)) {
      multiply(scratch + n * plane, tiles, depth, packed, channels, products + n * plane_out);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const Place p = place_of(s, part.first + t);
      output(products + t * channels, plane_out, bias, to, p.sample, 2 * p.row + 1 - row,
             2 * p.column + 1 - column, 2, part.begin, channels, to_later(s, to, part.first + t));
    }
  }
}

// A 2x2 tile of the strided map's gradient, channels [first, first + n), spread over the 9
// products. Fetches the tile that lies `ahead`.
template <typename T>
void spread_tile(const Grid<const T>& from, const Place& p, int64_t first, int64_t n, int64_t ahead,
                 float* to, int64_t plane) {
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
      for (int j = 0; j < 2; ++j) {
        g[i][j] = load_or_zero(at[i][j], first + c);
        if (at[i][j]) __builtin_prefetch(at[i][j] + first + c + ahead, 0, 2);
      }
    }
    spread(g, of);
    store_nine(of, to + c, plane);
  }
}

// ---- the weight gradient

// Transformed, a block of so many channels (of the image: of a phase, too) is 9 planes of a row for
// each tile, those of the image first.
constexpr int64_t transformed_block(int64_t tiles) { return kNines * (tiles * kOutputTile + kPad); }
constexpr int64_t kSumPlane = kOutputTile * kOutputTile + kPad;
int64_t transformed_floats(const WinogradShape& s, int64_t tiles) {
  return (kPhases * s.across(s.image) + s.across(s.strided)) * transformed_block(tiles);
}
int64_t sums_floats() { return kNines * kSumPlane; }

// Where an output tile lies in the gradient.
struct OutputTile {
  int64_t phase, c, k;  // the first channel of the image and of the strided map
  int64_t wide, high;   // and how many
};
OutputTile output_tile_at(const WinogradShape& s, int64_t i) {
  const int64_t block = i / s.across(s.strided), phase = block % kPhases;
  const int64_t c = block / kPhases * kOutputTile, k = i % s.across(s.strided) * kOutputTile;
  return {phase, c, k, std::min(kOutputTile, s.image - c), std::min(kOutputTile, s.strided - k)};
}

template <typename T>
void weight_transform(const WinogradShape& s, const T* image, const T* strided, int64_t first,
                      int64_t tiles, int64_t begin, int64_t end, float* transformed) {
  const Grid<const T> pixels{image, 2 * s.rows, 2 * s.columns, s.image};
  const Grid<const T> gradient{strided, s.rows, s.columns, s.strided};
  const int64_t block = transformed_block(tiles), plane = block / kNines;
  const int64_t across = s.across(s.strided), last = std::min(end, begin + across);
  float* const spread_to = transformed + kPhases * s.across(s.image) * block;
  for (int64_t t = 0; t < tiles; ++t) {
    const Place p = place_of(s, first + t);
    const int64_t row = t * kOutputTile;
    const int64_t pixels_ahead = to_later(s, pixels, first + t);
    const int64_t gradient_ahead = to_later(s, gradient, first + t);
    for (int64_t i = begin / across; i < ceil_div(end, across); ++i) {
      const OutputTile q = output_tile_at(s, i * across);
      input(pixels, p.sample, 2 * p.row + q.phase / 2 - 1, 2 * p.column + q.phase % 2 - 1, 2, q.c,
            q.wide, pixels_ahead, transformed + i * block + row, plane);
    }
    for (int64_t i = begin; i < last; ++i) {
      const OutputTile q = output_tile_at(s, i);
      spread_tile(gradient, p, q.k, q.high, gradient_ahead, spread_to + i % across * block + row,
                  plane);
    }
  }
}

void weight_multiply(const WinogradShape& s, const float* transformed, int64_t tiles,
                     int64_t output_tile, bool add, float* sums) {
  const OutputTile q = output_tile_at(s, output_tile);
  const int64_t block = transformed_block(tiles), plane = block / kNines;
  const int64_t across = s.across(s.strided);
  const float* right = transformed + output_tile / across * block;
  const float* left = transformed + (kPhases * s.across(s.image) + output_tile % across) * block;
  for (int64_t n = 0; n < kNines; ++n, left += plane, right += plane, sums += kSumPlane) {
    for (int64_t t = 0; t < tiles; t += kDepth) {
      const int64_t terms = std::min(kDepth, tiles - t), first = t * kOutputTile;
      const auto& products =
          add || t ? kPanels<true, kOutputTile>.of : kPanels<false, kOutputTile>.of;
      // All three go on where they end, but for the last of an output tile.
      const int64_t next = first + terms * kOutputTile;
      const float* const ahead[] = {right + next, left + next, sums + kSumPlane};
      int64_t pass = 0;
      for (int64_t at = 0; at < q.wide; at += kPanel) {
        const int64_t vectors = std::min(kPanel, q.wide - at) / kWidth;
        in_pieces(q.high, max_rows(vectors), [&](int64_t row, int64_t count) {
          const int64_t line = pass++ * kLine;
          Panel o{{},
                  terms,
                  right + first + at,
                  ahead[line / kOutputTile % 3] + line % kOutputTile,
                  kOutputTile,
                  sums + row * kOutputTile + at,
                  kOutputTile};
          for (int64_t p = 0; p < count; ++p) o.a[p] = left + first + row + p;
          products[vectors - 1][count - 1](o);
        });
      }
    }
  }
}

template <typename T>
void weight_gather(const WinogradShape& s, const float* sums, int64_t output_tile, T* out) {
  const OutputTile q = output_tile_at(s, output_tile);
  for (int64_t i = 0; i < q.high; ++i) {
    for (int64_t at = 0; at < q.wide; at += kWidth) {
      Nine m;
      VecF g[2][2];
      load_nine(sums + i * kOutputTile + at, kSumPlane, m);
      gather(m, g);
      for (int y = 0; y < 2; ++y) {
        for (int x = 0; x < 2; ++x) {
          const int64_t tap = tap_of(q.phase, y, x);
          store(out + ((q.k + i) * kTaps + tap) * s.image + q.c + at, g[y][x]);
        }
      }
    }
  }
}

// ---- by dtype

void pack_any(const WinogradShape& s, bool transposed, const void* weight, const WinogradPart& part,
              float* packed) {
  with_type(s.dtype, [&](auto type) {
    transposed ? pack_transpose(s, as(type, weight), part, packed)
               : pack_conv(s, as(type, weight), part, packed);
  });
}

void conv_any(const WinogradShape& s, const void* image, const float* packed, const float* bias,
              const WinogradPart& part, void* strided, float* scratch) {
  with_type(s.dtype, [&](auto type) {
    conv(s, as(type, image), packed, bias, part, as(type, strided), scratch);
  });
}

void transpose_any(const WinogradShape& s, const void* strided, const float* packed,
                   const float* bias, const WinogradPart& part, void* image, float* scratch) {
  with_type(s.dtype, [&](auto type) {
    conv_transpose(s, as(type, strided), packed, bias, part, as(type, image), scratch);
  });
}

void weight_transform_any(const WinogradShape& s, const void* image, const void* strided,
                          int64_t first, int64_t tiles, int64_t begin, int64_t end,
                          float* transformed) {
  with_type(s.dtype, [&](auto type) {
    weight_transform(s, as(type, image), as(type, strided), first, tiles, begin, end, transformed);
  });
}

void weight_gather_any(const WinogradShape& s, const float* sums, int64_t output_tile, void* out) {
  with_type(s.dtype, [&](auto type) { weight_gather(s, sums, output_tile, as(type, out)); });
}

}  // namespace

extern const WinogradKernels FASTGAN_OF_ISA(kWinogradKernels);
const WinogradKernels FASTGAN_OF_ISA(kWinogradKernels) = {
    packed_floats, scratch_floats, transformed_floats,   sums_floats,     pack_any,
    conv_any,      transpose_any,  weight_transform_any, weight_multiply, weight_gather_any};

}  // namespace fastgan
