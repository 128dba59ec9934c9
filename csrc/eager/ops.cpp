// The operators, for a Python that csrc/eager/python.cpp was not built for.
#include "eager/ops.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace fastgan::eager {

const CpuEntries& kernels() {
  static const auto& entries = *reinterpret_cast<const CpuEntries*>(
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("fastgan::cpu_entries", "")
          .typed<int64_t()>()
          .call());
  return entries;
}

}  // namespace fastgan::eager

TORCH_LIBRARY_FRAGMENT(fastgan, m) {
  m.def(
      "norm_act_eager(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor? weight, "
      "Tensor? bias, bool training, float momentum, float eps, int activation, float "
      "negative_slope, "
      "int segments, bool act_first, bool average, str backend) -> Tensor?",
      &fastgan::eager::norm_act);
  m.def(
      "bias_act_eager(Tensor x, Tensor? bias, int activation, float negative_slope, str backend) "
      "-> Tensor?",
      &fastgan::eager::bias_act);
}
