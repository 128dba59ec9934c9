// Register tiles of VDPBF16PS for bfloat16's convolutions. In an unnamed namespace, as
// cpu/simd/vec.h and for the same reason.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/conv/bf16/kernel.h"
#include "cpu/conv/gemm_tile.h"

namespace fastgan {
namespace {

constexpr int64_t kPanel = kBf16Panel;

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

// One term of all sums, of pairs.
template <int P, int V, typename Left>
FASTGAN_HD void add_term(VecF (&sum)[P][V], const uint32_t* b, const Left& left) {
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

// Fetches the lines that a tile is to be written to, far apart as they are, while it is computed.
template <int V, typename T>
FASTGAN_HD void fetch_for_writing(const T* to) {
  constexpr int line = 64 / sizeof(T);
  FASTGAN_UNROLL
  for (int c = 0; c < V * kWidth; c += line) __builtin_prefetch(to + c, 1);
}

// Calls function(first column, its vectors, first row, rows) for the register tiles of a panel.
template <typename Function>
FASTGAN_HD void tiles(int64_t columns, int64_t rows, const Function& function) {
  for (int64_t column = 0; column < columns; column += kMaxVectors * kWidth) {
    const int64_t vectors = std::min(kMaxVectors, (columns - column) / kWidth);
    in_pieces(rows, max_rows(vectors),
              [&](int64_t row, int64_t count) { function(column, vectors, row, count); });
  }
}

// out[p][first + v] = (bias[first + v] +) the sum over runs r and t < n of
// a[r * next + p][t] . b[r][t * kPanel + column + v].
struct Runs {
  const uint32_t* const* a;
  int64_t next, runs, n;
  const uint32_t* const* b;
  int64_t column;
  BFloat16* const* out;
  int64_t first;
  const float* bias;  // of the columns, or null
};

// Each run of a has another place in memory: while one is multiplied the next is fetched, after the
// last the first of the tile after this one.
struct RunsTile {
  template <int P, int V>
  static void run(const Runs& o) {
    FASTGAN_UNROLL
    for (int p = 0; p < P; ++p) fetch_for_writing<V>(o.out[p] + o.first);
    with_sums<P, V>(
        [&](VecF (&sum)[P][V]) __attribute__((always_inline)) {
          for (int64_t r = 0; r < o.runs; ++r) {
            const uint32_t* b = o.b[r] + o.column;
            const uint32_t* const* const here = o.a + r * o.next;
            const uint32_t* const* const ahead = r + 1 < o.runs ? here + o.next : o.a + P;
            const uint32_t* a[P];
            FASTGAN_UNROLL
            for (int p = 0; p < P; ++p) a[p] = here[p];
            for (int64_t first = 0; first < o.n; first += kLine) {
              FASTGAN_UNROLL
              for (int p = 0; p < P; ++p) __builtin_prefetch(ahead[p] + first);
              const int64_t last = std::min(o.n, first + kLine);
              for (int64_t t = first; t < last; ++t, b += kPanel) {
                add_term<P, V>(sum, b, [&](int p) { return a[p][t]; });
              }
            }
          }
        },
        [&](int64_t row, int64_t column, VecF sum) {
          const int64_t at = o.first + column;
          store(o.out[row] + at, o.bias ? load(o.bias + at) + sum : sum);
        });
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(uint32_t);
};

constexpr RegisterTiles<Runs, RunsTile> kRuns{};

// c[p][v] = (before[p * kPanel + v] +) the sum over t < n of a[a_at[t] + p] . b[b_at[t] + v].
struct Dots {
  const uint32_t* a;
  const int32_t *a_at, *b_at;
  int64_t n;
  const uint32_t* b;
  const float* before;
  float* c;
  int64_t ldc;
};

template <bool Add>
struct DotsTile {
  template <int P, int V>
  static void run(const Dots& o) {
    FASTGAN_UNROLL
    for (int p = 0; p < P; ++p) fetch_for_writing<V>(o.c + p * o.ldc);
    with_sums<P, V>(
        [&](VecF (&sum)[P][V]) __attribute__((always_inline)) {
          for (int64_t t = 0; t < o.n; ++t) {
            const uint32_t* const a = o.a + o.a_at[t];
            add_term<P, V>(sum, o.b + o.b_at[t], [&](int p) { return a[p]; });
          }
        },
        [&](int64_t row, int64_t column, VecF sum) {
          const float* const before = o.before + row * kPanel + column;
          store(o.c + row * o.ldc + column, Add ? load(before) + sum : sum);
        });
  }
};

template <bool Add>
constexpr RegisterTiles<Dots, DotsTile<Add>> kDots{};

}  // namespace
}  // namespace fastgan
