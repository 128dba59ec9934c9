// Chooses the loops for the processor at hand, once.
#include <cstdlib>
#include <cstring>

#include "cpu/conv/bf16/kernel.h"
#include "cpu/conv/small_channels/kernel.h"
#include "cpu/conv/winograd/kernel.h"
#include "cpu/gather_images/kernel.h"
#include "cpu/runtime/tiles.h"

namespace fastgan {

extern const GatherLoops kGatherLoops_baseline;
extern const TileLoops kTileLoops_baseline;
extern const ThinLoops kThinLoops_baseline;
extern const WinogradLoops kWinogradLoops_baseline;
extern const DotLoops kDotLoops_baseline;
#if defined(__x86_64__)
extern const GatherLoops kGatherLoops_avx2, kGatherLoops_avx512, kGatherLoops_avx512bf16;
extern const TileLoops kTileLoops_avx2, kTileLoops_avx512, kTileLoops_avx512bf16;
extern const ThinLoops kThinLoops_avx2, kThinLoops_avx512, kThinLoops_avx512bf16;
extern const WinogradLoops kWinogradLoops_avx2, kWinogradLoops_avx512, kWinogradLoops_avx512bf16;
extern const DotLoops kDotLoops_avx2, kDotLoops_avx512, kDotLoops_avx512bf16;
#endif

namespace {

// FASTGAN_CPU_ISA=baseline, avx2 or avx512 keeps to narrower sets, for tests and comparisons.
bool allowed(const char* isa) {
  static const char* const sets[] = {"baseline", "avx2", "avx512", "avx512bf16"};
  const char* limit = std::getenv("FASTGAN_CPU_ISA");
  if (limit == nullptr) return true;
  for (const char* set : sets) {
    if (std::strcmp(set, isa) == 0) return true;
    if (std::strcmp(set, limit) == 0) return false;
  }
  return true;
}

struct AllLoops {
  const TileLoops& tiles;
  const ThinLoops& thin;
  const GatherLoops& gather;
  const WinogradLoops& winograd;
  const DotLoops& dot;
};

AllLoops widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = allowed("avx2") && __builtin_cpu_supports("avx2") &&
                    __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && allowed("avx512") && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx512 && allowed("avx512bf16") && __builtin_cpu_supports("avx512bf16")) {
    return {kTileLoops_avx512bf16, kThinLoops_avx512bf16, kGatherLoops_avx512bf16,
            kWinogradLoops_avx512bf16, kDotLoops_avx512bf16};
  }
  if (avx512) {
    return {kTileLoops_avx512, kThinLoops_avx512, kGatherLoops_avx512, kWinogradLoops_avx512,
            kDotLoops_avx512};
  }
  if (avx2) {
    return {kTileLoops_avx2, kThinLoops_avx2, kGatherLoops_avx2, kWinogradLoops_avx2,
            kDotLoops_avx2};
  }
#endif
  return {kTileLoops_baseline, kThinLoops_baseline, kGatherLoops_baseline, kWinogradLoops_baseline,
          kDotLoops_baseline};
}

const AllLoops& loops() {
  static const AllLoops chosen = widest();
  return chosen;
}

}  // namespace

const TileLoops& tile_loops() { return loops().tiles; }

const ThinLoops& thin_loops() { return loops().thin; }

const GatherLoops& gather_loops() { return loops().gather; }

const WinogradLoops& winograd_loops() { return loops().winograd; }

const DotLoops& dot_loops() { return loops().dot; }

}  // namespace fastgan
