// Squares of values, transposed in registers.
#pragma once

#include "cpu/simd/vec.h"

namespace fastgan {
namespace {

// v[i][j] becomes v[j][i].
template <typename V, int N>
FASTGAN_HD void transpose(V (&v)[N]) {
  static_assert(sizeof(V) == N * sizeof(v[0][0]));
  using Index = decltype(V{} < V{});  // a vector of signed integers as wide as V's values
  using Number = std::decay_t<decltype(Index{}[0])>;
  Index lane;
  for (int i = 0; i < N; ++i) lane[i] = Number(i);
#pragma GCC unroll 8
  for (int half = N / 2; half > 0; half /= 2) {
    const Index low = lane & Number(half) ? lane + Number(N - half) : lane;
    const Index high = lane & Number(half) ? lane + Number(N) : lane + Number(half);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if (i & half) continue;
      const V a = v[i], b = v[i + half];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + half] = __builtin_shuffle(a, b, high);
    }
  }
}

}  // namespace
}  // namespace fastgan
