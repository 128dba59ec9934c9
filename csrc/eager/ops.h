// norm_act and bias_act of plain eager calls, with their derivatives: no Python between PyTorch and the
// kernels, which costs as much as the kernels of a small layer.
//
// csrc/eager is a library of its own, for PyTorch's autograd has no stable ABI: it serves the version of
// torch that it was built with, and where it is missing fastgan/ops does the same in Python.
#pragma once

#include <string_view>

#include "eager/plain.h"

namespace fastgan::eager {

// act(norm(x)), or nothing where an argument is wrong or has to be converted, or something watches:
// fastgan/ops/norm_act sees to it then. A call that is right as it stands is not looked at in Python,
// which takes longer.
Optional norm_act(const Tensor& x, const Optional& running_mean, const Optional& running_var,
                  const Optional& weight, const Optional& bias, bool training, double momentum,
                  double eps, int64_t activation, double slope, int64_t segments, bool act_first,
                  bool average, std::string_view backend);

// act(x + bias), or nothing, likewise.
Optional bias_act(const Tensor& x, const Optional& bias, int64_t activation, double slope,
                  std::string_view backend);

}  // namespace fastgan::eager
