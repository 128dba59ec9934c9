// What the norm_act ops share: the per-channel inputs, checked.
#pragma once

#include "cuda/device/launcher.cuh"
#include "cuda/norm_act/forward.h"

namespace fastgan {
namespace cuda {

// The inputs of a norm over x, each aligned or copied: a view of one flat buffer may start anywhere.
inline ChannelStats channel_stats(Launcher& launcher, const Tensor& x, const Shape& shape,
                                  std::int64_t segments, const Tensor& mean, const Tensor& var,
                                  const OptionalTensor& weight, const OptionalTensor& bias,
                                  double eps) {
  const std::int64_t channels = shape.channels;
  const std::int64_t statistics = segments * channels;
  return {launcher.aligned_floats(float_data(mean, "mean", statistics, x), statistics),
          launcher.aligned_floats(float_data(var, "var", statistics, x), statistics),
          launcher.aligned_floats(float_data(weight, "weight", channels, x), channels),
          launcher.aligned_floats(float_data(bias, "bias", channels, x), channels), float(eps)};
}

}  // namespace cuda
}  // namespace fastgan
