// The loops of bfloat16's convolutions (dot_conv.h). Compiled once for each instruction set.
#include <algorithm>
#include <cstdint>

#include "conv_product.h"
#include "dot_conv.h"
#include "isa.h"

namespace fastgan {
namespace {

constexpr int64_t kPanel = kDotPanel;
constexpr int64_t kChunkPairs = 1 << 16;  // of the image in the weight gradient: half a second-level cache
constexpr int64_t kSums = kPanel * kPanel;

// ---- products

FASTGAN_HD VecF add_dot(VecF sum, VecU a, VecU b) {
#if defined(__AVX512BF16__)
  return bits_as<VecF>(_mm512_dpbf16_ps(bits_as<__m512>(sum), bits_as<__m512bh>(a), bits_as<__m512bh>(b)));
#else
  sum += bits_as<VecF>(a << 16) * bits_as<VecF>(b << 16);
  return sum + bits_as<VecF>(a & 0xffff0000u) * bits_as<VecF>(b & 0xffff0000u);
#endif
}

FASTGAN_HD VecU load_pairs(const uint32_t* p) {
  VecU v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FASTGAN_HD void store_pairs(uint32_t* p, VecU v) { std::memcpy(p, &v, sizeof v); }

// Two vectors of bfloat16 as pairs.
FASTGAN_HD VecU interleave(const BFloat16* low, const BFloat16* high) {
  return bits_as<VecU>(load(low)) >> 16 | bits_as<VecU>(load(high));
}

// c[p][v] += the sum over t < n of a[p][a_at[t]] . b[b_at[t] + v], all pairs.
struct Dot {
  const uint32_t* a[kMostRows];
  const int32_t *a_at, *b_at;
  int64_t n;
  const uint32_t* b;
  float* c;
  int64_t ldc;
};

struct DotTile {
  template <int P, int V>
  static void run(const Dot& o) {
    const uint32_t* a[P];
    VecF sum[P][V];
    FASTGAN_UNROLL
    for (int p = 0; p < P; ++p) {
      a[p] = o.a[p];
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) sum[p][v] = load(o.c + p * o.ldc + v * kWidth);
    }
    for (int64_t t = 0; t < o.n; ++t) {
      const uint32_t* const b = o.b + o.b_at[t];
      const int64_t at = o.a_at[t];
      VecU right[V];
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) right[v] = load_pairs(b + v * kWidth);
      FASTGAN_UNROLL
      for (int p = 0; p < P; ++p) {
        const VecU left = VecU{} + a[p][at];
        FASTGAN_UNROLL
        for (int v = 0; v < V; ++v) sum[p][v] = add_dot(sum[p][v], left, right[v]);
      }
    }
    FASTGAN_UNROLL
    for (int p = 0; p < P; ++p) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) store(o.c + p * o.ldc + v * kWidth, sum[p][v]);
    }
  }
};

constexpr RegisterTiles<Dot, DotTile> kDots{};

// Products of all columns of a panel, as many vectors at a time as there are registers.
template <typename Rows>
void multiply(Dot o, int64_t columns, int64_t rows, const uint32_t* b, float* c, const Rows& set_row) {
  for (int64_t column = 0; column < columns; column += kMostVectors * kWidth) {
    const int64_t vectors = std::min(kMostVectors, (columns - column) / kWidth);
    o.b = b + column;
    in_pieces(rows, most_rows(vectors), [&](int64_t row, int64_t count) {
      for (int64_t p = 0; p < count; ++p) o.a[p] = set_row(row + p);
      o.c = c + row * kPanel + column;
      kDots.of[vectors - 1][count - 1](o);
    });
  }
}

constexpr auto kPanelSteps = steps<kPanel>();

// ---- weights

// A convolution sums over the image's channels, its transpose over the positions'.
struct Sides {
  int64_t depth, columns;  // channels summed over, and of the output

  Sides(const DotShape& s, bool transposed)
      : depth(transposed ? s.positions : s.image), columns(transposed ? s.image : s.positions) {}
  int64_t pairs() const { return depth / 2; }
};

int64_t packed_pairs(const DotShape& s, bool transposed) {
  const Sides of(s, transposed);
  return s.across(of.columns) * kPanel * s.taps() * of.pairs();
}

// [panel][tap][pair][column].
void pack(const DotShape& s, bool transposed, const void* weight, int64_t first, int64_t last,
          uint32_t* packed) {
  const Sides of(s, transposed);
  const BFloat16* const w = static_cast<const BFloat16*>(weight);
  const auto at = [&](int64_t k, int64_t tap, int64_t c) { return w + (k * s.taps() + tap) * s.image + c; };
  for (int64_t panel = first; panel < last; ++panel) {
    const int64_t begin = panel * kPanel, count = std::min(kPanel, of.columns - begin);
    for (int64_t tap = 0; tap < s.taps(); ++tap) {
      uint32_t* const to = packed + (panel * s.taps() + tap) * of.pairs() * kPanel;
      if (transposed) {
        for (int64_t k = 0; k < of.depth; k += 2) {
          for (int64_t c = 0; c < count; c += kWidth) {
            store_pairs(to + k / 2 * kPanel + c,
                        interleave(at(k, tap, begin + c), at(k + 1, tap, begin + c)));
          }
        }
        continue;
      }
      for (int64_t k = 0; k < count; ++k) {
        uint32_t row[kDotChannels / 2];
        for (int64_t c = 0; c < of.depth; c += kDotChannels) {
          std::memcpy(row, at(begin + k, tap, c), sizeof row);
          for (int64_t i = 0; i < kDotChannels / 2; ++i) to[(c / 2 + i) * kPanel + k] = row[i];
        }
      }
    }
  }
}

// ---- a convolution and its transpose

// The taps of a phase in one direction, and the outputs it has.
struct Axis {
  int64_t first, step, taps;  // of the kernel
  int64_t start, pace;        // output o meets o * pace + start of the source at the first tap,
  int64_t down;               // and `down` less or more at each further one
  int64_t outputs, offset, stride;  // output o is o * stride + offset of the target

  Axis(const DotShape& s, bool transposed, int64_t d, int64_t phase) {
    const int64_t kernel = s.kernel[d], by = s.stride[d], padding = s.padding[d];
    if (!transposed) {
      *this = {0, 1, kernel, -padding, by, 1, d ? s.columns : s.rows, 0, 1};
      return;
    }
    const int64_t size = d ? s.width : s.height, tap = (phase + padding) % by;
    const int64_t taps_here = tap < kernel ? ceil_div(kernel - tap, by) : 0;
    *this = {tap, by, taps_here, (phase + padding) / by, 1, -1, ceil_div(size - phase, by), phase, by};
    outputs = std::max<int64_t>(0, outputs);
  }

 private:
  Axis(int64_t first, int64_t step, int64_t taps, int64_t start, int64_t pace, int64_t down,
       int64_t outputs, int64_t offset, int64_t stride)
      : first(first), step(step), taps(taps), start(start), pace(pace), down(down),
        outputs(outputs), offset(offset), stride(stride) {}
};

DotPhase phase_of(const DotShape& s, bool transposed, int64_t phase) {
  return {Axis(s, transposed, 0, phase / s.stride[1]).outputs,
          Axis(s, transposed, 1, phase % s.stride[1]).outputs};
}

int64_t scratch_floats(const DotShape& s, bool transposed, int64_t outputs) {
  // Sums of a panel, a source position of zeros, and a pointer for each output.
  return outputs * (kPanel + 2) + Sides(s, transposed).pairs() + 16;
}

void conv(const DotShape& s, bool transposed, const void* source, const uint32_t* packed,
          int64_t phase, int64_t first, int64_t last, void* target, float* scratch) {
  const Sides of(s, transposed);
  const Axis down(s, transposed, 0, phase / s.stride[1]), along(s, transposed, 1, phase % s.stride[1]);
  const int64_t in_rows = transposed ? s.rows : s.height, in_columns = transposed ? s.columns : s.width;
  const int64_t out_rows = transposed ? s.height : s.rows, out_columns = transposed ? s.width : s.columns;
  const int64_t outputs = last - first, grid = down.outputs * along.outputs;
  const auto** const rows = reinterpret_cast<const uint32_t**>(scratch);
  float* const sums = scratch + (outputs * 2 + 15) / 16 * 16;
  uint32_t* const nothing = reinterpret_cast<uint32_t*>(sums + outputs * kPanel);
  std::fill(nothing, nothing + of.pairs(), 0u);
  const uint32_t* const from = static_cast<const uint32_t*>(source);
  BFloat16* const to = static_cast<BFloat16*>(target);
  for (int64_t panel = 0; panel < s.across(of.columns); ++panel) {
    const int64_t columns = std::min(kPanel, of.columns - panel * kPanel);
    std::fill(sums, sums + outputs * kPanel, 0.0f);
    for (int64_t i = 0; i < down.taps; ++i) {
      for (int64_t j = 0; j < along.taps; ++j) {
        for (int64_t o = 0; o < outputs; ++o) {
          const int64_t n = (first + o) / grid, at = (first + o) % grid;
          const int64_t r = at / along.outputs * down.pace + down.start + i * down.down;
          const int64_t q = at % along.outputs * along.pace + along.start + j * along.down;
          const bool inside = r >= 0 && r < in_rows && q >= 0 && q < in_columns;
          rows[o] = inside ? from + ((n * in_rows + r) * in_columns + q) * of.pairs() : nothing;
        }
        const int64_t tap = (down.first + i * down.step) * s.kernel[1] + along.first + j * along.step;
        const uint32_t* const b = packed + (panel * s.taps() + tap) * of.pairs() * kPanel;
        for (int64_t k = 0; k < of.pairs(); k += kDepth) {
          Dot d{{}, kUnitSteps.data(), kPanelSteps.data(), std::min(kDepth, of.pairs() - k), nullptr,
                nullptr, kPanel};
          multiply(d, columns, outputs, b + k * kPanel, sums, [&](int64_t row) { return rows[row] + k; });
        }
      }
    }
    for (int64_t o = 0; o < outputs; ++o) {
      const int64_t n = (first + o) / grid, at = (first + o) % grid;
      const int64_t r = at / along.outputs * down.stride + down.offset;
      const int64_t q = at % along.outputs * along.stride + along.offset;
      BFloat16* const out = to + ((n * out_rows + r) * out_columns + q) * of.columns + panel * kPanel;
      for (int64_t c = 0; c < columns; c += kWidth) store(out + c, load(sums + o * kPanel + c));
    }
  }
}

// ---- the weight gradient

// What of two samples the rows [first, first + rows) of the positions meet, by the kernel's rows of
// one parity: image rows as far apart as the stride, padded with zeros.
struct Chunk {
  int64_t taps, width;  // rows of the kernel; pixels of a row

  Chunk(const DotShape& s, int64_t parity)
      : taps(ceil_div(s.kernel[0] - parity, s.stride[0])),
        width((s.columns - 1) * s.stride[1] + s.kernel[1]) {}

  int64_t pairs(int64_t rows) const { return (rows + taps - 1) * width * kPanel; }
};

// Rows of the positions at once, and the pairs of samples.
struct Chunks {
  int64_t rows, samples;

  explicit Chunks(const DotShape& s) : rows(s.rows), samples(1) {
    const Chunk most(s, 0);
    const int64_t room = std::max<int64_t>(1, kChunkPairs / (most.width * kPanel) - most.taps + 1);
    rows = std::min(rows, room);
    if (rows == s.rows) {
      samples = std::clamp<int64_t>(kChunkPairs / most.pairs(rows), 1, ceil_div(s.batch, 2));
    }
  }
};

int64_t weight_scratch_floats(const DotShape& s) {
  const Chunks by(s);
  const Chunk most(s, 0);
  const int64_t positions = by.samples * by.rows * s.columns;
  return by.samples * most.pairs(by.rows) + positions * (kPanel + 2) + kPanel +
         most.taps * s.kernel[1] * kSums + 64;
}

// `count` channels of two samples as pairs; the second sample may be missing.
FASTGAN_HD void pair_up(const BFloat16* low, const BFloat16* high, int64_t count, uint32_t* to) {
  for (int64_t c = 0; c < count; c += kWidth) {
    store_pairs(to + c, high ? interleave(low + c, high + c) : bits_as<VecU>(load(low + c)) >> 16);
  }
}

void weight(const DotShape& s, const void* image, const void* positions, int64_t square, void* out,
            float* scratch) {
  const int64_t parity = square % s.stride[0], rest = square / s.stride[0];
  const int64_t c = rest % s.across(s.image) * kPanel, k = rest / s.across(s.image) * kPanel;
  const int64_t wide = std::min(kPanel, s.image - c), high = std::min(kPanel, s.positions - k);
  const Chunks by(s);
  const Chunk chunk(s, parity);
  if (chunk.taps < 1) return;
  const int64_t most = by.samples * by.rows * s.columns;
  uint32_t* const pixels = reinterpret_cast<uint32_t*>(scratch);
  uint32_t* const gradient = pixels + by.samples * Chunk(s, 0).pairs(by.rows);
  int32_t* const a_at = reinterpret_cast<int32_t*>(gradient + most * kPanel);
  int32_t* const b_at = a_at + most;
  float* const sums = reinterpret_cast<float*>(b_at + most + (-2 * most & 15));
  std::fill(sums, sums + chunk.taps * s.kernel[1] * kSums, 0.0f);
  const BFloat16* const x = static_cast<const BFloat16*>(image);
  const BFloat16* const g = static_cast<const BFloat16*>(positions);
  const int64_t pairs = ceil_div(s.batch, 2);
  for (int64_t pair = 0; pair < pairs; pair += by.samples) {
    const int64_t samples = std::min(by.samples, pairs - pair);
    for (int64_t first = 0; first < s.rows; first += by.rows) {
      const int64_t rows = std::min(by.rows, s.rows - first), held = rows + chunk.taps - 1;
      for (int64_t n = 0; n < samples; ++n) {
        const int64_t one = 2 * (pair + n), other = one + 1 < s.batch ? s.height * s.width * s.image : 0;
        for (int64_t r = 0; r < held; ++r) {
          uint32_t* to = pixels + (n * held + r) * chunk.width * kPanel;
          const int64_t y = (first + r) * s.stride[0] + parity - s.padding[0];
          for (int64_t q = 0; q < chunk.width; ++q, to += kPanel) {
            const int64_t at = q - s.padding[1];
            if (y < 0 || y >= s.height || at < 0 || at >= s.width) {
              std::fill(to, to + wide, 0u);
              continue;
            }
            const BFloat16* const low = x + ((one * s.height + y) * s.width + at) * s.image + c;
            pair_up(low, other ? low + other : nullptr, wide, to);
          }
        }
        const int64_t next = one + 1 < s.batch ? s.rows * s.columns * s.positions : 0;
        for (int64_t p = 0; p < rows * s.columns; ++p) {
          const BFloat16* const low = g + ((one * s.rows + first) * s.columns + p) * s.positions + k;
          const int64_t t = n * rows * s.columns + p;
          pair_up(low, next ? low + next : nullptr, high, gradient + t * kPanel);
          a_at[t] = static_cast<int32_t>(t * kPanel);
          b_at[t] = static_cast<int32_t>(
              ((n * held + p / s.columns) * chunk.width + p % s.columns * s.stride[1]) * kPanel);
        }
      }
      const int64_t all = samples * rows * s.columns;
      for (int64_t t = 0; t < all; t += kDepth) {
        for (int64_t i = 0; i < chunk.taps; ++i) {
          for (int64_t j = 0; j < s.kernel[1]; ++j) {
            Dot d{{}, a_at + t, b_at + t, std::min(kDepth, all - t), nullptr, nullptr, kPanel};
            multiply(d, wide, high, pixels + (i * chunk.width + j) * kPanel,
                     sums + (i * s.kernel[1] + j) * kSums, [&](int64_t row) { return gradient + row; });
          }
        }
      }
    }
  }
  BFloat16* const to = static_cast<BFloat16*>(out);
  for (int64_t row = 0; row < high; ++row) {
    for (int64_t i = 0; i < chunk.taps; ++i) {
      for (int64_t j = 0; j < s.kernel[1]; ++j) {
        const int64_t tap = (parity + i * s.stride[0]) * s.kernel[1] + j;
        const float* const from = sums + (i * s.kernel[1] + j) * kSums + row * kPanel;
        for (int64_t v = 0; v < wide; v += kWidth) {
          store(to + ((k + row) * s.taps() + tap) * s.image + c + v, load(from + v));
        }
      }
    }
  }
}

}  // namespace

extern const DotLoops FASTGAN_OF_ISA(kDotLoops);
const DotLoops FASTGAN_OF_ISA(kDotLoops) = {packed_pairs, pack, phase_of, scratch_floats, conv,
                                            weight_scratch_floats, weight};

}  // namespace fastgan
