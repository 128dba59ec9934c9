// Chooses the loops for the processor at hand, once.
#include <cstdlib>
#include <cstring>

#include "thin_conv.h"
#include "tiles.h"

namespace fastgan {

extern const TileLoops kTileLoops_baseline;
extern const ThinLoops kThinLoops_baseline;
#if defined(__x86_64__)
extern const TileLoops kTileLoops_avx2, kTileLoops_avx512;
extern const ThinLoops kThinLoops_avx2, kThinLoops_avx512;
#endif

namespace {

// FASTGAN_CPU_ISA=baseline or avx2 keeps to narrower vectors, for tests and comparisons.
bool allowed(const char* isa) {
  const char* limit = std::getenv("FASTGAN_CPU_ISA");
  if (limit == nullptr || std::strcmp(limit, "avx512") == 0) return true;
  return std::strcmp(limit, "avx2") == 0 && std::strcmp(isa, "avx2") == 0;
}

struct AllLoops {
  const TileLoops& tiles;
  const ThinLoops& thin;
};

AllLoops widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = allowed("avx2") && __builtin_cpu_supports("avx2") &&
                    __builtin_cpu_supports("fma");
  if (avx2 && allowed("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return {kTileLoops_avx512, kThinLoops_avx512};
  }
  if (avx2) return {kTileLoops_avx2, kThinLoops_avx2};
#endif
  return {kTileLoops_baseline, kThinLoops_baseline};
}

const AllLoops& loops() {
  static const AllLoops chosen = widest();
  return chosen;
}

}  // namespace

const TileLoops& tile_loops() { return loops().tiles; }

const ThinLoops& thin_loops() { return loops().thin; }

}  // namespace fastgan
