// The products of bfloat16's convolutions: pairs, and register tiles of their dot products. In an unnamed
// namespace, as vec.h and for the same reason.
#pragma once

#include <cstdint>
#include <cstring>

#include "conv_product.h"
#include "dot_conv.h"

namespace fastgan {
namespace {

constexpr int64_t kPanel = kDotPanel;

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

// As bfloat16 holds it.
FASTGAN_HD VecF rounded(const BFloat16* p) { return load(p); }
FASTGAN_HD VecF rounded(const float* p) {
#if defined(__AVX512BF16__)
  const __m256i bits = bits_as<__m256i>(_mm512_cvtneps_pbh(bits_as<__m512>(load(p))));
  return bits_as<VecF>(bits_as<VecU>(_mm512_cvtepu16_epi32(bits)) << 16);
#endif
  BFloat16 low[kWidth];
  store(low, load(p));
  return load(low);
}

// Two vectors as pairs of bfloat16.
template <typename T>
FASTGAN_HD VecU interleave(const T* low, const T* high) {
  return bits_as<VecU>(rounded(low)) >> 16 | bits_as<VecU>(rounded(high));
}

// c[p][v] += the sum over t < n of a[a_at[t] + p] . b[b_at[t] + v], all pairs.
struct Dot {
  const uint32_t* a;
  const int32_t *a_at, *b_at;
  int64_t n;
  const uint32_t* b;
  float* c;
};

// One term of all sums.
template <int P, int V, typename Left>
FASTGAN_HD void add_dots(VecF (&sum)[P][V], const uint32_t* b, const Left& left) {
  VecU right[V];
  FASTGAN_UNROLL
  for (int v = 0; v < V; ++v) right[v] = load_pairs(b + v * kWidth);
  FASTGAN_UNROLL
  for (int p = 0; p < P; ++p) {
    const VecU one = VecU{} + left(p);
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) sum[p][v] = add_dot(sum[p][v], one, right[v]);
  }
}

// Has the sums of a tile added to, from what is stored or from zero, and stores them.
template <int P, int V, typename Add>
FASTGAN_HD void with_sums(bool stored, float* c, int64_t ldc, const Add& add) {
  VecF sum[P][V];
  FASTGAN_UNROLL
  for (int p = 0; p < P; ++p) {
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) sum[p][v] = stored ? load(c + p * ldc + v * kWidth) : VecF{};
  }
  add(sum);
  FASTGAN_UNROLL
  for (int p = 0; p < P; ++p) {
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) store(c + p * ldc + v * kWidth, sum[p][v]);
  }
}

struct DotTile {
  template <int P, int V>
  static void run(const Dot& o) {
    with_sums<P, V>(true, o.c, kPanel, [&](VecF (&sum)[P][V]) __attribute__((always_inline)) {
      for (int64_t t = 0; t < o.n; ++t) {
        const uint32_t* const a = o.a + o.a_at[t];
        add_dots<P, V>(sum, o.b + o.b_at[t], [&](int p) { return a[p]; });
      }
    });
  }
};

constexpr RegisterTiles<Dot, DotTile> kDots{};

// Of pairs, whose product is a dot product.
using PairProduct = ProductOf<uint32_t>;

template <bool Add>
struct MultiplyPairs {
  template <int P, int V>
  static void run(const PairProduct& o) {
    with_sums<P, V>(Add, o.c, o.ldc, [&](VecF (&sum)[P][V]) __attribute__((always_inline)) {
      const uint32_t* a[P];
      FASTGAN_UNROLL
      for (int p = 0; p < P; ++p) a[p] = o.a[p];
      const uint32_t* b = o.b;
      for (int64_t t = 0; t < o.n; ++t, b += o.ldb) {
        const int64_t at = o.offset[t];
        add_dots<P, V>(sum, b, [&](int p) { return a[p][at]; });
      }
    });
  }
};

template <bool Add>
constexpr RegisterTiles<PairProduct, MultiplyPairs<Add>> kPairProducts{};

// Calls function(first column, its vectors, first row, rows) for the register tiles of a panel.
template <typename Function>
FASTGAN_HD void tiles(int64_t columns, int64_t rows, const Function& function) {
  for (int64_t column = 0; column < columns; column += kMostVectors * kWidth) {
    const int64_t vectors = std::min(kMostVectors, (columns - column) / kWidth);
    in_pieces(rows, most_rows(vectors),
              [&](int64_t row, int64_t count) { function(column, vectors, row, count); });
  }
}

// c[p][v] = (or +=) the sum over runs r and t < n of (a[r * next + p] + first)[t] . b[(r * n + t) * kPanel + v].
struct Runs {
  const uint32_t* const* a;
  int64_t next, runs, first, n;
  const uint32_t* b;
  float* c;
};

template <bool Add>
struct RunsTile {
  template <int P, int V>
  static void run(const Runs& o) {
    with_sums<P, V>(Add, o.c, kPanel, [&](VecF (&sum)[P][V]) __attribute__((always_inline)) {
      const uint32_t* b = o.b;
      for (int64_t r = 0; r < o.runs; ++r) {
        const uint32_t* a[P];
        FASTGAN_UNROLL
        for (int p = 0; p < P; ++p) a[p] = o.a[r * o.next + p] + o.first;
        for (int64_t t = 0; t < o.n; ++t, b += kPanel) {
          add_dots<P, V>(sum, b, [&](int p) { return a[p][t]; });
        }
      }
    });
  }
};

template <bool Add>
constexpr RegisterTiles<Runs, RunsTile<Add>> kRuns{};

}  // namespace
}  // namespace fastgan
