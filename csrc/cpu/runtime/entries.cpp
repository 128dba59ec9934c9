#include "cpu/runtime/entries.h"

#include <torch/csrc/stable/library.h>

#include "cpu/runtime/allocator.h"

namespace fastgan {
namespace {

int64_t cpu_entries() {
  static const CpuEntries entries = {norm_forward, norm_backward, update_running_stats, bias_forward,
                                     bias_backward, take, give, kLargeBlock};
  return reinterpret_cast<int64_t>(&entries);
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CompositeExplicitAutograd, m) {
  m.impl("cpu_entries", TORCH_BOX(&fastgan::cpu_entries));
}
