// What every CUDA op does around its kernels: read a tensor's layout and check arguments. Stable
// ABI only: no ATen.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "cuda/device/geometry.h"

namespace fastgan {
namespace cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The sizes and layout of x: (batch, channels, spatial...), channels-last or contiguous.
struct Shape {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t spatial;
  Layout layout;
};

inline bool is_channels_last(const Tensor& x) {
  std::int64_t expected = 1;
  const auto follows = [&](std::int64_t d) {
    const bool dense = x.size(d) <= 1 || x.stride(d) == expected;
    expected *= x.size(d);
    return dense;
  };
  bool dense = follows(1);
  for (std::int64_t d = x.dim() - 1; d >= 2; --d) {
    dense = dense && follows(d);
  }
  return dense && follows(0);
}

inline Shape shape_of(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cuda(), name, ": expected a CUDA tensor");
  STD_TORCH_CHECK(x.dim() >= 2 && x.dim() <= 5, name,
                  ": expected (N, C) and 0 to 3 spatial dimensions, got ", x.dim(), " dimensions");
  Shape shape{x.size(0), x.size(1), 1, Layout::kChannelsLast};
  for (std::int64_t d = 2; d < x.dim(); ++d) {
    shape.spatial *= x.size(d);
  }
  // With one position a sample the layouts are one, and channels lie side by side.
  if (x.is_contiguous()) {
    shape.layout = shape.spatial == 1 ? Layout::kChannelsLast : Layout::kContiguous;
  } else {
    STD_TORCH_CHECK(is_channels_last(x), name,
                    ": expected dense memory, contiguous or channels-last");
  }
  return shape;
}

// A second tensor that has to lie as `x` does.
inline void check_like(const Tensor& other, const char* name, const Tensor& x, const Shape& shape) {
  const Shape found = shape_of(other, name);
  STD_TORCH_CHECK(other.dim() == x.dim() && other.scalar_type() == x.scalar_type() &&
                      other.get_device_index() == x.get_device_index(),
                  name, ": expected the dimensions, dtype and device of x");
  for (std::int64_t d = 0; d < x.dim(); ++d) {
    STD_TORCH_CHECK(other.size(d) == x.size(d), name, ": expected size ", x.size(d),
                    " in dimension ", d, " as in x, got ", other.size(d));
  }
  STD_TORCH_CHECK(found.layout == shape.layout || x.numel() == 0, name,
                  ": expected the memory layout of x");
}

// A float32 vector of parameters or statistics on x's device.
inline const float* float_data(const Tensor& t, const char* name, std::int64_t numel,
                               const Tensor& x) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name, ": expected float32, got ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.numel() == numel, name, ": expected ", numel, " elements, got ", t.numel());
  STD_TORCH_CHECK(t.is_contiguous(), name, ": expected contiguous memory");
  STD_TORCH_CHECK(t.is_cuda() && t.get_device_index() == x.get_device_index(), name,
                  ": expected the device of x");
  return static_cast<const float*>(t.const_data_ptr());
}

inline const float* float_data(const OptionalTensor& t, const char* name, std::int64_t numel,
                               const Tensor& x) {
  return t.has_value() ? float_data(*t, name, numel, x) : nullptr;
}

inline Tensor new_floats(const Tensor& x, std::initializer_list<std::int64_t> sizes) {
  return torch::stable::new_empty(
      x, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), ScalarType::Float);
}

inline float* float_out(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

template <typename T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// The result that was not asked for.
inline Tensor no_elements(const Tensor& x) {
  const std::int64_t size = 0;
  return torch::stable::new_empty(x, torch::headeronly::IntHeaderOnlyArrayRef(&size, 1));
}

inline void check_segments(const Shape& shape, std::int64_t segments) {
  STD_TORCH_CHECK(segments >= 1 && shape.batch % segments == 0,
                  "segments: expected a divisor of the batch size ", shape.batch, ", got ",
                  segments);
}

inline Geometry geometry_of(const Shape& shape, int vector, std::int64_t segments) {
  return make_geometry(shape.layout, vector, segments, shape.batch, shape.channels, shape.spatial);
}

inline Act make_act(std::int64_t activation, double slope, bool first) {
  STD_TORCH_CHECK(activation >= kLeakyRelu && activation <= kSigmoid,
                  "activation: expected 0 (leaky_relu), 1 (tanh) or 2 (sigmoid), got ", activation);
  return {int(activation), first, float(slope)};
}

template <typename T_>
struct Type {
  using T = T_;
};

// f(Type<T>) for the storage type of `x`.
template <typename F>
void for_dtype(const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return f(Type<float>());
    case ScalarType::BFloat16: return f(Type<Bf16>());
    case ScalarType::Half: return f(Type<Fp16>());
    case ScalarType::Double:
      STD_TORCH_CHECK(false, "x: float64 runs on the reference and cpu backends, not on cuda");
    default:
      STD_TORCH_CHECK(false, "x: expected float32, bfloat16 or float16, got ",
                      torch::headeronly::toString(x.scalar_type()));
  }
}

template <int V_, Layout L_>
struct Kind {
  static constexpr int V = V_;
  static constexpr Layout L = L_;
};

inline bool aligned(const Tensor& t) {
  return reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % 16 == 0;
}

// f(Kind<V, L>): 16-byte packs where the inner extent divides into them and every base is aligned,
// single elements otherwise.
template <typename T, typename F>
void for_kind(const Shape& shape, bool all_aligned, const F& f) {
  constexpr int wide = kWide<T>;
  if (shape.layout == Layout::kChannelsLast) {
    if (all_aligned && shape.channels % wide == 0) {
      return f(Kind<wide, Layout::kChannelsLast>());
    }
    return f(Kind<1, Layout::kChannelsLast>());
  }
  if (all_aligned && shape.spatial % wide == 0) {
    return f(Kind<wide, Layout::kContiguous>());
  }
  return f(Kind<1, Layout::kContiguous>());
}

}  // namespace cuda
}  // namespace fastgan
