// What the products of all convolutions share: register tiles of as many accumulators as the
// instruction set has room for, and the product of float32. In an unnamed namespace, as cpu/simd/vec.h and for
// the same reason.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/simd/transpose.h"
#include "cpu/simd/vec.h"

// Unrolled early, an array indexed by constants stays in registers.
#define FASTGAN_UNROLL _Pragma("GCC unroll 8")

namespace fastgan {
namespace {

constexpr int64_t kWidth = kLanes<float>;
constexpr int64_t kMaxRows = 8;
#if defined(__AVX512F__)
constexpr int64_t kMaxVectors = 4, kAccumulators = 24;  // of 32 registers
#else
constexpr int64_t kMaxVectors = 2, kAccumulators = 12;  // of 16
#endif
constexpr int64_t max_rows(int64_t vectors) { return std::min(kMaxRows, kAccumulators / vectors); }

// Tile::run<P, V>, of P rows by V vectors, at [V - 1][P - 1].
template <typename Operands, typename Tile>
struct RegisterTiles {
  void (*of[kMaxVectors][kMaxRows])(const Operands&) = {};

  constexpr RegisterTiles() { fill(std::make_integer_sequence<int, kMaxVectors>{}); }

 private:
  template <int... V>
  constexpr void fill(std::integer_sequence<int, V...>) {
    (fill_rows<V>(std::make_integer_sequence<int, max_rows(V + 1)>{}), ...);
  }
  template <int V, int... P>
  constexpr void fill_rows(std::integer_sequence<int, P...>) {
    ((of[V][P] = Tile::template run<P + 1, V + 1>), ...);
  }
};

constexpr int64_t kDepth = 128;  // terms at once: with a panel they fill most of a first-level cache

// Has the sums of a tile made from zero, then calls finish(row, column, sums) for each vector of them.
template <int P, int V, typename Terms, typename Finish>
FASTGAN_HD void with_sums(const Terms& terms, const Finish& finish) {
  VecF sum[P][V];
  FASTGAN_UNROLL
  for (int p = 0; p < P; ++p) {
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) sum[p][v] = VecF{};
  }
  terms(sum);
  FASTGAN_UNROLL
  for (int p = 0; p < P; ++p) {
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) finish(p, v * kWidth, sum[p][v]);
  }
}

// One term of all sums, of left(p) and the vectors at b. cpu/conv/bf16/product.h has the like for pairs.
template <int P, int V, typename Left>
FASTGAN_HD void add_term(VecF (&sum)[P][V], const float* b, const Left& left) {
  VecF right[V];
  FASTGAN_UNROLL
  for (int v = 0; v < V; ++v) right[v] = load(b + v * kWidth);
  FASTGAN_UNROLL
  for (int p = 0; p < P; ++p) {
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) sum[p][v] += left(p) * right[v];
  }
}

// Stores sums, or adds them to what is stored.
template <bool Add>
FASTGAN_HD void put_sums(float* c, VecF sum) {
  store(c, Add ? load(c) + sum : sum);
}

// c[p][v] = (or +=) the sum over t < n of a[p][offset[t]] * b[t][v].
template <typename Value>
struct ProductOf {
  const Value* a[kMaxRows];
  const int32_t* offset;
  int64_t n;
  const Value* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
};

template <typename Value, bool Add>
struct Multiply {
  template <int P, int V>
  static void run(const ProductOf<Value>& o) {
    with_sums<P, V>(
        [&](VecF (&sum)[P][V]) __attribute__((always_inline)) {
          const Value* a[P];
          FASTGAN_UNROLL
          for (int p = 0; p < P; ++p) a[p] = o.a[p];
          const Value* b = o.b;
          for (int64_t t = 0; t < o.n; ++t, b += o.ldb) {
            const int64_t at = o.offset[t];
            add_term<P, V>(sum, b, [&](int p) { return a[p][at]; });
          }
        },
        [&](int64_t row, int64_t column, VecF sum) {
          put_sums<Add>(o.c + row * o.ldc + column, sum);
        });
  }
};

template <typename Value, bool Add>
constexpr RegisterTiles<ProductOf<Value>, Multiply<Value, Add>> kProducts{};

// Calls function(first, count) for pieces of [0, n), as equal as may be and at most so long.
template <typename Function>
FASTGAN_HD void in_pieces(int64_t n, int64_t most, const Function& function) {
  for (int64_t pieces = ceil_div(n, most), first = 0; pieces > 0; --pieces) {
    const int64_t count = ceil_div(n - first, pieces);
    function(first, count);
    first += count;
  }
}

}  // namespace
}  // namespace fastgan
