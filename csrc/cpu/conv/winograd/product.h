// The matrix products of the Winograd convolutions: register tiles that, while they multiply,
// fetch what comes after them into the second-level cache. The weights and the transformed tensors
// of a wide layer lie beyond it, in pieces too short for the processor to foresee. In an unnamed
// namespace, as cpu/simd/vec.h and for the same reason.
#pragma once

#include <cstdint>

#include "cpu/conv/gemm_tile.h"

namespace fastgan {
namespace {

constexpr int64_t kPanel = kMaxVectors * kWidth;   // columns of a register tile
constexpr int64_t kLine = 16;                      // floats of a cache line

// c[p][v] = (or +=) the sum over t < n of a[p][t * Step] * b[t][v]; fetches ahead[t][0].
struct Panel {
  const float* a[kMaxRows];
  int64_t n;
  const float *b, *ahead;
  int64_t ldb;  // of both
  float* c;
  int64_t ldc;
};

template <bool Add, int64_t Step>
struct MultiplyPanel {
  template <int P, int V>
  static void run(const Panel& o) {
    with_sums<P, V>(
        [&](VecF (&sum)[P][V]) __attribute__((always_inline)) {
          const float* a[P];
          FASTGAN_UNROLL
          for (int p = 0; p < P; ++p) a[p] = o.a[p];
          const float *b = o.b, *ahead = o.ahead;
          for (int64_t t = 0; t < o.n; ++t, b += o.ldb, ahead += o.ldb) {
            __builtin_prefetch(ahead, 0, 2);
            add_term<P, V>(sum, b, [&](int p) { return a[p][t * Step]; });
          }
        },
        [&](int64_t row, int64_t column, VecF sum) {
          put_sums<Add>(o.c + row * o.ldc + column, sum);
        });
  }
};

template <bool Add, int64_t Step>
constexpr RegisterTiles<Panel, MultiplyPanel<Add, Step>> kPanels{};

}  // namespace
}  // namespace fastgan
