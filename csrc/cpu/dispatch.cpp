// Chooses the tile loops for the processor at hand, once.
#include "tiles.h"

namespace fastgan {

extern const TileLoops kTileLoops_baseline;
#if defined(__x86_64__)
extern const TileLoops kTileLoops_avx2;
extern const TileLoops kTileLoops_avx512;
#endif

namespace {

const TileLoops& widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return kTileLoops_avx512;
  }
  if (avx2) return kTileLoops_avx2;
#endif
  return kTileLoops_baseline;
}

}  // namespace

const TileLoops& tile_loops() {
  static const TileLoops& chosen = widest();
  return chosen;
}

}  // namespace fastgan
