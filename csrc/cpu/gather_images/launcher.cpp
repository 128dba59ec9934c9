// gather_images on the CPU: a batch of a uint8 data set, flipped, normalised and cast in one pass.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/gather_images/kernel.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

void check(const Tensor& images, const Tensor& index, const std::optional<Tensor>& flips,
           ScalarType dtype) {
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.dim() == 4 &&
                      images.is_contiguous(),
                  "images: expected contiguous uint8 of (N, H, W, C)");
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 1 &&
                      index.is_contiguous(),
                  "index: expected contiguous int64 of (B,)");
  STD_TORCH_CHECK(!flips || (flips->scalar_type() == ScalarType::Bool && flips->dim() == 1 &&
                             flips->is_contiguous() && flips->size(0) == index.size(0)),
                  "flips: expected contiguous bool of the index's shape");
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 ||
                      dtype == ScalarType::Half,
                  "dtype: expected float32, bfloat16 or float16");
}

Tensor gather_images(Tensor images, Tensor index, std::optional<Tensor> flips, ScalarType dtype) {
  check(images, index, flips, dtype);
  const int64_t count = images.size(0), batch = index.size(0);
  const int64_t height = images.size(1), width = images.size(2), channels = images.size(3);
  Tensor out = torch::stable::new_empty(images, {batch, height, width, channels}, dtype);
  const int64_t* chosen = static_cast<const int64_t*>(index.data_ptr());
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(chosen[b] >= 0 && chosen[b] < count, "index: expected 0 to ", count - 1,
                    ", got ", chosen[b]);
  }
  const int64_t row = width * channels;
  if (batch * height * row == 0) return out;
  const bool* mirrored = flips ? static_cast<const bool*>(flips->data_ptr()) : nullptr;
  const uint8_t* source = static_cast<const uint8_t*>(images.data_ptr());
  const Dtype kind = dtype_of(out);
  const int64_t bytes = kind == Dtype::kFloat32 ? 4 : 2;
  uint8_t* target = static_cast<uint8_t*>(out.data_ptr());
  torch::stable::parallel_for(0, batch * height, grain(row), [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> scratch(mirrored ? row : 0);
    while (begin < end) {
      const int64_t b = begin / height, y = begin % height;
      const int64_t rows = std::min(height - y, end - begin);
      gather_kernels().scale({kind, source + (chosen[b] * height + y) * row,
                              target + begin * row * bytes, rows, width, channels,
                              mirrored && mirrored[b], scratch.data()});
      begin += rows;
    }
  });
  return out;
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("gather_images.kernel", TORCH_BOX(&fastgan::gather_images));
}
