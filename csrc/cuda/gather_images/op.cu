// gather_images: the op's CUDA key. The kernel and its launch: cuda/gather_images/kernel.h.
#include "cuda/device/launcher.cuh"
#include "cuda/gather_images/kernel.h"

namespace fastgan {
namespace cuda {

static void check(const Tensor& images, const Tensor& index, const OptionalTensor& flips) {
  const auto on_device = [&](const Tensor& t) {
    return t.is_cuda() && t.get_device_index() == images.get_device_index() && t.is_contiguous();
  };
  STD_TORCH_CHECK(images.is_cuda() && images.scalar_type() == ScalarType::Byte &&
                      images.dim() == 4 && images.is_contiguous(),
                  "images: expected a contiguous CUDA tensor of uint8 (N, H, W, C)");
  STD_TORCH_CHECK(images.size(1) * images.size(2) * images.size(3) <
                      std::numeric_limits<std::int32_t>::max(),
                  "images: expected fewer than 2^31 values each");
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 1 && on_device(index),
                  "index: expected contiguous int64 of (B,) on images' device");
  STD_TORCH_CHECK(!flips || (flips->scalar_type() == ScalarType::Bool && flips->dim() == 1 &&
                             flips->size(0) == index.size(0) && on_device(*flips)),
                  "flips: expected contiguous bool of the index's shape and device");
}

static Tensor gather_images(Tensor images, Tensor index, OptionalTensor flips, ScalarType dtype) {
  check(images, index, flips);
  Launcher launcher(images);
  const std::int64_t batch = index.size(0);
  const std::int64_t height = images.size(1), width = images.size(2), channels = images.size(3);
  Tensor out = torch::stable::new_empty(images, {batch, height, width, channels}, dtype);
  for_dtype(out, [&](auto type) {
    using T = typename decltype(type)::T;
    if (out.numel() == 0) {
      return;
    }
    const auto launch = [&](auto pack) {
      run_gather<T, decltype(pack)::value>(launcher, images.size(0), batch, height, width, channels,
                                           in<std::uint8_t>(images), in<std::int64_t>(index),
                                           flips ? in<bool>(*flips) : nullptr,
                                           fastgan::cuda::out<T>(out));
    };
    if (height * width * channels % kWide<T> == 0) {
      launch(std::integral_constant<int, kWide<T>>());
    } else {
      launch(std::integral_constant<int, 1>());
    }
  });
  return out;
}

}  // namespace cuda
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("gather_images.kernel", TORCH_BOX(&fastgan::cuda::gather_images));
}
