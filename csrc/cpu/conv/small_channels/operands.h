// The operands of the small-channel convolutions' products: the image padded with zeros, the
// weights packed, and which of them are pairs of bfloat16. In an unnamed namespace, as
// cpu/simd/vec.h and for the same reason.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/conv/bf16/product.h"
#include "cpu/conv/small_channels/kernel.h"

namespace fastgan {
namespace {

// Whether the processor multiplies pairs of bfloat16. Elsewhere they are widened.
#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

// What the left operand of a product O consists of: values of float32, or pairs that lie side by side
// in memory as bfloat16.
template <typename O>
constexpr int64_t kTerms = std::is_same_v<O, ProductOf<uint32_t>> ? 2 : 1;
template <typename O>
using Operand = std::conditional_t<kTerms<O> == 2, uint32_t, float>;

bool pairs(const SmallChannelShape& s) { return kPairs && s.dtype == Dtype::kBFloat16; }
// Pairs are of taps in a row, all as far from memory's start as a pair is long.
bool pairs_from_image(const SmallChannelShape& s) {
  const bool even = s.kernel[1] * s.channels % 2 == 0 && s.stride[1] * s.channels % 2 == 0;
  return pairs(s) && s.interleaved && even;
}
// Of channels.
bool pairs_to_image(const SmallChannelShape& s) { return pairs(s) && s.wide % 2 == 0; }
// Of positions in a row.
bool pairs_of_weight(const SmallChannelShape& s) {
  return pairs(s) && s.columns % 2 == 0 && s.wide % kWidth == 0;
}

template <bool Add, typename Value>
FASTGAN_HD void multiply(const ProductOf<Value>& o, int64_t vectors, int64_t rows) {
  kProducts<Value, Add>.of[vectors - 1][rows - 1](o);
}

template <typename T, typename To>
FASTGAN_HD void convert(const T* from, int64_t n, To* to) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, load(from + i));
  for (; i < n; ++i) store1(to + i, load1(from + i));
}

// Where the taps lie in an image padded with zeros, channels as in the image itself.
struct Padded {
  int64_t height, width, inner, planes;

  Padded(const SmallChannelShape& s, int64_t rows)
      : height((rows - 1) * s.stride[0] + s.kernel[0]),
        width((s.columns - 1) * s.stride[1] + s.kernel[1]),
        inner(s.interleaved ? s.channels : 1),
        planes(s.interleaved ? 1 : s.channels) {}

  int64_t row() const { return width * inner + width * inner % 2; }  // even, for pairs
  int64_t size() const { return planes * height * row(); }
  int64_t channel() const { return planes == 1 ? 1 : height * row(); }
};

// The part of the image that rows [first, ..) of the wide tensor meet.
template <typename T, typename To>
void pad(const SmallChannelShape& s, const Padded& p, const T* image, int64_t first, To* to) {
  const int64_t left = std::min(s.padding[1], p.width), held = std::min(s.width, p.width - left);
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    for (int64_t r = 0; r < p.height; ++r, to += p.row()) {
      const int64_t row = first * s.stride[0] - s.padding[0] + r;
      if (row < 0 || row >= s.height) {
        std::fill(to, to + p.row(), To{});
        continue;
      }
      std::fill(to, to + left * p.inner, To{});
      convert(image + (plane * s.height + row) * s.width * p.inner, held * p.inner,
              to + left * p.inner);
      std::fill(to + (left + held) * p.inner, to + p.row(), To{});
    }
  }
}

void tap_offsets(const SmallChannelShape& s, const Padded& p, int32_t* to) {
  for (int64_t c = 0; c < s.channels; ++c) {
    for (int64_t i = 0; i < s.kernel[0]; ++i) {
      for (int64_t j = 0; j < s.kernel[1]; ++j) {
        *to++ = static_cast<int32_t>(c * p.channel() + i * p.row() + j * p.inner);
      }
    }
  }
}

// Of the pairs of taps in an interleaved image, in pairs.
void pair_offsets(const SmallChannelShape& s, const Padded& p, int32_t* to) {
  for (int64_t i = 0; i < s.kernel[0]; ++i) {
    for (int64_t k = 0; k < s.kernel[1] * p.inner; k += 2) {
      *to++ = static_cast<int32_t>((i * p.row() + k) / 2);
    }
  }
}

// One position's products on the way to the image. The kernel's columns are cut into chunks as long
// as the stride, the last one filled with zeros: chunk m of position q falls on output chunk q + m.
struct Chunks {
  int64_t length, in_row, columns, padded, ring;

  explicit Chunks(const SmallChannelShape& s)
      : length(s.stride[1] * s.channels),
        in_row(ceil_div(s.kernel[1], s.stride[1])),
        columns(s.kernel[0] * in_row * length),
        padded(ceil_div(columns, kWidth) * kWidth),
        ring(ceil_div(s.kernel[0], s.stride[0])) {}

  int64_t in_line(const SmallChannelShape& s) const { return s.columns + in_row - 1; }
  // From the left padding on, far enough for the image where output padding enlarges it.
  int64_t line(const SmallChannelShape& s) const {
    return std::max(in_line(s) * length, (s.padding[1] + s.width) * s.channels);
  }
};

int64_t wide_vectors(const SmallChannelShape& s) { return ceil_div(s.wide, kWidth); }

template <typename T>
void pack_weight(const SmallChannelShape& s, const SmallChannelWeight& w, bool to_image,
                 float* packed) {
  const Chunks chunks(s);
  const int64_t terms = (to_image ? pairs_to_image(s) : pairs_from_image(s)) ? 2 : 1;
  const int64_t depth = to_image ? s.wide : s.taps();
  const int64_t columns = to_image ? chunks.padded : wide_vectors(s) * kWidth;
  std::fill(packed, packed + depth * columns, 0.0f);
  // [channel][row][column], or as an interleaved image's lie where pairs are formed of them.
  const int64_t apart[3] = {terms == 1 ? s.kernel[0] * s.kernel[1] : 1,
                            terms == 1 ? s.kernel[1] : s.kernel[1] * s.channels,
                            terms == 1 ? 1 : s.channels};
  // Groups of as many vectors as a tile has lie one after the other, [depth][group's columns] each.
  const auto place = [&](int64_t at, int64_t column, float value) {
    in_pieces(columns / kWidth, kMaxVectors, [&](int64_t v, int64_t vectors) {
      const int64_t inside = column - v * kWidth, width = vectors * kWidth;
      if (inside < 0 || inside >= width) return;
      float* const to = packed + v * kWidth * (depth / terms) + at / terms * width + inside;
      if (terms == 1) {
        *to = value;
      } else {
        store1(reinterpret_cast<BFloat16*>(to) + at % 2, value);
      }
    });
  };
  const T* data = static_cast<const T*>(w.data);
  for (int64_t k = 0; k < s.wide; ++k) {
    for (int64_t c = 0; c < s.channels; ++c) {
      for (int64_t i = 0; i < s.kernel[0]; ++i) {
        for (int64_t j = 0; j < s.kernel[1]; ++j) {
          const float value = load1(data + k * w.stride[0] + c * w.stride[1] + i * w.stride[2] +
                                    j * w.stride[3]);
          if (to_image) {
            const int64_t chunk = i * chunks.in_row + j / s.stride[1];
            place(k, chunk * chunks.length + j % s.stride[1] * s.channels + c, value);
          } else {
            place(c * apart[0] + i * apart[1] + j * apart[2], k, value);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fastgan
