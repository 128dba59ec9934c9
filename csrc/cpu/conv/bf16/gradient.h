// The weight gradient of bfloat16's convolutions (cpu/conv/bf16/kernel.h): the channels of two samples become pairs
// once, for all the squares that a thread sums up from them. In an unnamed namespace, as cpu/simd/vec.h and for
// the same reason.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/conv/bf16/kernel.h"
#include "cpu/conv/bf16/product.h"

namespace fastgan {
namespace {

// What is multiplied at once: pairs of samples, at rows of the positions. By the kernel's rows of one
// parity these meet image rows as far apart as the stride; they are held with room for padding, and in a
// row those pixels lie side by side that are as far apart as the stride.
struct Chunk {
  int64_t taps, apart;    // rows of the kernel, at most; pixels side by side
  int64_t rows, samples;  // rows of the positions, pairs of samples

  explicit Chunk(const DotShape& s)
      : taps(ceil_div(s.kernel[0], s.stride[0])),
        apart(s.columns + ceil_div(s.kernel[1], s.stride[1]) - 1),
        rows(std::clamp<int64_t>(kPairs / width(s) + 1 - taps, 1, s.rows)),
        samples(1) {
    if (rows < s.rows) return;
    const int64_t all = ceil_div(s.batch, 2), most = std::clamp<int64_t>(kPairs / pixels(s), 1, all);
    samples = ceil_div(all, ceil_div(all, most));
  }

  int64_t width(const DotShape& s) const { return apart * s.stride[1]; }
  int64_t pixels(const DotShape& s) const { return samples * (rows + taps - 1) * width(s); }
  int64_t positions(const DotShape& s) const { return samples * rows * s.columns; }
  bool whole(const DotShape& s) const { return rows == s.rows && 2 * samples >= s.batch; }
  // Where pixel q of a row lies.
  int64_t place(const DotShape& s, int64_t q) const { return q % s.stride[1] * apart + q / s.stride[1]; }

 private:
  // Pixels of a panel: with what else a square needs they fill most of a second-level cache.
  static constexpr int64_t kPairs = 2048;
};

// `channels` channels of two samples as pairs, panels `apart`; the second sample may be missing.
FASTGAN_HD void pair_up(const BFloat16* low, const BFloat16* high, int64_t channels, int64_t apart,
                        uint32_t* to) {
  for (int64_t c = 0; c < channels; c += kWidth) {
    const VecU pairs = high ? interleave(low + c, high + c) : bits_as<VecU>(load(low + c)) >> 16;
    store_pairs(to + c / kPanel * apart + c % kPanel, pairs);
  }
}

// The squares [first, last) of those at the kernel's rows of one parity.
class DotGradient {
 public:
  DotGradient(const DotShape& shape, int64_t parity, int64_t first, int64_t last, float* scratch)
      : s(shape),
        parity(parity),
        first(first),
        last(last),
        chunk(shape),
        taps(ceil_div(std::max<int64_t>(0, s.kernel[0] - parity), s.stride[0])),
        image(of_image(s, first, last)),
        positions(of_positions(s, first, last)),
        pixels(reinterpret_cast<uint32_t*>(scratch)),
        gradient(pixels + image.count * chunk.pixels(s) * kPanel),
        sums(reinterpret_cast<float*>(gradient + positions.count * chunk.positions(s) * kPanel)),
        lists(reinterpret_cast<int32_t*>(sums + sums_of(s, last - first))) {}

  static int64_t scratch_floats(const DotShape& s, int64_t squares) {
    const Chunk chunk(s);
    const int64_t most = std::min(squares, s.across(s.image) * s.across(s.positions));
    return (s.across(s.image) * chunk.pixels(s) + s.across(s.positions) * chunk.positions(s)) * kPanel +
           sums_of(s, most) + chunk.taps * s.kernel[1] * list_size(chunk, s);
  }

  void run(const BFloat16* x, const BFloat16* g, void* out) const {
    const int64_t pairs = ceil_div(s.batch, 2);
    for (int64_t pair = 0; taps > 0 && pair < pairs; pair += chunk.samples) {
      for (int64_t row = 0; row < s.rows; row += chunk.rows) {
        const Part part{pair, std::min(chunk.samples, pairs - pair), row,
                        std::min(chunk.rows, s.rows - row)};
        if (pair == 0 || chunk.rows < s.rows || part.samples < chunk.samples) list_terms(part);
        for (int64_t n = 0; n < part.samples; ++n) {
          pair_image(part, n, x);
          pair_positions(part, n, g);
        }
        for (int64_t square = first; square < last; ++square) multiply(part, square, out);
      }
    }
  }

 private:
  struct Panels {
    int64_t first, count;
  };
  // Pairs of samples and rows of the positions.
  struct Part {
    int64_t pair, samples, row, rows;
  };

  // Squares go through the image's panels first.
  static Panels of_positions(const DotShape& s, int64_t first, int64_t last) {
    const int64_t across = s.across(s.image);
    return {first / across, (last - 1) / across + 1 - first / across};
  }
  static Panels of_image(const DotShape& s, int64_t first, int64_t last) {
    const int64_t across = s.across(s.image);
    if (of_positions(s, first, last).count > 1) return {0, across};
    return {first % across, last - first};
  }
  // With all samples at once no sum waits for more.
  static int64_t sums_of(const DotShape& s, int64_t squares) {
    const Chunk chunk(s);
    return (chunk.whole(s) ? 1 : squares * chunk.taps * s.kernel[1]) * kPanel * kPanel;
  }

  // Of a tap: how many terms it has, where their positions lie, and where their pixels.
  static int64_t list_size(const Chunk& chunk, const DotShape& s) { return 1 + 2 * chunk.positions(s); }
  int32_t* list(int64_t i, int64_t j) const {
    return lists + (i * s.kernel[1] + j) * list_size(chunk, s);
  }

  // Those of the positions [begin, end) that meet one of `size` pixels at a tap.
  struct Range {
    int64_t begin, end;

    Range(int64_t begin, int64_t end, int64_t stride, int64_t padding, int64_t tap, int64_t size)
        : begin(std::clamp(ceil_div(padding - tap, stride), begin, end)),
          end(std::clamp(ceil_div(size + padding - tap, stride), begin, end)) {}
  };

  void list_terms(const Part& part) const {
    const int64_t held = part.rows + taps - 1;
    for (int64_t i = 0; i < taps; ++i) {
      const Range rows(part.row, part.row + part.rows, s.stride[0], s.padding[0],
                       parity + i * s.stride[0], s.height);
      for (int64_t j = 0; j < s.kernel[1]; ++j) {
        const Range columns(0, s.columns, s.stride[1], s.padding[1], j, s.width);
        int32_t *const count = list(i, j), *a_at = count + 1, *b_at = a_at + chunk.positions(s);
        for (int64_t n = 0; n < part.samples; ++n) {
          for (int64_t row = rows.begin; row < rows.end; ++row) {
            const int64_t position = (n * part.rows + row - part.row) * s.columns;
            const int64_t pixel = (n * held + row - part.row) * chunk.width(s);
            for (int64_t q = columns.begin; q < columns.end; ++q) {
              *a_at++ = static_cast<int32_t>((position + q) * kPanel);
              *b_at++ = static_cast<int32_t>((pixel + q) * kPanel);
            }
          }
        }
        *count = static_cast<int32_t>(a_at - count - 1);
      }
    }
  }

  void pair_image(const Part& part, int64_t n, const BFloat16* x) const {
    const int64_t one = 2 * (part.pair + n), sample = s.height * s.width * s.image;
    const int64_t begin = image.first * kPanel, apart = chunk.pixels(s) * kPanel;
    const int64_t channels = std::min(image.count * kPanel, s.image - begin);
    const int64_t held = part.rows + taps - 1;
    for (int64_t r = 0; r < held; ++r) {
      const int64_t y = (part.row + r) * s.stride[0] + parity - s.padding[0];
      if (y < 0 || y >= s.height) continue;
      uint32_t* const line = pixels + (n * held + r) * chunk.width(s) * kPanel;
      for (int64_t q = 0; q < chunk.width(s); ++q) {
        const int64_t at = q - s.padding[1];
        if (at < 0 || at >= s.width) continue;
        const BFloat16* const low = x + one * sample + (y * s.width + at) * s.image + begin;
        pair_up(low, one + 1 < s.batch ? low + sample : nullptr, channels, apart,
                line + chunk.place(s, q) * kPanel);
      }
    }
  }

  void pair_positions(const Part& part, int64_t n, const BFloat16* g) const {
    const int64_t one = 2 * (part.pair + n), sample = s.rows * s.columns * s.positions;
    const int64_t begin = positions.first * kPanel, apart = chunk.positions(s) * kPanel;
    const int64_t channels = std::min(positions.count * kPanel, s.positions - begin);
    const int64_t count = part.rows * s.columns;
    for (int64_t p = 0; p < count; ++p) {
      const BFloat16* const low = g + one * sample + (part.row * s.columns + p) * s.positions + begin;
      pair_up(low, one + 1 < s.batch ? low + sample : nullptr, channels, apart,
              gradient + (n * count + p) * kPanel);
    }
  }

  // Adds to a square's sums, at last to `out`.
  void multiply(const Part& part, int64_t square, void* out) const {
    const int64_t of_image = square % s.across(s.image), of_positions = square / s.across(s.image);
    const int64_t c = of_image * kPanel, k = of_positions * kPanel;
    const int64_t wide = std::min(kPanel, s.image - c), high = std::min(kPanel, s.positions - k);
    const uint32_t* const a = gradient + (of_positions - positions.first) * chunk.positions(s) * kPanel;
    const uint32_t* const b = pixels + (of_image - image.first) * chunk.pixels(s) * kPanel;
    const auto& dots = part.pair + part.row > 0 ? kDots<true>.of : kDots<false>.of;
    const bool done = 2 * (part.pair + part.samples) >= s.batch && part.row + part.rows == s.rows;
    const bool direct = done && s.weight == Dtype::kFloat32;
    const int64_t apart = s.taps() * s.image;  // gradients of two positions' channels
    for (int64_t i = 0; i < taps; ++i) {
      for (int64_t j = 0; j < s.kernel[1]; ++j) {
        const int64_t tap = (parity + i * s.stride[0]) * s.kernel[1] + j, at = k * apart + tap * s.image + c;
        const uint32_t* const from = b + (i * chunk.width(s) + chunk.place(s, j)) * kPanel;
        const int32_t *const terms = list(i, j), *const a_at = terms + 1;
        const int64_t own = ((square - first) * chunk.taps + i) * s.kernel[1] + j;
        float* const sum = sums + (chunk.whole(s) ? 0 : own * kPanel * kPanel);
        float* const to = direct ? static_cast<float*>(out) + at : sum;
        const int64_t ld = direct ? apart : kPanel;
        tiles(wide, high, [&](int64_t column, int64_t vectors, int64_t row, int64_t rows) {
          dots[vectors - 1][rows - 1]({a + row, a_at, a_at + chunk.positions(s), *terms, from + column,
                                       sum + row * kPanel + column, to + row * ld + column, ld});
        });
        if (done && !direct) round_sums(sum, wide, high, apart, static_cast<BFloat16*>(out) + at);
      }
    }
  }

  static void round_sums(const float* sum, int64_t wide, int64_t high, int64_t apart, BFloat16* to) {
    for (int64_t row = 0; row < high; ++row, sum += kPanel, to += apart) {
      for (int64_t c = 0; c < wide; c += kWidth) store(to + c, load(sum + c));
    }
  }

  const DotShape& s;
  const int64_t parity, first, last;
  const Chunk chunk;
  const int64_t taps;  // rows of the kernel, of this parity
  const Panels image, positions;
  uint32_t *const pixels, *const gradient;  // pairs, by panels
  float* const sums;                        // by squares
  int32_t* const lists;                     // of terms, by taps
};

}  // namespace
}  // namespace fastgan
