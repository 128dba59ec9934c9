#include "eager/ops.h"

namespace fastgan::eager {

// torch's functions and not at::convolution, which autocast on CPUs does not know.
Optional convolution(const Tensor& x, const Tensor& weight, const Optional& bias,
                     const Convolution& s) {
  if (!is_plain(x) || x.dim() != weight.dim() || is_watched()) return std::nullopt;
  switch (x.dim() * 2 + s.transposed) {
    case 6: return at::conv1d(x, weight, bias, s.stride, s.padding, s.dilation, s.groups);
    case 8: return at::conv2d(x, weight, bias, s.stride, s.padding, s.dilation, s.groups);
    case 10: return at::conv3d(x, weight, bias, s.stride, s.padding, s.dilation, s.groups);
    case 7:
      return at::conv_transpose1d(x, weight, bias, s.stride, s.padding, s.output_padding, s.groups,
                                  s.dilation);
    case 9:
      return at::conv_transpose2d(x, weight, bias, s.stride, s.padding, s.output_padding, s.groups,
                                  s.dilation);
    case 11:
      return at::conv_transpose3d(x, weight, bias, s.stride, s.padding, s.output_padding, s.groups,
                                  s.dilation);
    default: return std::nullopt;
  }
}

}  // namespace fastgan::eager
