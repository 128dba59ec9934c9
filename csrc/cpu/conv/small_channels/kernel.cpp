// The kernels of the small-channel convolutions. Compiled once for each instruction set;
// FASTGAN_ISA names the copy. All three are one product of register tiles over different operands,
// left one broadcast:
//   from_image   positions x taps (of the padded image)      by  taps x wide channels
//   to_image     positions x wide channels                   by  wide channels x taps
//   weight       taps (of the padded image) x positions      by  positions x wide channels
// What is summed over may come in pairs (cpu/conv/small_channels/operands.h).
#include <algorithm>
#include <type_traits>

#include "cpu/conv/small_channels/kernel.h"
#include "cpu/conv/small_channels/operands.h"
#include "cpu/simd/isa.h"

namespace fastgan {
namespace {

// Positions that the weight gradient takes at once: with 64 channels they fill a third of a
// first-level cache.
constexpr int64_t kBlock = 64;

SmallChannelSizes sizes(const SmallChannelShape& s, bool to_image, int64_t rows) {
  const int64_t vectors = wide_vectors(s), offsets = std::max({s.taps(), s.wide, kBlock});
  const int64_t tile = kMaxRows * kMaxVectors * kWidth, row = s.columns * s.wide;
  if (!to_image) {
    const int64_t block = std::max(tile, kBlock * kMaxVectors * kWidth);
    const int64_t scratch = Padded(s, rows).size() + block;
    return {s.taps() * vectors * kWidth, scratch, offsets + s.taps(), vectors * kWidth};
  }
  const Chunks k(s);
  // A vector past the end of a chunk is read, or of the line written.
  const int64_t scratch =
      k.ring * s.columns * k.padded + 2 * k.line(s) + row + 8 * kWidth * kMaxRows;
  return {s.wide * k.padded, scratch, offsets, 0};
}

// ---- from the image

// Activates a tile of sums and stores its channels from vector `v` on.
template <typename T, int A>
void store_wide(const SmallChannelShape& s, const SmallChannelEpilogue& e, const float* sums,
                int64_t positions, int64_t v, int64_t vectors, T* out) {
  for (int64_t p = 0; p < positions; ++p, out += s.wide) {
    for (int64_t k = v * kWidth; k < (v + vectors) * kWidth; k += kWidth, sums += kWidth) {
      const VecF z = act<A>(load(sums) + load(e.bias + k), e.slope);
      if (k + kWidth <= s.wide) {
        store(out + k, z);
      } else {
        for (int64_t i = k; i < s.wide; ++i) store1(out + i, z[i - k]);
      }
    }
  }
}

template <typename T, int A, typename O>
void from_image(const SmallChannelShape& s, const SmallChannelEpilogue& e, const float* packed,
                const void* image, int64_t first, int64_t last, void* out,
                const SmallChannelScratch& scratch) {
  using Value = Operand<O>;
  constexpr int64_t terms = kTerms<O>;
  const Padded padded(s, last - first);
  auto* const pixels = reinterpret_cast<std::conditional_t<terms == 2, T, float>*>(scratch.floats);
  pad(s, padded, static_cast<const T*>(image), first, pixels);
  (terms == 2 ? pair_offsets : tap_offsets)(s, padded, scratch.offsets);
  O o{};
  o.offset = scratch.offsets;
  o.n = s.taps() / terms;
  o.c = scratch.floats + padded.size();
  for (int64_t r = first; r < last; ++r) {
    const Value* const line = reinterpret_cast<const Value*>(pixels) +
                              (r - first) * s.stride[0] * padded.row() / terms;
    in_pieces(wide_vectors(s), kMaxVectors, [&](int64_t v, int64_t vectors) {
      o.b = reinterpret_cast<const Value*>(packed) + v * kWidth * o.n;
      o.ldb = o.ldc = vectors * kWidth;
      in_pieces(s.columns, max_rows(vectors), [&](int64_t q, int64_t count) {
        for (int64_t p = 0; p < count; ++p) {
          o.a[p] = line + (q + p) * s.stride[1] * padded.inner / terms;
        }
        multiply<false>(o, vectors, count);
        T* const to = static_cast<T*>(out) + (r * s.columns + q) * s.wide;
        store_wide<T, A>(s, e, o.c, count, v, vectors, to);
      });
    });
  }
}

// ---- to the image

// The products of one row of the wide tensor, [position][tap].
template <typename T, typename O>
void row_products(const SmallChannelShape& s, const Chunks& k, const float* packed, const T* row,
                  float* widened, float* to, const int32_t* offsets) {
  using Value = Operand<O>;
  constexpr int64_t terms = kTerms<O>;
  const void* values = row;
  if constexpr (terms == 1 && !std::is_same_v<T, float>) {
    convert(row, s.columns * s.wide, widened);
    values = widened;
  }
  O o{};
  o.offset = offsets;
  o.n = s.wide / terms;
  o.ldc = k.padded;
  in_pieces(k.padded / kWidth, kMaxVectors, [&](int64_t v, int64_t vectors) {
    o.b = reinterpret_cast<const Value*>(packed) + v * kWidth * o.n;
    o.ldb = vectors * kWidth;
    in_pieces(s.columns, max_rows(vectors), [&](int64_t q, int64_t count) {
      for (int64_t p = 0; p < count; ++p)
        o.a[p] = static_cast<const Value*>(values) + (q + p) * o.n;
      o.c = to + q * k.padded + v * kWidth;
      multiply<false>(o, vectors, count);
    });
  });
}

// Adds the chunks that fall on each chunk of a line of the image. Whole vectors are stored: the next
// chunk overwrites what is beyond this one, which nothing has to wait for.
template <int W>
void gather(const SmallChannelShape& s, const Chunks& k, const float* const* rows, int64_t count,
            float* line) {
  for (int64_t q = 0; q < k.in_line(s); ++q) {
    const int64_t begin = std::max<int64_t>(0, q - s.columns + 1);
    const int64_t end = std::min(k.in_row, q + 1);
    VecF sum[W] = {};
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t m = begin; m < end; ++m) {
        const float* const from = rows[r] + (q - m) * k.padded + m * k.length;
        for (int w = 0; w < W; ++w) sum[w] += load(from + w * kWidth);
      }
    }
    for (int w = 0; w < W; ++w) store(line + q * k.length + w * kWidth, sum[w]);
  }
}

template <typename T, int A>
void store_image_row(const SmallChannelShape& s, const SmallChannelEpilogue& e, const float* bias,
                     float* line, int64_t row, T* out) {
  const int64_t n = s.width * s.channels;
  for (int64_t i = 0; i < n; i += kWidth) {
    store(line + i, act<A>(load(line + i) + load(bias + i), e.slope));
  }
  if (s.interleaved) {
    T* const to = out + row * n;
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) store(to + i, load(line + i));
    for (; i < n; ++i) store1(to + i, line[i]);
    return;
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    T* const to = out + (c * s.height + row) * s.width;
    for (int64_t q = 0; q < s.width; ++q) store1(to + q, line[q * s.channels + c]);
  }
}

template <typename T, int A, typename O>
void to_image(const SmallChannelShape& s, const SmallChannelEpilogue& e, const float* packed,
              const void* wide, int64_t first, int64_t last, void* out,
              const SmallChannelScratch& scratch) {
  const Chunks k(s);
  const int64_t slack = kMaxRows * kWidth, slot = s.columns * k.padded;
  float* const products = scratch.floats;
  float* const line = products + k.ring * slot + slack;
  float* const bias = line + k.line(s) + slack;
  float* const widened = bias + s.width * s.channels + slack;
  for (int64_t i = 0; i < s.width * s.channels + kWidth; ++i) bias[i] = e.bias[i % s.channels];
  for (int64_t i = 0; i < s.wide; ++i) scratch.offsets[i] = static_cast<int32_t>(i);
  const int64_t chunk_vectors = ceil_div(k.length, kWidth);
  int64_t next = -1;  // row of the wide tensor whose products are still to be formed
  for (int64_t r = first; r < last; ++r) {
    // Row h of the wide tensor falls on this one by row i = above - h * stride of the kernel.
    const int64_t above = r + s.padding[0], step = s.stride[0];
    const int64_t low = std::max<int64_t>(0, ceil_div(above - s.kernel[0] + 1, step));
    const int64_t high = std::min(s.rows - 1, above / step);
    const float* rows[kMaxSmallKernel];
    int64_t count = 0;
    for (int64_t h = low; h <= high; ++h) {
      float* const at = products + h % k.ring * slot;
      if (h >= next) {
        const T* const row = static_cast<const T*>(wide) + h * s.columns * s.wide;
        row_products<T, O>(s, k, packed, row, widened, at, scratch.offsets);
        next = h + 1;
      }
      rows[count++] = at + (above - h * step) * k.in_row * k.length;
    }
    if (chunk_vectors == 1) {
      gather<1>(s, k, rows, count, line);
    } else if (chunk_vectors == 2) {
      gather<2>(s, k, rows, count, line);
    } else {
      gather<4>(s, k, rows, count, line);
    }
    std::fill(line + k.in_line(s) * k.length, line + k.line(s) + kWidth, 0.0f);
    store_image_row<T, A>(s, e, bias, line + s.padding[1] * s.channels, r, static_cast<T*>(out));
  }
}

// ---- the weight gradient

// Positions [0, count) and channels of `vectors` vectors, side by side and filled with zeros.
template <typename T>
void gather_wide(const SmallChannelShape& s, const T* from, int64_t count, int64_t channels,
                 int64_t vectors, float* to) {
  for (int64_t p = 0; p < count; ++p, to += vectors * kWidth) {
    convert(from + p * s.wide, channels, to);
    std::fill(to + channels, to + vectors * kWidth, 0.0f);
  }
}
// Pairs [0, count) of positions.
template <typename T>
void gather_wide(const SmallChannelShape& s, const T* from, int64_t count, int64_t, int64_t vectors,
                 uint32_t* to) {
  for (int64_t p = 0; p < count; ++p, from += 2 * s.wide) {
    for (int64_t k = 0; k < vectors * kWidth; k += kWidth, to += kWidth) {
      store_pairs(to, interleave(from + k, from + s.wide + k));
    }
  }
}

// Each of bfloat16's values, widened, becomes the pair of itself and the one `apart` behind it.
void pair_up(float* values, int64_t n, int64_t apart) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const VecU low = bits_as<VecU>(load(values + i)), high = bits_as<VecU>(load(values + i + apart));
    store(values + i, bits_as<VecF>(low >> 16 | high));
  }
}

template <typename T, typename O>
void weight(const SmallChannelShape& s, const void* image, const void* wide, int64_t first,
            int64_t last, float* sums, const SmallChannelScratch& scratch) {
  using Value = Operand<O>;
  constexpr int64_t terms = kTerms<O>;
  const Padded padded(s, last - first);
  float* const pixels = scratch.floats;
  Value* const block = reinterpret_cast<Value*>(pixels + padded.size());
  int32_t *const positions = scratch.offsets, *const taps = positions + kBlock;
  pad(s, padded, static_cast<const T*>(image), first, pixels);
  if (terms == 2) pair_up(pixels, padded.size(), s.stride[1] * padded.inner);
  tap_offsets(s, padded, taps);
  const int64_t columns = wide_vectors(s) * kWidth;
  const bool in_place =
      std::is_same_v<T, float> && s.wide <= kMaxVectors * kWidth && s.wide % kWidth == 0;
  O o{};
  o.offset = positions;
  o.ldc = columns;
  in_pieces((last - first) * s.columns / terms, kBlock, [&](int64_t begin, int64_t count) {
    const T* const from = static_cast<const T*>(wide) + (first * s.columns + begin * terms) * s.wide;
    for (int64_t p = 0; p < count; ++p) {
      const int64_t r = (begin + p) * terms / s.columns, q = (begin + p) * terms % s.columns;
      positions[p] = static_cast<int32_t>(r * s.stride[0] * padded.row() +
                                          q * s.stride[1] * padded.inner);
    }
    o.n = count;
    in_pieces(wide_vectors(s), kMaxVectors, [&](int64_t v, int64_t vectors) {
      o.b = block;
      o.ldb = vectors * kWidth;
      if (in_place) {
        o.b = reinterpret_cast<const Value*>(from);
      } else {
        const int64_t channels = std::min(vectors * kWidth, s.wide - v * kWidth);
        gather_wide(s, from + v * kWidth, count, channels, vectors, block);
      }
      in_pieces(s.taps(), max_rows(vectors), [&](int64_t tap, int64_t taps_here) {
        for (int64_t p = 0; p < taps_here; ++p) {
          o.a[p] = reinterpret_cast<const Value*>(pixels) + taps[tap + p];
        }
        o.c = sums + tap * columns + v * kWidth;
        multiply<true>(o, vectors, taps_here);
      });
    });
  });
}

// ---- by dtype and activation

template <int A>
using Code = std::integral_constant<int, A>;

template <typename Function>
void with_types(Dtype dtype, int activation, const Function& function) {
  with_type(dtype, [&](auto type) {
    switch (activation) {
      case kTanh: return function(type, Code<kTanh>{});
      case kSigmoid: return function(type, Code<kSigmoid>{});
      default: return function(type, Code<kLeakyRelu>{});
    }
  });
}

void pack_any(const SmallChannelShape& s, const SmallChannelWeight& w, bool to_image,
              float* packed) {
  with_type(s.dtype, [&](auto type) { pack_weight<decltype(type)>(s, w, to_image, packed); });
}

// function(a product of the operands that a pass has).
template <typename Type, typename Function>
void with_operands(Type, bool in_pairs, const Function& function) {
  if constexpr (kPairs && std::is_same_v<Type, BFloat16>) {
    if (in_pairs) return function(ProductOf<uint32_t>{});
  }
  function(ProductOf<float>{});
}

void from_any(const SmallChannelShape& s, const SmallChannelEpilogue& e, const float* packed,
              const void* image, int64_t first, int64_t last, void* out,
              const SmallChannelScratch& scratch) {
  with_types(s.dtype, e.activation, [&](auto type, auto code) {
    with_operands(type, pairs_from_image(s), [&](auto product) {
      from_image<decltype(type), decltype(code)::value, decltype(product)>(s, e, packed, image, first,
                                                                           last, out, scratch);
    });
  });
}

void to_any(const SmallChannelShape& s, const SmallChannelEpilogue& e, const float* packed,
            const void* wide, int64_t first, int64_t last, void* out,
            const SmallChannelScratch& scratch) {
  with_types(s.dtype, e.activation, [&](auto type, auto code) {
    with_operands(type, pairs_to_image(s), [&](auto product) {
      to_image<decltype(type), decltype(code)::value, decltype(product)>(s, e, packed, wide, first,
                                                                         last, out, scratch);
    });
  });
}

void weight_any(const SmallChannelShape& s, const void* image, const void* wide, int64_t first,
                int64_t last, float* sums, const SmallChannelScratch& scratch) {
  with_type(s.dtype, [&](auto type) {
    with_operands(type, pairs_of_weight(s), [&](auto product) {
      weight<decltype(type), decltype(product)>(s, image, wide, first, last, sums, scratch);
    });
  });
}

}  // namespace

extern const SmallChannelKernels FASTGAN_OF_ISA(kSmallChannelKernels);
const SmallChannelKernels FASTGAN_OF_ISA(kSmallChannelKernels) = {sizes, pack_any, from_any, to_any,
                                                                  weight_any};

}  // namespace fastgan
