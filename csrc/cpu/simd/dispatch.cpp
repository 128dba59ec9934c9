// Chooses the kernels for the processor at hand, once.
#include <cstdlib>
#include <cstring>

#include "cpu/conv/bf16/kernel.h"
#include "cpu/conv/small_channels/kernel.h"
#include "cpu/conv/winograd/kernel.h"
#include "cpu/gather_images/kernel.h"
#include "cpu/runtime/tiles.h"
#include "cpu/transpose/kernel.h"

#if FASTGAN_AMX_KERNELS
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastgan {

extern const GatherKernels kGatherKernels_baseline;
extern const TileKernels kTileKernels_baseline;
extern const SmallChannelKernels kSmallChannelKernels_baseline;
extern const WinogradKernels kWinogradKernels_baseline;
extern const Bf16Kernels kBf16Kernels_baseline;
extern const TransposeKernels kTransposeKernels_baseline;
#if defined(__x86_64__)
extern const GatherKernels kGatherKernels_avx2, kGatherKernels_avx512, kGatherKernels_avx512bf16;
extern const TileKernels kTileKernels_avx2, kTileKernels_avx512, kTileKernels_avx512bf16;
extern const SmallChannelKernels kSmallChannelKernels_avx2, kSmallChannelKernels_avx512,
    kSmallChannelKernels_avx512bf16;
extern const WinogradKernels kWinogradKernels_avx2, kWinogradKernels_avx512,
    kWinogradKernels_avx512bf16;
extern const Bf16Kernels kBf16Kernels_avx2, kBf16Kernels_avx512, kBf16Kernels_avx512bf16;
extern const TransposeKernels kTransposeKernels_avx2, kTransposeKernels_avx512,
    kTransposeKernels_avx512bf16;
#endif
#if FASTGAN_AMX_KERNELS
extern const Bf16Kernels kBf16Kernels_amx;
#endif

namespace {

// FASTGAN_CPU_ISA=baseline, avx2, avx512 or avx512bf16 keeps to narrower sets, for tests and comparisons.
bool allowed(const char* isa) {
  static const char* const sets[] = {"baseline", "avx2", "avx512", "avx512bf16", "amx"};
  const char* limit = std::getenv("FASTGAN_CPU_ISA");
  if (limit == nullptr) return true;
  for (const char* set : sets) {
    if (std::strcmp(set, isa) == 0) return true;
    if (std::strcmp(set, limit) == 0) return false;
  }
  return true;
}

#if FASTGAN_AMX_KERNELS
// Whether the processor has AMX's products of bfloat16 and the system lets the process use its tiles,
// of which it has to be asked.
bool has_amx() {
  unsigned a, b, c, d;
  constexpr unsigned bf16 = 1u << 22, tiles = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16) == 0 || (d & tiles) == 0) return false;
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
}
#endif

struct AllKernels {
  const TileKernels& tiles;
  const SmallChannelKernels& small_channels;
  const GatherKernels& gather;
  const WinogradKernels& winograd;
  const Bf16Kernels& dot;
  const TransposeKernels& transpose;
};

AllKernels widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = allowed("avx2") && __builtin_cpu_supports("avx2") &&
                    __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && allowed("avx512") && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx512 && allowed("avx512bf16") && __builtin_cpu_supports("avx512bf16")) {
#if FASTGAN_AMX_KERNELS
    if (allowed("amx") && has_amx()) {
      return {kTileKernels_avx512bf16, kSmallChannelKernels_avx512bf16, kGatherKernels_avx512bf16,
              kWinogradKernels_avx512bf16, kBf16Kernels_amx, kTransposeKernels_avx512bf16};
    }
#endif
    return {kTileKernels_avx512bf16, kSmallChannelKernels_avx512bf16, kGatherKernels_avx512bf16,
            kWinogradKernels_avx512bf16, kBf16Kernels_avx512bf16, kTransposeKernels_avx512bf16};
  }
  if (avx512) {
    return {kTileKernels_avx512, kSmallChannelKernels_avx512, kGatherKernels_avx512,
            kWinogradKernels_avx512, kBf16Kernels_avx512, kTransposeKernels_avx512};
  }
  if (avx2) {
    return {kTileKernels_avx2, kSmallChannelKernels_avx2, kGatherKernels_avx2,
            kWinogradKernels_avx2, kBf16Kernels_avx2, kTransposeKernels_avx2};
  }
#endif
  return {kTileKernels_baseline, kSmallChannelKernels_baseline, kGatherKernels_baseline,
          kWinogradKernels_baseline, kBf16Kernels_baseline, kTransposeKernels_baseline};
}

const AllKernels& loops() {
  static const AllKernels chosen = widest();
  return chosen;
}

}  // namespace

const TileKernels& tile_kernels() { return loops().tiles; }

const SmallChannelKernels& small_channel_kernels() { return loops().small_channels; }

const GatherKernels& gather_kernels() { return loops().gather; }

const WinogradKernels& winograd_kernels() { return loops().winograd; }

const Bf16Kernels& bf16_kernels() { return loops().dot; }

const TransposeKernels& transpose_kernels() { return loops().transpose; }

}  // namespace fastgan
