// norm_act and bias_act of plain eager calls, with their derivatives: no Python between PyTorch and the
// kernels, which costs as much as the kernels of a small layer.
//
// csrc/eager is a library of its own, for PyTorch's autograd has no stable ABI: it serves the version of
// torch that it was built with, and where it is missing fastgan/ops does the same in Python.
#pragma once

#include <string_view>
#include <vector>

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

// What a norm of torch.nn holds.
struct NormLayer {
  Optional weight, bias, mean, var;
  Optional batches;  // counted; not there, where that is done elsewhere
  bool instances, training, tracks;
  double momentum, eps;
};

// act(layer(x)), or act first, and all that a call of the layer does beside; or nothing, and nothing
// done, likewise.
Optional norm_layer(const Tensor& x, const NormLayer& layer, int64_t activation, double slope,
                    bool act_first, std::string_view backend);

// Whether `count` serves a layer's number of batches.
bool is_countable(const Tensor& batches);
// batches += passes.
void count(const Tensor& batches, int64_t passes);

struct Convolution {
  std::vector<int64_t> stride, padding, dilation, output_padding;
  bool transposed;
  int64_t groups;
};

// PyTorch's convolution of a batch, with its derivative; or nothing, likewise.
Optional convolution(const Tensor& x, const Tensor& weight, const Optional& bias,
                     const Convolution& settings);

}  // namespace fastgan::eager
