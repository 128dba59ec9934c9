// The weight gradient of bfloat16's convolutions (cpu/conv/bf16/kernel.h): the channels of two
// samples become pairs once, for all the output tiles that a thread sums up from them. In an
// unnamed namespace, as cpu/simd/vec.h and for the same reason.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/conv/bf16/amx.h"
#include "cpu/conv/bf16/kernel.h"
#include "cpu/conv/bf16/product.h"

namespace fastgan {
namespace {

// What is multiplied at once: pairs of samples, at rows of the strided map. By the kernel's rows of
// one parity these meet image rows as far apart as the stride; they are held with room for padding,
// and in a row those pixels lie side by side that are as far apart as the stride.
struct Chunk {
  int64_t taps, pitch;    // rows of the kernel, at most; pixels side by side
  int64_t rows, samples;  // rows of the strided map, pairs of samples

  explicit Chunk(const Bf16Shape& s)
      : taps(ceil_div(s.kernel[0], s.stride[0])),
        pitch(s.columns + ceil_div(s.kernel[1], s.stride[1]) - 1),
        rows(std::clamp<int64_t>(kPairs / width(s) + 1 - taps, 1, s.rows)),
        samples(1) {
    if (rows < s.rows) return;
    const int64_t all = ceil_div(s.batch, 2), most = std::clamp<int64_t>(kPairs / pixels(s), 1, all);
    samples = ceil_div(all, ceil_div(all, most));
  }

  int64_t width(const Bf16Shape& s) const { return pitch * s.stride[1]; }
  int64_t pixels(const Bf16Shape& s) const { return samples * (rows + taps - 1) * width(s); }
  int64_t strided(const Bf16Shape& s) const { return samples * rows * s.columns; }
  bool whole(const Bf16Shape& s) const { return rows == s.rows && 2 * samples >= s.batch; }
  // Where pixel q of a row lies.
  int64_t place(const Bf16Shape& s, int64_t q) const {
    return q % s.stride[1] * pitch + q / s.stride[1];
  }

 private:
  // Pixels of a panel: with what else an output tile needs they fill most of a second-level cache.
  static constexpr int64_t kPairs = 2048;
};

FASTGAN_HD VecU paired(const BFloat16* low, const BFloat16* high) {
  return high ? interleave(low, high) : bits_as<VecU>(load(low)) >> 16;
}

// `channels` channels of two samples as pairs, panels `pitch` apart; the second sample may be
// missing.
FASTGAN_HD void pair_up(const BFloat16* low, const BFloat16* high, int64_t channels, int64_t pitch,
                        uint32_t* to) {
  for (int64_t c = 0; c < channels; c += kWidth) {
    store_pairs(to + c / kPanel * pitch + c % kPanel, paired(low + c, high ? high + c : nullptr));
  }
}

// The output tiles [first, last) of those at the kernel's rows of one parity.
//
// Amx: by tiles of 16 terms, of which every tap has all, with zeros for pixels beyond the image.
template <bool Amx>
class Bf16Gradient {
 public:
  Bf16Gradient(const Bf16Shape& shape, int64_t parity, int64_t first, int64_t last, float* scratch)
      : s(shape),
        parity(parity),
        first(first),
        last(last),
        chunk(shape),
        taps(ceil_div(std::max<int64_t>(0, s.kernel[0] - parity), s.stride[0])),
        image(of_image(s, first, last)),
        strided(of_strided(s, first, last)),
        pixels(reinterpret_cast<uint32_t*>(scratch)),
        gradient(pixels + image.count * chunk.pixels(s) * kPanel),
        sums(reinterpret_cast<float*>(gradient + strided.count * terms(chunk, s) * kPanel)),
        lists(reinterpret_cast<int32_t*>(sums + sums_of(s, last - first))),
        met(lists, terms(chunk, s)) {}

  static int64_t scratch_floats(const Bf16Shape& s, int64_t output_tiles) {
    const Chunk chunk(s);
    const int64_t most = std::min(output_tiles, s.across(s.image) * s.across(s.strided));
    return (s.across(s.image) * chunk.pixels(s) + s.across(s.strided) * terms(chunk, s)) * kPanel +
           sums_of(s, most) + lists_size(chunk, s);
  }

  void run(const BFloat16* x, const BFloat16* g, void* out) {
    const int64_t pairs = ceil_div(s.batch, 2);
    for (int64_t pair = 0; taps > 0 && pair < pairs; pair += chunk.samples) {
      for (int64_t row = 0; row < s.rows; row += chunk.rows) {
        const Part part{pair, std::min(chunk.samples, pairs - pair), row,
                        std::min(chunk.rows, s.rows - row)};
        if (pair == 0 || chunk.rows < s.rows || part.samples < chunk.samples) list_terms(part);
        for (int64_t n = 0; n < part.samples; ++n) {
          pair_image(part, n, x);
          if (!Amx) pair_strided(part, n, g);
        }
        if (Amx) tile_strided(part, g);
        multiply_all(part, out);
      }
    }
  }

 private:
  struct Panels {
    int64_t first, count;
  };
  // Pairs of samples and rows of the strided map.
  struct Part {
    int64_t pair, samples, row, rows;
  };

  // Output tiles go through the image's panels first.
  static Panels of_strided(const Bf16Shape& s, int64_t first, int64_t last) {
    const int64_t across = s.across(s.image);
    return {first / across, (last - 1) / across + 1 - first / across};
  }
  static Panels of_image(const Bf16Shape& s, int64_t first, int64_t last) {
    const int64_t across = s.across(s.image);
    if (of_strided(s, first, last).count > 1) return {0, across};
    return {first % across, last - first};
  }
  // With all samples at once no sum waits for more.
  static int64_t sums_of(const Bf16Shape& s, int64_t output_tiles) {
    const Chunk chunk(s);
    return (chunk.whole(s) ? 1 : output_tiles * chunk.taps * s.kernel[1]) * kPanel * kPanel;
  }

  // Places for terms, of which there are whole tiles with AMX.
  static int64_t terms(const Chunk& chunk, const Bf16Shape& s) {
    return Amx ? ceil_div(chunk.strided(s), kWidth) * kWidth : chunk.strided(s);
  }

  // For AMX the pixels of all terms at the first tap; else a list for each tap.
  static int64_t lists_size(const Chunk& chunk, const Bf16Shape& s) {
    if constexpr (Amx) return PixelTiles<Amx>::size(terms(chunk, s));
    return chunk.taps * s.kernel[1] * list_size(chunk, s);
  }
  // Of a tap: how many terms it has, where they lie in the strided map, and where their pixels.
  static int64_t list_size(const Chunk& chunk, const Bf16Shape& s) {
    return 1 + 2 * chunk.strided(s);
  }
  int32_t* list(int64_t i, int64_t j) const {
    return lists + (i * s.kernel[1] + j) * list_size(chunk, s);
  }

  // Those of the strided map [begin, end) that meet one of `size` pixels at a tap.
  struct Range {
    int64_t begin, end;

    Range(int64_t begin, int64_t end, int64_t stride, int64_t padding, int64_t tap, int64_t size)
        : begin(std::clamp(ceil_div(padding - tap, stride), begin, end)),
          end(std::clamp(ceil_div(size + padding - tap, stride), begin, end)) {}
  };

  void list_terms(const Part& part) const {
    const int64_t held = part.rows + taps - 1;
    if (Amx) {
      int32_t* pixel = lists;
      for (int64_t line = 0; line < part.samples * part.rows; ++line) {
        const int64_t at = (line / part.rows * held + line % part.rows) * chunk.width(s);
        for (int64_t q = 0; q < s.columns; ++q) *pixel++ = static_cast<int32_t>((at + q) * kPanel);
      }
      return;
    }
    for (int64_t i = 0; i < taps; ++i) {
      const Range rows(part.row, part.row + part.rows, s.stride[0], s.padding[0],
                       parity + i * s.stride[0], s.height);
      for (int64_t j = 0; j < s.kernel[1]; ++j) {
        const Range columns(0, s.columns, s.stride[1], s.padding[1], j, s.width);
        int32_t *const count = list(i, j), *a_at = count + 1, *b_at = a_at + chunk.strided(s);
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
    const int64_t begin = image.first * kPanel, pitch = chunk.pixels(s) * kPanel;
    const int64_t channels = std::min(image.count * kPanel, s.image - begin);
    const int64_t held = part.rows + taps - 1;
    for (int64_t r = 0; r < held; ++r) {
      const int64_t y = (part.row + r) * s.stride[0] + parity - s.padding[0];
      const bool beyond = y < 0 || y >= s.height;
      if (beyond && !Amx) continue;
      uint32_t* const line = pixels + (n * held + r) * chunk.width(s) * kPanel;
      for (int64_t q = 0; q < chunk.width(s); ++q) {
        const int64_t at = q - s.padding[1];
        if (beyond || at < 0 || at >= s.width) {
          if (Amx) clear(line + chunk.place(s, q) * kPanel);
          continue;
        }
        const BFloat16* const low = x + one * sample + (y * s.width + at) * s.image + begin;
        pair_up(low, one + 1 < s.batch ? low + sample : nullptr, channels, pitch,
                line + chunk.place(s, q) * kPanel);
      }
    }
  }

  // A pixel of every panel.
  void clear(uint32_t* pixel) const {
    for (int64_t panel = 0; panel < image.count; ++panel, pixel += chunk.pixels(s) * kPanel) {
      std::fill_n(pixel, kPanel, 0u);
    }
  }

  void pair_strided(const Part& part, int64_t n, const BFloat16* g) const {
    const int64_t one = 2 * (part.pair + n), sample = s.rows * s.columns * s.strided;
    const int64_t begin = strided.first * kPanel, pitch = chunk.strided(s) * kPanel;
    const int64_t channels = std::min(strided.count * kPanel, s.strided - begin);
    const int64_t count = part.rows * s.columns;
    for (int64_t p = 0; p < count; ++p) {
      const BFloat16* const low = g + one * sample + (part.row * s.columns + p) * s.strided + begin;
      pair_up(low, one + 1 < s.batch ? low + sample : nullptr, channels, pitch,
              gradient + (n * count + p) * kPanel);
    }
  }

  // Pairs as tiles whose rows are channels: [panel][tile of channels][tile of terms].
  void tile_strided(const Part& part, const BFloat16* g) const {
    const int64_t sample = s.rows * s.columns * s.strided, each = part.rows * s.columns;
    const int64_t begin = strided.first * kPanel, count = part.samples * each;
    const int64_t channels = std::min(strided.count * kPanel, s.strided - begin);
    const int64_t of_channels = ceil_div(count, kWidth) * kWidth * kWidth;
    for (int64_t term = 0; term < count; term += kWidth) {
      for (int64_t c = 0; c < channels; c += kWidth) {
        VecF v[kWidth];
        for (int64_t i = 0; i < kWidth; ++i) {
          const int64_t one = 2 * (part.pair + (term + i) / each), p = (term + i) % each;
          const BFloat16* const low =
              g + one * sample + (part.row * s.columns + p) * s.strided + begin + c;
          v[i] = term + i < count
                     ? bits_as<VecF>(paired(low, one + 1 < s.batch ? low + sample : nullptr))
                     : VecF{};
        }
        transpose(v);
        uint32_t* const to = gradient + c / kPanel * terms(chunk, s) * kPanel +
                             c % kPanel / kWidth * of_channels + term * kWidth;
        for (int64_t i = 0; i < kWidth; ++i) store_pairs(to + i * kWidth, bits_as<VecU>(v[i]));
      }
    }
  }

  template <typename Function>
  void for_taps(const Function& function) const {
    for (int64_t i = 0; i < taps; ++i) {
      for (int64_t j = 0; j < s.kernel[1]; ++j) function(i, j);
    }
  }

  void multiply_all(const Part& part, void* out) {
    if constexpr (Amx) {  // a tap's pixels as tiles once, for all channels of the strided map
      const int64_t across = s.across(s.image);
      for (int64_t panel = image.first; panel < image.first + image.count; ++panel) {
        const int64_t wide = std::min(kPanel, s.image - panel * kPanel);
        for_taps([&](int64_t i, int64_t j) {
          met.find(from(panel, i, j), part.samples * part.rows * s.columns,
                   s.columns % kWidth == 0, wide);
          for (int64_t tile = first + ((panel - first) % across + across) % across; tile < last;
               tile += across) {
            multiply(part, tile, i, j, out);
          }
        });
      }
    } else {
      for (int64_t tile = first; tile < last; ++tile) {
        for_taps([&](int64_t i, int64_t j) { multiply(part, tile, i, j, out); });
      }
    }
  }

  // The pixels that a tap meets, of a panel.
  const uint32_t* from(int64_t panel, int64_t i, int64_t j) const {
    const uint32_t* const b = pixels + (panel - image.first) * chunk.pixels(s) * kPanel;
    return b + (i * chunk.width(s) + chunk.place(s, j)) * kPanel;
  }

  // Adds a tap's products to an output tile's sums, at last to `out`.
  void multiply(const Part& part, int64_t output_tile, int64_t i, int64_t j, void* out) const {
    const int64_t of_image = output_tile % s.across(s.image),
                  of_strided = output_tile / s.across(s.image);
    const int64_t c = of_image * kPanel, k = of_strided * kPanel;
    const int64_t wide = std::min(kPanel, s.image - c), high = std::min(kPanel, s.strided - k);
    const uint32_t* const a = gradient + (of_strided - strided.first) * terms(chunk, s) * kPanel;
    const bool done = 2 * (part.pair + part.samples) >= s.batch && part.row + part.rows == s.rows;
    const bool direct = done && s.weight == Dtype::kFloat32;
    const int64_t pitch = s.taps() * s.image;  // gradients of two channels of the strided map
    const int64_t tap = (parity + i * s.stride[0]) * s.kernel[1] + j,
                  at = k * pitch + tap * s.image + c;
    const int64_t own = ((output_tile - first) * chunk.taps + i) * s.kernel[1] + j;
    const bool more = part.pair + part.row > 0;
    float* const sum = sums + (chunk.whole(s) ? 0 : own * kPanel * kPanel);
    float* const to = direct ? static_cast<float*>(out) + at : sum;
    const int64_t ld = direct ? pitch : kPanel;
    if constexpr (Amx) {
      met.products(a, {more ? sum : nullptr, kPanel, to, ld}, high, wide);
    } else {
      const auto& dots = more ? kDots<true>.of : kDots<false>.of;
      const int32_t *const listed = list(i, j), *const a_at = listed + 1;
      const uint32_t* const b = from(of_image, i, j);
      tiles(wide, high, [&](int64_t column, int64_t vectors, int64_t row, int64_t rows) {
        dots[vectors - 1][rows - 1]({a + row, a_at, a_at + chunk.strided(s), *listed, b + column,
                                     sum + row * kPanel + column, to + row * ld + column, ld});
      });
    }
    if (done && !direct) round_sums(sum, wide, high, pitch, static_cast<BFloat16*>(out) + at);
  }

  static void round_sums(const float* sum, int64_t wide, int64_t high, int64_t pitch,
                         BFloat16* to) {
    for (int64_t row = 0; row < high; ++row, sum += kPanel, to += pitch) {
      for (int64_t c = 0; c < wide; c += kWidth) store(to + c, load(sum + c));
    }
  }

  const Bf16Shape& s;
  const int64_t parity, first, last;
  const Chunk chunk;
  const int64_t taps;  // rows of the kernel, of this parity
  const Panels image, strided;
  uint32_t *const pixels, *const gradient;  // pairs, by panels
  float* const sums;                        // by output tiles
  int32_t* const lists;                     // of terms, by taps
  PixelTiles<Amx> met;
};

}  // namespace
}  // namespace fastgan
